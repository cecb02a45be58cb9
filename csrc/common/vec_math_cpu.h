// exp2 and log of vectors, for softmax and its loss. tools/fit_polynomials.py fits the polynomials
// for this range reduction and measures the error of the ones that are here; tests compare them
// with float64 through upsample_cross_entropy. Included only by *_cpu.cpp files; lives in the
// level's namespace.
#pragma once

#include "common/simd_cpu.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

namespace detail {
// 2^(f + e) for |f| <= 1/2 and the whole number e that `shifted` = e + 1.5 * 2^23 has in its low
// mantissa bits.
inline vec<float> exp2_of_parts(vec<float> f, vec<float> shifted) {
  vec<float> p = splat<float>(0x1.41d334p-13f);
  p = p * f + 0x1.5f456ap-10f;
  p = p * f + 0x1.3b2dbcp-7f;
  p = p * f + 0x1.c6aed4p-5f;
  p = p * f + 0x1.ebfbdap-3f;
  p = p * f + 0x1.62e430p-1f;
  p = p * f + 1.0f;
  const ivec<float> exponent = reinterpret_cast<ivec<float>>(shifted) << 23;
  return reinterpret_cast<vec<float>>(reinterpret_cast<ivec<float>>(p) + exponent);
}
} // namespace detail

// 2^t for t <= 0: 1.2 units in the last place; below t = -126 it is 2^-126, which a softmax cannot
// tell from zero. NaN stays NaN.
inline vec<float> exp2_nonpositive(vec<float> t) {
  t = vmax(splat<float>(-126.0f), t);
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
  const vec<float> shifted = t + 12582912.0f;
  return detail::exp2_of_parts(t - (shifted - 12582912.0f), shifted);
}
inline vec<double> exp2_nonpositive(vec<double> t) {
  for (int k = 0; k < kLanes<double>; ++k) t[k] = std::exp2(t[k]);
  return t;
}

// e^x for x <= 0, as exact as exp2_nonpositive is for every x: x * log2(e) would lose the digits
// that stand before its point. Below x = -87.3 it is 2^-126; NaN stays NaN.
inline vec<float> exp_nonpositive(vec<float> x) {
  x = vmax(splat<float>(-87.3365448f), x);
  const vec<float> shifted = x * 0x1.715476p+0f + 12582912.0f;
  const vec<float> e = shifted - 12582912.0f;
  // ln 2 in two parts, as in log_positive; 0x1.715476p+0 is log2(e).
  const vec<float> rest = (x - e * 0.693359375f) + e * 2.12194440e-4f;
  return detail::exp2_of_parts(rest * 0x1.715476p+0f, shifted);
}
inline vec<double> exp_nonpositive(vec<double> x) {
  for (int k = 0; k < kLanes<double>; ++k) x[k] = std::exp(x[k]);
  return x;
}

namespace detail {
// log(1 + f) - f for 1 + f in [sqrt(1/2), sqrt(2)].
__attribute__((always_inline)) inline vec<float> log1p_polynomial(vec<float> f) {
  vec<float> p = splat<float>(-0x1.38b582p-4f);
  p = p * f + 0x1.055b72p-3f;
  p = p * f - 0x1.0d8544p-3f;
  p = p * f + 0x1.22da1cp-3f;
  p = p * f - 0x1.547244p-3f;
  p = p * f + 0x1.99a008p-3f;
  p = p * f - 0x1.000226p-2f;
  p = p * f + 0x1.555554p-2f;
  return (p * f - 0.5f) * (f * f);
}
} // namespace detail

// Natural logarithm of normal positive x: 1 unit in the last place; NaN stays NaN.
__attribute__((always_inline)) inline vec<float> log_positive(vec<float> x) {
  // x = 2^e * m with m in [sqrt(1/2), sqrt(2)): 0x3f3504f3 has the bits of sqrt(1/2).
  const ivec<float> bits = reinterpret_cast<ivec<float>>(x);
  const ivec<float> exponent = (bits - 0x3f3504f3) >> 23;
  const vec<float> m = reinterpret_cast<vec<float>>(bits - (exponent << 23));
  const vec<float> e = __builtin_convertvector(exponent, vec<float>);
  const vec<float> f = m - 1.0f;
  // ln 2 in two parts (Cody and Waite, 1980): 355 / 512 is exact times any exponent, and
  // -2.1219444e-4 is what is left.
  const vec<float> tail = e * -2.12194440e-4f + detail::log1p_polynomial(f);
  const vec<float> r = (f + tail) + e * 0.693359375f;
  return x == x ? r : x;
}
inline vec<double> log_positive(vec<double> x) {
  for (int k = 0; k < kLanes<double>; ++k) x[k] = std::log(x[k]);
  return x;
}

// log(1 + x) for 0 <= x <= 1, as exact for small x: 1.7 units in the last place. NaN stays NaN.
__attribute__((always_inline)) inline vec<float> log1p_unit(vec<float> x) {
  vec<float> p = splat<float>(-0x1.da43e0p-9f);
  p = p * x + 0x1.6505aep-6f;
  p = p * x - 0x1.f49a7cp-5f;
  p = p * x + 0x1.c5bdc8p-4f;
  p = p * x - 0x1.3fd76cp-3f;
  p = p * x + 0x1.9561a4p-3f;
  p = p * x - 0x1.ff8ed8p-3f;
  p = p * x + 0x1.5552b4p-2f;
  p = p * x - 0x1.fffffcp-2f;
  return p * (x * x) + x;
}
inline vec<double> log1p_unit(vec<double> x) {
  for (int k = 0; k < kLanes<double>; ++k) x[k] = std::log1p(x[k]);
  return x;
}

} // namespace fastseg::FASTSEG_CPU_LEVEL
