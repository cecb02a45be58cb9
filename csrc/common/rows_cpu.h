// Rows of numbers in compute precision: conversion from and to storage, blending, streaming.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>

#include "common/simd_cpu.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

// Outputs beyond this size do not fit in the last-level cache together with their source, so they
// are written past it.
inline constexpr std::int64_t kStreamBytes = std::int64_t{8} << 20;

// dst[i] = a[i] * w_a + b[i] * w_b
template <class Storage, class T = compute_t<Storage>>
inline void blend_rows(T* dst, const Storage* a, const Storage* b, T w_a, T w_b, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>)
    store_vec(dst + i, load(a + i) * w_a + load(b + i) * w_b);
  if (i < n && n >= kLanes<T>) { // the last vector overlaps the one before it
    i = n - kLanes<T>;
    store_vec(dst + i, load(a + i) * w_a + load(b + i) * w_b);
    return;
  }
  for (; i < n; ++i) dst[i] = to_compute(a[i]) * w_a + to_compute(b[i]) * w_b;
}

// dst[i] += src[i] * w
template <class Storage, class T = compute_t<Storage>>
inline void add_scaled_row(T* dst, const Storage* src, T w, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>)
    store_vec(dst + i, load_vec(dst + i) + load(src + i) * w);
  for (; i < n; ++i) dst[i] += to_compute(src[i]) * w;
}

template <class T> inline void zero_row(T* dst, std::int64_t n) { std::fill(dst, dst + n, T(0)); }

// dst[i] = src[i * step]
template <class Storage, class T = compute_t<Storage>>
inline void read_line(T* dst, const Storage* src, std::int64_t step, std::int64_t n) {
  std::int64_t i = 0;
  if (step == 1)
    for (; i + kLanes<T> <= n; i += kLanes<T>) store_vec(dst + i, load(src + i));
  for (; i < n; ++i) dst[i] = to_compute(src[i * step]);
}

namespace detail {
// Writes n values: vector(i) from i on, scalar(i) at i. `stream` skips the cache.
template <class Storage, class Vector, class Scalar>
inline void write_values(Storage* dst, std::int64_t n, bool stream, const Vector& vector,
                         const Scalar& scalar) {
  using T = compute_t<Storage>;
  std::int64_t i = 0;
  if (stream) {
    constexpr std::uintptr_t mask = sizeof(Storage) * kLanes<T> - 1;
    for (; i < n && (reinterpret_cast<std::uintptr_t>(dst + i) & mask) != 0; ++i)
      dst[i] = from_compute<Storage>(scalar(i));
    for (; i + kLanes<T> <= n; i += kLanes<T>) store_stream(dst + i, vector(i));
  } else {
    for (; i + kLanes<T> <= n; i += kLanes<T>) store(dst + i, vector(i));
  }
  for (; i < n; ++i) dst[i] = from_compute<Storage>(scalar(i));
}
} // namespace detail

// Writes a row in its storage type; `stream` skips the cache.
template <class Storage, class T = compute_t<Storage>>
inline void write_row(Storage* dst, const T* src, std::int64_t n, bool stream) {
  detail::write_values(
      dst, n, stream, [=](std::int64_t i) { return load_vec(src + i); },
      [=](std::int64_t i) { return src[i]; });
}

// The same for a[i] * w_a + b[i] * w_b.
template <class Storage, class T = compute_t<Storage>>
inline void write_blend(Storage* dst, const T* a, const T* b, T w_a, T w_b, std::int64_t n,
                        bool stream) {
  detail::write_values(
      dst, n, stream, [=](std::int64_t i) { return load_vec(a + i) * w_a + load_vec(b + i) * w_b; },
      [=](std::int64_t i) { return a[i] * w_a + b[i] * w_b; });
}

} // namespace fastseg::FASTSEG_CPU_LEVEL
