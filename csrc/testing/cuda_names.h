// What .cu files call, under CUDA's names, on top of the emulation in cuda_on_cpu.h: built-in
// variables, barriers, warp operations, atomics, vector and half types.
// Shared variables have no name here: FASTSEG_SHARED and dynamic_shared of common/cuda_launch.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "testing/cuda_on_cpu.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (::fastseg::cuda_on_cpu::machine().current->thread)
#define blockIdx (::fastseg::cuda_on_cpu::machine().block_index)
#define blockDim (::fastseg::cuda_on_cpu::machine().block)
#define gridDim (::fastseg::cuda_on_cpu::machine().grid)
#define warpSize 32

#define FASTSEG_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FASTSEG_PLACE) { fastseg::cuda_on_cpu::sync_threads(false, file, line); }
inline int __syncthreads_or(int predicate, FASTSEG_PLACE) {
  return fastseg::cuda_on_cpu::sync_threads(predicate != 0, file, line) ? 1 : 0;
}
inline void __syncwarp(unsigned mask = 0xffffffff, FASTSEG_PLACE) {
  fastseg::cuda_on_cpu::exchange(mask, 0, file, line);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, FASTSEG_PLACE) {
  const int base = fastseg::cuda_on_cpu::lane_index() / width * width;
  return fastseg::cuda_on_cpu::shuffle(mask, value, base + source % width, width, file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, FASTSEG_PLACE) {
  const int source = fastseg::cuda_on_cpu::lane_index() + static_cast<int>(delta);
  return fastseg::cuda_on_cpu::shuffle(mask, value, source, width, file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, FASTSEG_PLACE) {
  const int source = fastseg::cuda_on_cpu::lane_index() - static_cast<int>(delta);
  return fastseg::cuda_on_cpu::shuffle(mask, value, source, width, file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, FASTSEG_PLACE) {
  const int source = fastseg::cuda_on_cpu::lane_index() ^ lanes;
  return fastseg::cuda_on_cpu::shuffle(mask, value, source, width, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, FASTSEG_PLACE) {
  const auto values = fastseg::cuda_on_cpu::exchange(mask, predicate != 0 ? 1 : 0, file, line);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= static_cast<unsigned>(values[i] == 1) << i;
  return votes & mask;
}
inline int __any_sync(unsigned mask, int predicate, FASTSEG_PLACE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, FASTSEG_PLACE) {
  return __ballot_sync(mask, predicate == 0, file, line) == 0;
}
#undef FASTSEG_PLACE

inline void __threadfence() {}
inline void __threadfence_block() {}

// Threads take turns, so plain reads and writes are atomic. Each returns the old value.
template <class T> T atomicAdd(T* p, T v) { return std::exchange(*p, static_cast<T>(*p + v)); }
template <class T> T atomicMax(T* p, T v) { return std::exchange(*p, std::max(*p, v)); }
template <class T> T atomicMin(T* p, T v) { return std::exchange(*p, std::min(*p, v)); }
template <class T> T atomicOr(T* p, T v) { return std::exchange(*p, static_cast<T>(*p | v)); }
template <class T> T atomicExch(T* p, T v) { return std::exchange(*p, v); }
template <class T> T atomicCAS(T* p, T expected, T v) {
  return std::exchange(*p, *p == expected ? v : *p);
}

namespace fastseg::cuda_on_cpu {
// The hardware's 2^x is off by up to 2^-22; here it is by as much, up or down as the bits fall.
inline float exp2_approx(float x) {
  if (std::fabs(x) < 0x1p-126f) return 1.0f; // exact there, says the PTX manual
  const double y = std::exp2(static_cast<double>(x));
  if (!(y >= 0x1p-126) || std::isinf(y)) return y < 1.0 ? 0.0f : static_cast<float>(y);
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const double error = (bits * 2654435761u >> 16) / 32768.0 - 1.0;
  return static_cast<float>(y * (1.0 + 0x1p-22 * error));
}
} // namespace fastseg::cuda_on_cpu

template <class T> T __ldg(const T* p) { return *p; }

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

using std::max;
using std::min;
inline int __popc(unsigned v) { return __builtin_popcount(v); }
// The upper word of high:low, shifted to the left.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  shift &= 31;
  return shift == 0 ? high : high << shift | low >> (32 - shift);
}
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }

inline float __uint_as_float(unsigned v) {
  float f;
  std::memcpy(&f, &v, 4);
  return f;
}
inline unsigned __float_as_uint(float f) {
  unsigned v;
  std::memcpy(&v, &f, 4);
  return v;
}

// Rounded products, which are not contracted (this build does not contract at all).
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }

struct __half {
  _Float16 v;
};
inline __half __ushort_as_half(unsigned short bits) {
  __half h;
  std::memcpy(&h, &bits, 2);
  return h;
}
inline unsigned short __half_as_ushort(__half h) {
  unsigned short bits;
  std::memcpy(&bits, &h, 2);
  return bits;
}
inline float __half2float(__half h) { return static_cast<float>(h.v); }
inline __half __float2half_rn(float f) { return {static_cast<_Float16>(f)}; }

struct __nv_bfloat16 {
  unsigned short bits;
};
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
  if (f != f) return {0x7fff}; // the NaN that the device's conversion gives
  const unsigned bits = __float_as_uint(f);
  return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
