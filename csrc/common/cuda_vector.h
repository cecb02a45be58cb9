// Storage types on the device: conversion to and from the compute type, 16-byte accesses.
#pragma once

#include <cstring>

#include "common/cuda_launch.h"
#include "common/dtype.h"
#include "common/label.h"

#ifndef FASTSEG_CUDA_ON_CPU
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace fastseg {

FASTSEG_DEVICE float to_compute(float v) { return v; }
FASTSEG_DEVICE double to_compute(double v) { return v; }
FASTSEG_DEVICE float to_compute(bfloat16_t v) {
  return __uint_as_float(static_cast<unsigned>(v.bits) << 16);
}
FASTSEG_DEVICE float to_compute(float16_t v) { return __half2float(__ushort_as_half(v.bits)); }

FASTSEG_DEVICE void from_compute(float v, float& out) { out = v; }
FASTSEG_DEVICE void from_compute(double v, double& out) { out = v; }
FASTSEG_DEVICE void from_compute(float v, bfloat16_t& out) {
  out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v));
}
FASTSEG_DEVICE void from_compute(float v, float16_t& out) {
  out.bits = __half_as_ushort(__float2half_rn(v));
}

// Reads memory that no thread of the launch writes, through the read-only path.
FASTSEG_DEVICE float load(const float* p) { return __ldg(p); }
FASTSEG_DEVICE double load(const double* p) { return __ldg(p); }
FASTSEG_DEVICE bfloat16_t load(const bfloat16_t* p) {
  return {__ldg(reinterpret_cast<const unsigned short*>(p))};
}
FASTSEG_DEVICE float16_t load(const float16_t* p) {
  return {__ldg(reinterpret_cast<const unsigned short*>(p))};
}

// A label of any type; `type` is the same for all threads.
FASTSEG_DEVICE std::int64_t load_label(const void* labels, LabelType type, std::int64_t index) {
  if (type == LabelType::uint8) return __ldg(static_cast<const std::uint8_t*>(labels) + index);
  if (type == LabelType::int32) return __ldg(static_cast<const int*>(labels) + index);
  return __ldg(static_cast<const long long*>(labels) + index);
}

// 16 bytes of neighbours: one load or store instruction.
template <class Storage> inline constexpr int kPack = 16 / static_cast<int>(sizeof(Storage));
template <class Storage> struct alignas(16) Pack {
  Storage v[kPack<Storage>];
};

inline bool is_aligned_16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

template <class Storage> FASTSEG_DEVICE Pack<Storage> load_pack(const Storage* p) {
#ifdef FASTSEG_CUDA_ON_CPU
  cuda_on_cpu::require_aligned(p, 16);
#endif
  const uint4 bits = __ldg(reinterpret_cast<const uint4*>(p));
  Pack<Storage> pack;
  memcpy(&pack, &bits, 16);
  return pack;
}
template <class Storage> FASTSEG_DEVICE void store_pack(Storage* p, const Pack<Storage>& pack) {
#ifdef FASTSEG_CUDA_ON_CPU
  cuda_on_cpu::require_aligned(p, 16);
#endif
  uint4 bits;
  memcpy(&bits, &pack, 16);
  *reinterpret_cast<uint4*>(p) = bits;
}

} // namespace fastseg
