// Vectors of the width that this translation unit is compiled for (GCC/Clang vector extensions).
// Included only by *_cpu.cpp files; lives in the level's namespace.
//
// vec<float> and vec<double> take + - * / and comparisons, and `mask ? a : b` selects lanes.
// FASTSEG_SIMD_BYTES overrides the width: the native tests run the AVX-512 shape of every kernel on
// machines without it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/dtype.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef FASTSEG_SIMD_BYTES
#if defined(__AVX512F__)
#define FASTSEG_SIMD_BYTES 64
#elif defined(__AVX2__)
#define FASTSEG_SIMD_BYTES 32
#else
#define FASTSEG_SIMD_BYTES 16
#endif
#endif

namespace fastseg::FASTSEG_CPU_LEVEL {

inline constexpr int kSimdBytes = FASTSEG_SIMD_BYTES;

template <class T> struct VecTypes;
template <> struct VecTypes<float> {
  typedef float vec __attribute__((vector_size(kSimdBytes)));
  typedef std::int32_t ivec __attribute__((vector_size(kSimdBytes)));
  typedef std::int64_t wide __attribute__((vector_size(kSimdBytes * 2)));
};
template <> struct VecTypes<double> {
  typedef double vec __attribute__((vector_size(kSimdBytes)));
  typedef std::int64_t ivec __attribute__((vector_size(kSimdBytes)));
  typedef std::int64_t wide __attribute__((vector_size(kSimdBytes)));
};
template <class T> using vec = typename VecTypes<T>::vec;
// Integers of the same lane size: masks, permutation indices, labels.
template <class T> using ivec = typename VecTypes<T>::ivec;
// As many 64-bit integers as vec<T> has lanes.
template <class T> using wide_ivec = typename VecTypes<T>::wide;
template <class T>
using lane_int = std::conditional_t<std::is_same_v<T, double>, std::int64_t, std::int32_t>;
template <class T> inline constexpr int kLanes = kSimdBytes / static_cast<int>(sizeof(T));

typedef std::uint16_t half_bits __attribute__((vector_size(kSimdBytes / 2)));
typedef std::uint32_t word_bits __attribute__((vector_size(kSimdBytes)));

template <class T> inline vec<T> splat(T value) { return vec<T>{} + value; }
template <class T> inline ivec<T> isplat(lane_int<T> value) { return ivec<T>{} + value; }

// Unaligned access to the compute type.
template <class T> inline vec<T> load_vec(const T* p) {
  vec<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <class T> inline void store_vec(T* p, vec<T> v) { std::memcpy(p, &v, sizeof(v)); }

inline float bits_to_float(std::uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
inline std::uint32_t float_to_bits(float f) {
  std::uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}

inline float to_compute(float v) { return v; }
inline double to_compute(double v) { return v; }
inline float to_compute(bfloat16_t v) {
  return bits_to_float(static_cast<std::uint32_t>(v.bits) << 16);
}
inline float to_compute(float16_t v) {
  const std::uint32_t sign = static_cast<std::uint32_t>(v.bits & 0x8000) << 16;
  const std::uint32_t rest = v.bits & 0x7fff;
  if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | ((rest & 0x3ff) << 13)); // inf, NaN
  // Multiplying by 2^112 rebiases the exponent and makes subnormals come out right.
  return bits_to_float(sign | float_to_bits(bits_to_float(rest << 13) * 0x1p112f));
}

template <class Storage> Storage from_compute(compute_t<Storage> v);
template <> inline float from_compute<float>(float v) { return v; }
template <> inline double from_compute<double>(double v) { return v; }
template <> inline bfloat16_t from_compute<bfloat16_t>(float v) {
  const std::uint32_t bits = float_to_bits(v);
  if (v != v) return {static_cast<std::uint16_t>(0x7fc0 | ((bits >> 16) & 0x8000))};
  return {static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <> inline float16_t from_compute<float16_t>(float v) {
  const std::uint32_t bits = float_to_bits(v);
  const std::uint32_t sign = (bits >> 16) & 0x8000;
  const std::uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {static_cast<std::uint16_t>(sign | 0x7e00)};  // NaN
  if (magnitude >= 0x477ff000) return {static_cast<std::uint16_t>(sign | 0x7c00)}; // to infinity
  if (magnitude < 0x38800000) { // subnormal: the addition rounds to a multiple of 2^-24
    const std::uint32_t shifted = float_to_bits(bits_to_float(magnitude) + 0.5f);
    return {static_cast<std::uint16_t>(sign | (shifted - 0x3f000000))};
  }
  const std::uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return {static_cast<std::uint16_t>(sign | ((rounded - 0x38000000) >> 13))};
}

inline vec<float> load(const float* p) { return load_vec(p); }
inline vec<double> load(const double* p) { return load_vec(p); }
inline vec<float> load(const bfloat16_t* p) {
  // One instruction, for which GCC 12 makes four out of __builtin_convertvector.
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
  const auto w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__) && FASTSEG_SIMD_BYTES == 32
  const auto w = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  half_bits h;
  std::memcpy(&h, p, sizeof(h));
  const auto w = __builtin_convertvector(h, word_bits);
#endif
  return reinterpret_cast<vec<float>>(reinterpret_cast<word_bits>(w) << 16);
}
inline vec<float> load(const float16_t* p) {
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__) && FASTSEG_SIMD_BYTES == 32
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__aarch64__) && FASTSEG_SIMD_BYTES == 16
  const uint16x4_t bits = vld1_u16(reinterpret_cast<const std::uint16_t*>(p));
  return reinterpret_cast<vec<float>>(vcvt_f32_f16(vreinterpret_f16_u16(bits)));
#else
  vec<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = to_compute(p[i]);
  return v;
#endif
}

inline void store(float* p, vec<float> v) { store_vec(p, v); }
inline void store(double* p, vec<double> v) { store_vec(p, v); }
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
typedef __m256i half_words;
#elif defined(__AVX2__) && FASTSEG_SIMD_BYTES == 32
typedef __m128i half_words;
#else
typedef half_bits half_words;
#endif
// The lanes in a 16-bit type, as bits.
template <class Storage> half_words narrow(vec<float> v);
template <> inline half_words narrow<bfloat16_t>(vec<float> v) {
  const word_bits bits = reinterpret_cast<word_bits>(v);
  const word_bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const word_bits nan = ((bits >> 16) & 0x8000) | 0x7fc0;
  const word_bits w = reinterpret_cast<word_bits>(v == v) ? rounded : nan;
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
  return _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(w));
#elif defined(__AVX2__) && FASTSEG_SIMD_BYTES == 32
  const __m256i i = reinterpret_cast<__m256i>(w);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(i, i), 0x08));
#else
  return __builtin_convertvector(w, half_bits);
#endif
}
template <> inline half_words narrow<float16_t>(vec<float> v) {
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
  return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__) && FASTSEG_SIMD_BYTES == 32
  return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__aarch64__) && FASTSEG_SIMD_BYTES == 16
  const float16x4_t h = vcvt_f16_f32(reinterpret_cast<float32x4_t>(v));
  return reinterpret_cast<half_bits>(vreinterpret_u16_f16(h));
#else
  half_bits h{};
  for (int i = 0; i < kLanes<float>; ++i) h[i] = from_compute<float16_t>(v[i]).bits;
  return h;
#endif
}

inline void store(bfloat16_t* p, vec<float> v) {
  const half_words h = narrow<bfloat16_t>(v);
  std::memcpy(p, &h, sizeof(h));
}
inline void store(float16_t* p, vec<float> v) {
  const half_words h = narrow<float16_t>(v);
  std::memcpy(p, &h, sizeof(h));
}

// The first `count` lanes; the others read as zero and are not written.
template <class Storage>
inline vec<compute_t<Storage>> load_partial(const Storage* p, std::int64_t count) {
  Storage lanes[kLanes<compute_t<Storage>>];
  std::memset(static_cast<void*>(lanes), 0, sizeof(lanes));
  std::memcpy(static_cast<void*>(lanes), p, static_cast<std::size_t>(count) * sizeof(Storage));
  return load(lanes);
}
template <class Storage>
inline void store_partial(Storage* p, vec<compute_t<Storage>> v, std::int64_t count) {
  Storage lanes[kLanes<compute_t<Storage>>];
  store(lanes, v);
  std::memcpy(static_cast<void*>(p), lanes, static_cast<std::size_t>(count) * sizeof(Storage));
}

// Streaming stores skip the read-for-ownership of lines that are only written. p is aligned to the
// vector; stream_fence() before other threads may read.
template <class Storage> inline void store_stream(Storage* p, vec<compute_t<Storage>> v) {
  store(p, v);
}
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
template <> inline void store_stream<float>(float* p, vec<float> v) { _mm512_stream_ps(p, v); }
template <> inline void store_stream<double>(double* p, vec<double> v) { _mm512_stream_pd(p, v); }
template <> inline void store_stream<bfloat16_t>(bfloat16_t* p, vec<float> v) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow<bfloat16_t>(v));
}
template <> inline void store_stream<float16_t>(float16_t* p, vec<float> v) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow<float16_t>(v));
}
#elif defined(__AVX2__) && FASTSEG_SIMD_BYTES == 32
template <> inline void store_stream<float>(float* p, vec<float> v) { _mm256_stream_ps(p, v); }
template <> inline void store_stream<double>(double* p, vec<double> v) { _mm256_stream_pd(p, v); }
template <> inline void store_stream<bfloat16_t>(bfloat16_t* p, vec<float> v) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow<bfloat16_t>(v));
}
template <> inline void store_stream<float16_t>(float16_t* p, vec<float> v) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow<float16_t>(v));
}
#endif
inline void stream_fence() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// result[i] = v[index[i]], 0 <= index[i] < lanes.
inline vec<float> permute(vec<float> v, ivec<float> index) {
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
  return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), v);
#elif defined(__AVX2__) && FASTSEG_SIMD_BYTES == 32
  return _mm256_permutevar8x32_ps(v, reinterpret_cast<__m256i>(index));
#elif defined(__aarch64__) && FASTSEG_SIMD_BYTES == 16
  // A table of bytes: lane i is at bytes 4 * i to 4 * i + 3.
  const word_bits bytes = reinterpret_cast<word_bits>(index) * 0x04040404u + 0x03020100u;
  return reinterpret_cast<vec<float>>(
      vqtbl1q_u8(reinterpret_cast<uint8x16_t>(v), reinterpret_cast<uint8x16_t>(bytes)));
#else
  vec<float> r;
  for (int i = 0; i < kLanes<float>; ++i) r[i] = v[index[i]];
  return r;
#endif
}
inline vec<double> permute(vec<double> v, ivec<double> index) {
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
  return _mm512_permutexvar_pd(reinterpret_cast<__m512i>(index), v);
#else
  vec<double> r;
  for (int i = 0; i < kLanes<double>; ++i) r[i] = v[index[i]];
  return r;
#endif
}

// result[i] = base[index[i]].
inline vec<float> gather(const float* base, ivec<float> index) {
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
  return _mm512_i32gather_ps(reinterpret_cast<__m512i>(index), base, 4);
#elif defined(__AVX2__) && FASTSEG_SIMD_BYTES == 32
  return _mm256_i32gather_ps(base, reinterpret_cast<__m256i>(index), 4);
#else
  vec<float> r;
  for (int i = 0; i < kLanes<float>; ++i) r[i] = base[index[i]];
  return r;
#endif
}
inline vec<double> gather(const double* base, ivec<double> index) {
  vec<double> r;
  for (int i = 0; i < kLanes<double>; ++i) r[i] = base[index[i]];
  return r;
}

// a where a > b, else b: NaN in a is dropped, NaN in b is kept (as the x86 instruction does).
template <class V> inline V vmax(V a, V b) { return a > b ? a : b; }
template <class V> inline V vmin(V a, V b) { return a < b ? a : b; }
// GCC 12 does not find the instruction by itself.
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
template <> inline vec<float> vmax(vec<float> a, vec<float> b) { return _mm512_max_ps(a, b); }
template <> inline vec<float> vmin(vec<float> a, vec<float> b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX2__) && FASTSEG_SIMD_BYTES == 32
template <> inline vec<float> vmax(vec<float> a, vec<float> b) { return _mm256_max_ps(a, b); }
template <> inline vec<float> vmin(vec<float> a, vec<float> b) { return _mm256_min_ps(a, b); }
#endif

template <class T> inline bool any(ivec<T> mask) {
#if defined(__AVX512F__) && FASTSEG_SIMD_BYTES == 64
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(mask), reinterpret_cast<__m512i>(mask)) !=
         0;
#elif defined(__AVX2__) && FASTSEG_SIMD_BYTES == 32
  return !_mm256_testz_si256(reinterpret_cast<__m256i>(mask), reinterpret_cast<__m256i>(mask));
#else
  lane_int<T> r = 0;
  for (int i = 0; i < kLanes<T>; ++i) r |= mask[i];
  return r != 0;
#endif
}

// Sum of the lanes, pairwise: the order is fixed, so equal inputs give equal bits.
template <class T> inline T reduce_add(vec<T> v) {
  T lanes[kLanes<T>];
  store_vec(lanes, v);
  for (int width = kLanes<T> / 2; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// The lanes of a and then those of b, picked by `at` (known at compile time).
template <class T>
__attribute__((always_inline)) inline vec<T> shuffle(vec<T> a, vec<T> b, ivec<T> at) {
#if defined(__clang__)
  vec<T> r;
  for (int k = 0; k < kLanes<T>; ++k) r[k] = at[k] < kLanes<T> ? a[at[k]] : b[at[k] - kLanes<T>];
  return r;
#else
  return __builtin_shuffle(a, b, at);
#endif
}

namespace detail {
// One step of the in-register transpose: swaps the off-diagonal blocks of size Half.
template <class T, int Half> inline void transpose_step(vec<T>* rows) {
  ivec<T> upper{}, lower{};
  for (int k = 0; k < kLanes<T>; ++k) {
    upper[k] = (k & Half) == 0 ? k : kLanes<T> + k - Half;
    lower[k] = (k & Half) == 0 ? k + Half : kLanes<T> + k;
  }
  for (int i = 0; i < kLanes<T>; ++i) {
    if ((i & Half) != 0) continue;
    const vec<T> a = rows[i], b = rows[i + Half];
    rows[i] = shuffle<T>(a, b, upper);
    rows[i + Half] = shuffle<T>(a, b, lower);
  }
  if constexpr (Half > 1) transpose_step<T, Half / 2>(rows);
}
} // namespace detail

// Transposes kLanes vectors in place: rows[i][k] becomes rows[k][i].
template <class T> inline void transpose(vec<T>* rows) {
  detail::transpose_step<T, kLanes<T> / 2>(rows);
}

// 0, 1, 2, ... in the lanes.
template <class T> inline ivec<T> iota() {
  ivec<T> v{};
  for (int i = 0; i < kLanes<T>; ++i) v[i] = i;
  return v;
}

} // namespace fastseg::FASTSEG_CPU_LEVEL
