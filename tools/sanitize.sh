#!/bin/bash
# Runs the CPU kernels (64-byte vectors) and the emulated CUDA kernels under AddressSanitizer and
# UndefinedBehaviorSanitizer: every read or write outside a tensor, every misaligned vector access.
#
#   tools/sanitize.sh [pytest arguments, e.g. -k upsample_bilinear]
set -euo pipefail
cd "$(dirname "$0")/.."
compiler=${CXX:-c++}
export FASTSEG_SANITIZE=address,undefined
# Python itself is not instrumented, so the run-time library comes first by preload. Leaks are
# Python's; fibers change stacks in ways that the check for use after return does not follow.
export LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:symbolize=1
export UBSAN_OPTIONS=print_stacktrace=1
# A report ends the process, and pytest would take captured output with it.
exec "${PYTHON:-python3}" -m pytest -q --capture=no tests/native/test_wide_vectors.py \
  tests/native/test_cuda_emulation.py "$@"
