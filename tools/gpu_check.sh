#!/bin/bash
# Three calls of at most five minutes each that say what this machine's GPU makes of the kernels.
# Needs no network, only what is installed.
#
#   tools/gpu_check.sh 1 [FOLDER]    build; the times of all ops, those with targets first
#   tools/gpu_check.sh 2 [FOLDER]    build; the tests that need a GPU
#   tools/gpu_check.sh 3 [FOLDER]    build; compute-sanitizer, inputs of more than 2^31 elements, and
#                                    Triton's dense convolution beside cuDNN's
#
# Results and logs lie in FOLDER (default: $OUT, else benchmarks/results), at most 8 files of all
# calls; what a part that ran out of time has found until then is kept. Building again takes seconds.
# The exit code is that of the first part that failed, after all have run. PYTHON=<interpreter>.
# STAND_IN=1 goes through the same on a machine without a GPU: small workloads on the CPU, and the
# tests are collected and skipped. What each call answers: benchmarks/NOTES.md.
set -uo pipefail
cd "$(dirname "$0")/.."
call=${1:-}
folder=${2:-${OUT:-benchmarks/results}}
[[ $call == [123] ]] || { sed -n '2,18p' "$0" | sed 's/^# \?//' >&2; exit 2; }
mkdir -p "$folder" || exit 2
folder=$(cd "$folder" && pwd)
python=${PYTHON:-python3}
stand_in=${STAND_IN:-}
log=$folder/call$call.log
: >"$log"
status=0
summary=()

# run NAME SECONDS COMMAND...: one part; its last line goes into the summary.
run() {
  local name=$1 limit=$(($2 * patience)) code started=$SECONDS
  shift 2
  echo "== $name" >>"$log"
  # Interrupted, pytest still reports its failures.
  timeout -s INT -k 8 "$limit" "$@" 2>&1 | tee -a "$log"
  code=${PIPESTATUS[0]}
  [ "$code" = 5 ] && code=0 # pytest: no tests matched
  [ "$code" = 124 ] || [ "$code" = 137 ] && echo "stopped after $limit s" >>"$log"
  [ "$code" = 0 ] || [ "$status" != 0 ] || status=$code
  summary+=("$(printf '%-9s exit %-3s %4d s  %s' "$name" "$code" $((SECONDS - started)) "$(tail -n 1 "$log")")")
  return "$code"
}
skip() { summary+=("$(printf '%-9s skipped: %s' "$1" "$2")"); }
finish() {
  printf '%s\n' "" "${summary[@]}" "results: $folder" | tee -a "$log"
  exit "$status"
}

# Limits are for a machine with 16 cores.
device=cuda patience=1
if [ -n "$stand_in" ]; then
  device=cpu patience=10
else
  $python tools/gpu_ceilings.py --device || exit 1
fi
# This GPU's machine code alone, and one instruction set of the CPU.
architecture=$($python -c 'import torch
print("%d%d" % torch.cuda.get_device_capability() if torch.cuda.is_available() else "90")')
export FASTSEG_CUDA_ARCHITECTURES=${FASTSEG_CUDA_ARCHITECTURES:-$architecture}
export FASTSEG_CPU_DISPATCH=${FASTSEG_CPU_DISPATCH:-OFF} FASTSEG_CUDA=${FASTSEG_CUDA:-ON}
# An older build must not be measured in its place.
run build 140 $python setup.py -q build_ext --inplace || finish
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
large=more_than_2_to_the_31 # in the names of tests that fill the GPU: one at a time

case $call in
1)
  run rows 150 $python tools/gpu_rows.py "$folder/rows.json" --device "$device" --stop-after 140
  [ -s "$folder/rows.json" ] &&
    run picture 30 $python -m fastseg bench report "$folder/rows.json" --png "$folder/rows.png"
  ;;
2)
  gpu_tests=$(grep -rl --include='test_*.py' 'pytest.mark.gpu' tests)
  [ -z "$stand_in" ] || gpu_tests=tests/gpu/test_dilated_conv2d_gpu.py
  # Several processes: most of the time is Triton's and inductor's compiling.
  $python -c 'import xdist' 2>/dev/null && spread=(-n 6 --dist worksteal) || spread=()
  run test 150 $python -m pytest -q -m gpu "${spread[@]}" -k "not $large" -p no:cacheprovider \
    $gpu_tests
  ;;
3)
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  for tool in memcheck racecheck; do
    if [ -n "$stand_in" ]; then
      skip $tool "no GPU"
    elif [ -x "$sanitizer" ]; then
      # Our kernels alone; every tensor in an allocation of its own, so that memcheck sees its end.
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 run $tool 35 "$sanitizer" --tool $tool --error-exitcode 1 \
        --kernel-name kns=fastseg $python tools/gpu_sanitize.py
    else
      skip $tool "compute-sanitizer is not installed"
    fi
  done
  run large 30 $python -m pytest -q -m gpu -k "$large" -p no:cacheprovider tests/gpu
  run dense 55 $python tools/measure_dense_conv.py --rows "$folder/dense.jsonl" --stop-after 48 \
    ${stand_in:+--stand-in}
  ;;
esac
finish
