#!/usr/bin/env bash
# Runs the native kernels under AddressSanitizer and UBSan:
#   tools/sanitize.sh [BUILD_DIR] [-- PYTEST ARGUMENTS]
#
# Builds fastseg._C with -DFASTSEG_SANITIZE=address,undefined beside a copy of the package in BUILD_DIR (default: a
# temporary folder; keep one to build faster the next time) and runs the op tests that touch memory:
# every op x native level x dtype x sample, the derivatives, the thread counts, and the fuzz tests.
# Then, unless tests were named, the kernels with 64-byte vectors and the CUDA kernels on the CPU.
# Stops at the first finding with a report and a non-zero exit code.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
build=
if [[ $# -gt 0 && $1 != -- ]]; then build=$1; shift; fi
if [[ ${1:-} == -- ]]; then shift; fi
if [[ -z $build ]]; then build=$(mktemp -d); trap 'rm -rf "$build"' EXIT; fi
mkdir -p "$build"
build=$(cd "$build" && pwd)

echo "sanitize: building in $build"
rm -rf "$build/fastseg"
cp -r "$root/fastseg" "$build/fastseg"
rm -f "$build"/fastseg/_C*.so
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/fastseg/_version.py")
cmake -G Ninja -S "$root" -B "$build/cmake" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$build/fastseg" -DPython_EXECUTABLE="$(command -v python)" \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" -DFASTSEG_VERSION="$version" \
  -DFASTSEG_CUDA=OFF -DFASTSEG_SANITIZE=address,undefined >"$build/cmake.log"
cmake --build "$build/cmake" >>"$build/cmake.log" || { tail -40 "$build/cmake.log"; exit 1; }

# The runtime must be loaded before Python's own malloc is used. libstdc++ beside it: otherwise the
# sanitizer does not find the function that throws C++ exceptions. Leaks are Python's, not ours.
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$build/cmake/CMakeCache.txt")
preload="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)"
tests=("$root/tests/ops" -k "accurate or bits or expanded or gradcheck or fuzz or bilinear.py")
if [[ $# -gt 0 ]]; then tests=("$@"); named=1; fi
export PYTHONPATH=$build
cd "$build" # so that this copy of the package is imported
sanitized() {
  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1 LD_PRELOAD="$preload" "$@"
}
sanitized python -c 'import fastseg._native as n; print("sanitize: testing", n._C.__file__)'
sanitized python -m pytest -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider -x -q \
  -m "not slow and not gpu" "${tests[@]}"
if [[ -z ${named:-} ]]; then
  cd "$root"
  # Fibers change stacks in ways that the check for use after return does not follow; a report ends
  # the process, and pytest would take captured output with it.
  PYTHONPATH=$root FASTSEG_SANITIZE=address,undefined sanitized python -m pytest -q -x \
    -p no:cacheprovider --capture=no tests/native/test_wide_vectors.py tests/native/test_cuda_emulation.py
fi
echo "sanitize: nothing found"
