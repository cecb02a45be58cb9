#!/bin/bash
# Builds, tests, sanitizes and benchmarks on a machine with a GPU; needs no network, only what is
# installed.
#
#   tools/gpu_check.sh [PARTS] [FILTER]
#
# PARTS: any of build,test,large,sanitize,bench with commas (default: all); large: inputs of more than
# 2^31 elements. FILTER: a pytest -k expression for the tests and the benchmarks; where it is a word of
# op names, it also picks the sanitized ops.
# RESULTS=<folder> instead of benchmarks/results; LOGS=<folder> for what each part printed (default: a
# temporary one); PYTHON=<interpreter>. Each part has a time limit; together they are 8 minutes. The
# exit code is that of the first part that failed, after all have run; what a part that ran out of time
# has found or measured until then is kept.
set -uo pipefail
cd "$(dirname "$0")/.."
parts=",${1:-build,test,large,sanitize,bench},"
filter=${2:-}
python=${PYTHON:-python3}
results=${RESULTS:-benchmarks/results}
log=${LOGS:-$(mktemp -d)}
mkdir -p "$log"
rm -f "$log/benchmarks.json" # an earlier run's
status=0
summary=()

known=,build,test,large,sanitize,bench,
for part in ${parts//,/ }; do
  [[ $known == *,$part,* ]] || { echo "unknown part '$part', allowed: build test large sanitize bench" >&2; exit 2; }
done
$python tools/gpu_ceilings.py --device || exit 1

# run NAME SECONDS COMMAND...: one part; its last line goes into the summary.
run() {
  local name=$1 limit=$2 code started=$SECONDS
  shift 2
  # Interrupted, pytest still reports its failures and writes its times.
  timeout -s INT -k 8 "$limit" "$@" 2>&1 | tee "$log/$name"
  code=${PIPESTATUS[0]}
  [ "$code" = 5 ] && code=0 # pytest: no tests matched
  [ "$code" = 124 ] || [ "$code" = 137 ] && echo "stopped after $limit s" >>"$log/$name"
  [ "$code" = 0 ] || [ "$status" != 0 ] || status=$code
  summary+=("$(printf '%-9s exit %-3s %4d s  %s' "$name" "$code" $((SECONDS - started)) "$(tail -n 1 "$log/$name")")")
}
skip() { summary+=("$(printf '%-9s skipped: %s' "$1" "$2")"); }

if [[ $parts == *,build,* ]]; then
  # This GPU's machine code alone: a third of the time of all architectures.
  : "${FASTSEG_CUDA_ARCHITECTURES:=$($python -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')}"
  export FASTSEG_CUDA_ARCHITECTURES
  FASTSEG_CUDA=ON run build 140 $python setup.py -q build_ext --inplace
  if [ "$status" != 0 ]; then # an older build must not be measured in its place
    for part in test large sanitize bench; do
      [[ $parts == *,$part,* ]] && skip $part "the build failed"
    done
    parts=,
  fi
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
gpu_tests=$(grep -rl --include='test_*.py' 'pytest.mark.gpu' tests)
large=more_than_2_to_the_31 # in the names of tests that fill the GPU: one at a time
if [[ $parts == *,test,* ]]; then
  # Several processes: most of the time is Triton's and inductor's compiling.
  $python -c 'import xdist' 2>/dev/null && spread=(-n 6 --dist worksteal) || spread=()
  run test 110 $python -m pytest -q -m gpu "${spread[@]}" -k "${filter:+($filter) and }not $large" \
    $gpu_tests
fi
if [[ $parts == *,large,* ]]; then
  run large 40 $python -m pytest -q -m gpu -k "${filter:+($filter) and }$large" tests/gpu
fi
if [[ $parts == *,sanitize,* ]]; then
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  for tool in memcheck racecheck; do
    if [ -x "$sanitizer" ]; then
      # Every tensor in an allocation of its own, so that memcheck sees where it ends.
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 run $tool 40 "$sanitizer" --tool $tool --error-exitcode 1 \
        $python tools/gpu_sanitize.py ${filter:+"$filter"}
    else
      skip $tool "compute-sanitizer is not installed"
    fi
  done
fi
if [[ $parts == *,bench,* ]]; then
  # Without torch.compile among the peers: its compilations alone take longer than this part may.
  run bench 90 $python -m pytest -q benchmarks --benchmark-only --no-compile --stop-after 68 \
    --benchmark-json="$log/benchmarks.json" ${filter:+-k "$filter"}
fi
[ "$parts" = , ] || run report 20 $python tools/gpu_ceilings.py --results "$results" --benchmarks "$log/benchmarks.json"

printf '%s\n' "" "${summary[@]}" "logs: $log"
exit "$status"
