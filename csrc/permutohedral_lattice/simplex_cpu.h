// From features to the enclosing simplex of the lattice: elevation, rounding, ranks, barycentric
// coordinates; for a block of pixels at a time. Compiled without contraction of a * b + c: float32
// results are then the same bits everywhere, and the same vertices as pydensecrf's.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>
#include <cmath>

#include "common/simd_cpu.h"
#include "permutohedral_lattice/permutohedral_lattice.h"
#include "permutohedral_lattice/simplex_math.h"

namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL {

using namespace fastseg::FASTSEG_CPU_LEVEL;

// The simplices of one block: coordinates [i][p] of their remainder-0 point, and the rank of each
// coordinate's residual.
template <class T, int D> struct Simplices {
  alignas(64) lane_int<T> point[D + 1][kBlock];
  alignas(64) lane_int<T> rank[D + 1][kBlock];
  alignas(64) T weights[D + 1][kBlock];
  bool in_range;
};

// Rounds to the nearest integer, halves to even; |x| < 2^22 (2^51 for double).
template <class T> inline vec<T> round_even(vec<T> x) {
  constexpr T shift = std::is_same_v<T, double> ? T(6755399441055744.0) : T(12582912.0);
  const vec<T> shifted = x + shift;
  return shifted - shift;
}

// `features` [D, P] from the block's first pixel on; `count` pixels are read, the others are 0.
template <class T, int D>
inline void find_simplices(const T* features, std::int64_t pixels, std::int64_t count,
                           const T* scales, Simplices<T, D>& out) {
  using V = vec<T>;
  using I = ivec<T>;
  constexpr int N = D + 1;
  constexpr T inverse = T(1) / T(N);
  alignas(64) T padded[D][kBlock] = {};
  if (count < kBlock) {
    for (int i = 0; i < D; ++i) std::copy_n(features + i * pixels, count, padded[i]);
    features = padded[0];
    pixels = kBlock;
  }
  I outside{};
  for (int first = 0; first < kBlock; first += kLanes<T>) {
    V elevated[N], sum{};
    for (int j = D; j > 0; --j) {
      const V scaled = load_vec(features + (j - 1) * pixels + first) * scales[j - 1];
      elevated[j] = sum - static_cast<T>(j) * scaled;
      sum += scaled;
    }
    elevated[0] = sum;
    I point[N], rank[N], total{};
    V residual[N];
    for (int i = 0; i < N; ++i) {
      const V cell = elevated[i] * inverse;
      // Written so that NaN is outside as well.
      outside |= ~((cell <= T(kMaxCoordinate / N)) & (cell >= T(-(kMaxCoordinate / N))));
      const V rounded =
          round_even<T>(vmin(vmax(cell, splat<T>(-kMaxCoordinate)), splat<T>(kMaxCoordinate)));
      point[i] = __builtin_convertvector(rounded, I);
      total += point[i];
      point[i] *= N;
      residual[i] = elevated[i] - rounded * T(N);
      rank[i] = I{};
    }
    // rank_i: how many residuals are larger; of equal ones the later index counts as smaller.
    for (int i = 0; i < N; ++i)
      for (int j = i + 1; j < N; ++j) {
        const I smaller = residual[i] < residual[j];
        rank[i] -= smaller;
        rank[j] += smaller + 1;
      }
    // The coordinates must add up to 0: move by one cell those that were rounded furthest.
    V sorted[N] = {};
    for (int i = 0; i < N; ++i) {
      rank[i] += total;
      const I below = rank[i] < 0, above = rank[i] >= N;
      rank[i] += (below & N) - (above & N);
      point[i] += (below & N) - (above & N);
      const V t = (elevated[i] - __builtin_convertvector(point[i], V)) * inverse;
      for (int r = 0; r < N; ++r) sorted[r] = rank[i] == r ? t : sorted[r];
      std::memcpy(out.point[i] + first, &point[i], sizeof(I));
      std::memcpy(out.rank[i] + first, &rank[i], sizeof(I));
    }
    store_vec(out.weights[0] + first, sorted[D] + (T(1) - sorted[0]));
    for (int k = 1; k < N; ++k)
      store_vec(out.weights[k] + first, sorted[D - k] - sorted[D - k + 1]);
  }
  bool bad = false;
  for (int k = 0; k < kLanes<T>; ++k) bad |= outside[k] != 0;
  out.in_range = !bad;
}

// The adjoint of features -> weights at fixed simplices.
template <class T, int D>
inline void backward_simplices(const Simplices<T, D>& at, const T* grad_weights, std::int64_t count,
                               const T* scales, T* grad_features, std::int64_t pixels) {
  constexpr int N = D + 1;
  for (std::int64_t p = 0; p < count; ++p) {
    T grad_elevated[N];
    for (int i = 0; i < N; ++i) {
      const std::int64_t k = D - at.rank[i][p];
      grad_elevated[i] =
          (grad_weights[k * kBlock + p] - grad_weights[(k + 1) % N * kBlock + p]) / T(N);
    }
    T sum = grad_elevated[0]; // of the coordinates that feature i is added to
    for (int i = 0; i < D; ++i) {
      grad_features[i * pixels + p] = (sum - T(i + 1) * grad_elevated[i + 1]) * scales[i];
      sum += grad_elevated[i + 1];
    }
  }
}

} // namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL
