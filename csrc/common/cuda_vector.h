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

// One value, or 4, 8 or 16 bytes of neighbours: one load or store instruction.
template <class Storage, int kItems> struct alignas(kItems * sizeof(Storage)) Items {
  Storage v[kItems];
};
template <int kItems, class Storage>
FASTSEG_DEVICE Items<Storage, kItems> load_items(const Storage* p) {
  constexpr int kBytes = kItems * static_cast<int>(sizeof(Storage));
  static_assert(kItems == 1 || kBytes == 4 || kBytes == 8 || kBytes == 16);
#ifdef FASTSEG_CUDA_ON_CPU
  cuda_on_cpu::require_aligned(p, kBytes);
  if (kBytes > 8) traffic::read_vector(p, kBytes);
#endif
  Items<Storage, kItems> items;
  if constexpr (kItems == 1) {
    items.v[0] = load(p);
  } else if constexpr (kBytes == 4) {
    const unsigned bits = __ldg(reinterpret_cast<const unsigned*>(p));
    memcpy(&items, &bits, kBytes);
  } else if constexpr (kBytes == 8) {
    const uint2 bits = __ldg(reinterpret_cast<const uint2*>(p));
    memcpy(&items, &bits, kBytes);
  } else {
    const uint4 bits = __ldg(reinterpret_cast<const uint4*>(p));
    memcpy(&items, &bits, kBytes);
  }
  return items;
}
template <int kItems, class Storage>
FASTSEG_DEVICE void store_items(Storage* p, const Items<Storage, kItems>& items) {
  constexpr int kBytes = kItems * static_cast<int>(sizeof(Storage));
  static_assert(kItems == 1 || kBytes == 4 || kBytes == 8 || kBytes == 16);
#ifdef FASTSEG_CUDA_ON_CPU
  cuda_on_cpu::require_aligned(p, kBytes);
  if (kBytes > 8) traffic::write_vector(p, kBytes);
#endif
  if constexpr (kItems == 1) {
    *p = items.v[0];
  } else if constexpr (kBytes == 4) {
    unsigned bits;
    memcpy(&bits, &items, kBytes);
    *reinterpret_cast<unsigned*>(p) = bits;
  } else if constexpr (kBytes == 8) {
    uint2 bits;
    memcpy(&bits, &items, kBytes);
    *reinterpret_cast<uint2*>(p) = bits;
  } else {
    uint4 bits;
    memcpy(&bits, &items, kBytes);
    *reinterpret_cast<uint4*>(p) = bits;
  }
}
// Rounds to the storage type.
template <int kItems, class Storage>
FASTSEG_DEVICE void store_items(Storage* p, const compute_t<Storage> (&values)[kItems]) {
  Items<Storage, kItems> items;
#pragma unroll
  for (int k = 0; k < kItems; ++k) from_compute(values[k], items.v[k]);
  store_items<kItems>(p, items);
}

// Neighbours as they were loaded, in whole registers, for loops that read ahead: nvcc takes Items
// of 16-bit values apart where they arrive, and so waits for them there.
template <class Storage, int kItems, bool kInWords = kItems * sizeof(Storage) % 4 == 0>
struct RawItems {
  unsigned words[kItems * sizeof(Storage) / 4];
  FASTSEG_DEVICE void read(const Storage* p) {
#ifndef FASTSEG_CUDA_ON_CPU
    if constexpr (sizeof words == 4 && kItems > 1) {
      words[0] = __ldg(reinterpret_cast<const unsigned*>(p));
      return;
    }
#endif
    const Items<Storage, kItems> items = load_items<kItems>(p);
    memcpy(words, &items, sizeof words);
  }
  FASTSEG_DEVICE compute_t<Storage> value(int k) const {
    if constexpr (sizeof(Storage) == 8) {
      double v;
      memcpy(&v, words + 2 * k, 8);
      return v;
    } else if constexpr (sizeof(Storage) == 4) {
      return __uint_as_float(words[k]);
    } else {
      const unsigned word = words[k / 2];
      return to_compute(Storage{static_cast<std::uint16_t>(k % 2 != 0 ? word >> 16 : word)});
    }
  }
};
template <class Storage, int kItems> struct RawItems<Storage, kItems, false> {
  Items<Storage, kItems> items;
  FASTSEG_DEVICE void read(const Storage* p) { items = load_items<kItems>(p); }
  FASTSEG_DEVICE compute_t<Storage> value(int k) const { return to_compute(items.v[k]); }
};

// The widest: 16 bytes.
template <class Storage> inline constexpr int kPack = 16 / static_cast<int>(sizeof(Storage));
template <class Storage> using Pack = Items<Storage, kPack<Storage>>;
template <class Storage> FASTSEG_DEVICE Pack<Storage> load_pack(const Storage* p) {
  return load_items<kPack<Storage>>(p);
}

// The same value, from a source that the compiler cannot see: it keeps it in a register.
// To a pointer into global memory it then adds an offset of 32 bits in one instruction, where it
// would add up offsets in 64 bits first.
template <class T> FASTSEG_DEVICE T* kept_whole(T* p) {
#ifndef FASTSEG_CUDA_ON_CPU
  asm("" : "+l"(p));
  __builtin_assume(__isGlobal(p));
#endif
  return p;
}
FASTSEG_DEVICE int kept_whole(int i) {
#ifndef FASTSEG_CUDA_ON_CPU
  asm("" : "+r"(i));
#endif
  return i;
}

// Asks for the cache line of `p`, which may be read later, without waiting for it.
FASTSEG_DEVICE void prefetch_l2(const void* p) {
#ifdef FASTSEG_CUDA_ON_CPU
  (void)*static_cast<const volatile unsigned char*>(p); // for AddressSanitizer
#else
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

inline bool is_aligned(const void* p, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
}
inline bool is_aligned_16(const void* p) { return is_aligned(p, 16); }

} // namespace fastseg
