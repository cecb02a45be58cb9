#!/usr/bin/env bash
# Compiles the CPU kernels for other platforms and compares what they compute: for aarch64 Linux,
# run in an emulator, and for macOS on Apple silicon, compiled only; every warning is an error.
#
#   tools/other_platforms.sh
#
# Needs the compiler that `pip install ziglang` brings, and qemu-aarch64 or qemu-aarch64-static for
# the comparison (QEMU names another one). What is missing is skipped, and said. Both programs are
# compiled without contraction of a * b + c, which changes last bits: with it, aarch64 differs from
# the x86-64 baseline as AVX2 does.
set -uo pipefail
cd "$(dirname "$0")/.."

zig=${ZIG:-python -m ziglang}
if ! $zig version > /dev/null 2>&1; then
  echo "skipped: no zig (pip install ziglang)"
  exit 0
fi
emulator=${QEMU:-$(command -v qemu-aarch64 || command -v qemu-aarch64-static)}
# An aarch64 machine needs no emulator.
[ "$(uname -m)" = aarch64 ] && emulator=env

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
flags=(-std=c++17 -O2 -ffp-contract=off -fno-math-errno -fno-trapping-math -Icsrc -Wall -Wextra
  -Werror -Wno-psabi -DFASTSEG_CPU_LEVEL=baseline -DFASTSEG_X86=0)
sources=(csrc/*/*_cpu.cpp csrc/common/*.cpp csrc/testing/kernel_digests.cpp)

build() { # target, folder, options: the objects of all sources, in as many processes as cores
  mkdir -p "$scratch/$2"
  printf '%s\n' "${sources[@]}" | xargs -P "$(getconf _NPROCESSORS_ONLN)" -I{} sh -c \
    "$zig c++ -target $1 ${flags[*]} ${3:-} -c {} -o $scratch/$2/\$(basename {} .cpp).o"
}

link() { # target, folder
  $zig c++ -target "$1" "$scratch/$2"/*.o -o "$scratch/$2/digests"
}

failed=0
echo "aarch64-macos: compile"
build aarch64-macos macos -O0 || failed=1 # nothing runs there: warnings are all that is asked for

echo "aarch64-linux: compile"
build aarch64-linux-musl arm && link aarch64-linux-musl arm || exit 1
if [ -z "$emulator" ]; then
  echo "skipped: no qemu-aarch64 to run it with; nothing compared"
  exit "$failed"
fi
echo "x86_64-linux: compile"
build x86_64-linux-musl x86 && link x86_64-linux-musl x86 || exit 1
if [ "$(uname -m)" = x86_64 ]; then
  "$scratch/x86/digests" > "$scratch/x86.txt" || exit 1
else
  echo "skipped: this is no x86-64 machine to compare with"
  exit "$failed"
fi
"$emulator" "$scratch/arm/digests" > "$scratch/arm.txt" || exit 1
count=$(wc -l < "$scratch/x86.txt")
if [ "$count" -lt 100 ] || ! diff "$scratch/x86.txt" "$scratch/arm.txt"; then
  echo "aarch64 computes other bits than x86-64 (of $count results)"
  exit 1
fi
echo "aarch64 computes the same bits as x86-64: $count results"
exit "$failed"
