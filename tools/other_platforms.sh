#!/usr/bin/env bash
# Compiles the CPU kernels for other platforms, with every warning an error, and compares what they
# compute: for aarch64 Linux, run in an emulator; for macOS on Apple silicon and for Windows,
# compiled only.
#
#   tools/other_platforms.sh
#
# Needs the compiler that `pip install ziglang` brings (ZIG names another one), a C++ compiler for
# this machine (CXX), and qemu-aarch64 or qemu-aarch64-static for the comparison (QEMU). Exits with
# 77 where it has nothing to compare for want of one of them, and says so. Both programs are compiled
# without contraction of a * b + c, which changes last bits, and bring their own exp and log of
# doubles, which are the C library's elsewhere.
set -uo pipefail
cd "$(dirname "$0")/.."

if [ -n "${ZIG:-}" ]; then
  zig=$ZIG
elif ! zig=$(python3 -c 'import ziglang, pathlib; print(pathlib.Path(ziglang.__file__).parent / "zig")' \
  2> /dev/null); then
  echo "skipped: no zig to compile for other platforms with (pip install ziglang)"
  exit 77
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
flags="-std=c++17 -ffp-contract=off -fno-math-errno -fno-trapping-math -Icsrc -Wall -Wextra -Werror
  -Wno-psabi -DFASTSEG_CPU_LEVEL=baseline -DFASTSEG_X86=0"
kernels=(csrc/*/*_cpu.cpp csrc/common/*.cpp)
program=(csrc/testing/kernel_digests.cpp csrc/testing/portable_libm.cpp)

build() { # folder, command, sources: their objects, in as many processes as cores
  local folder=$scratch/$1 command=$2
  shift 2
  mkdir -p "$folder"
  printf '%s\n' "$@" | xargs -P "$(getconf _NPROCESSORS_ONLN)" -I{} sh -c \
    "$command $(echo $flags) -c {} -o $folder/\$(basename {} .cpp).o"
}

failed=0
# Nothing runs there: warnings are all that is asked for.
echo "aarch64-macos: compile"
build macos "$zig c++ -target aarch64-macos -O0" "${kernels[@]}" || failed=1
echo "x86_64-windows: compile what asks the operating system for memory or threads"
build windows "$zig c++ -target x86_64-windows-gnu -O0" csrc/common/*.cpp || failed=1

echo "aarch64-linux: compile"
target="-target aarch64-linux-musl"
build arm "$zig c++ $target -O2" "${kernels[@]}" "${program[@]}" &&
  $zig c++ $target "$scratch"/arm/*.o -o "$scratch/arm/digests" 2> "$scratch/link.txt" ||
  { cat "$scratch/link.txt"; exit 1; }

emulator=${QEMU:-$(command -v qemu-aarch64 || command -v qemu-aarch64-static)}
[ "$(uname -m)" = aarch64 ] && emulator=env # needs no emulator
if [ -z "$emulator" ]; then
  echo "skipped: no qemu-aarch64 to run it with; nothing compared"
  exit $((failed == 0 ? 77 : 1))
fi
# GCC 12 warns of vectors that are filled lane by lane, as it does in cmake/cpu_levels.cmake.
echo "$(uname -m): compile with ${CXX:-c++}"
build here "${CXX:-c++} -O1 -Wno-uninitialized -Wno-maybe-uninitialized" "${kernels[@]}" "${program[@]}" &&
  ${CXX:-c++} "$scratch"/here/*.o -o "$scratch/here/digests" || exit 1

"$scratch/here/digests" > "$scratch/here.txt" || { cat "$scratch/here.txt"; exit 1; }
"$emulator" "$scratch/arm/digests" > "$scratch/arm.txt" || { cat "$scratch/arm.txt"; exit 1; }
count=$(wc -l < "$scratch/here.txt")
if [ "$count" -lt 100 ] || ! diff "$scratch/here.txt" "$scratch/arm.txt"; then
  echo "aarch64 computes other bits than $(uname -m) (of $count results)"
  exit 1
fi
echo "aarch64 computes the same bits as $(uname -m): $count results"
exit "$failed"
