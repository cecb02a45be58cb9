// Simplices and the keys of their vertices on the device: one thread has one pixel. The arithmetic
// of simplex_cpu.h, operation by operation: the same bits as on the CPU.
#pragma once

#include "common/cuda_launch.h"
#include "permutohedral_lattice/simplex_math.h"

namespace fastseg::permutohedral_lattice::cuda {

// a * b, rounded: never a part of a fused multiply-add.
FASTSEG_DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
FASTSEG_DEVICE double product(double a, double b) { return __dmul_rn(a, b); }
FASTSEG_DEVICE float round_even(float x) { return rintf(x); }
FASTSEG_DEVICE double round_even(double x) { return rint(x); }

template <class T, int D> struct Simplex {
  int point[D + 1]; // its remainder-0 point
  int rank[D + 1];
  T weights[D + 1];
  bool in_range;
};

template <class T, int D>
FASTSEG_DEVICE Simplex<T, D> find_simplex(const T (&features)[D], const T (&scales)[D]) {
  constexpr int N = D + 1;
  constexpr T inverse = T(1) / T(N);
  Simplex<T, D> s;
  T elevated[N], sum = 0;
#pragma unroll
  for (int j = D; j > 0; --j) {
    const T scaled = product(features[j - 1], scales[j - 1]);
    elevated[j] = sum - product(static_cast<T>(j), scaled);
    sum += scaled;
  }
  elevated[0] = sum;
  T residual[N];
  int total = 0;
  s.in_range = true;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const T cell = product(elevated[i], inverse);
    // Written so that NaN is outside as well.
    s.in_range = s.in_range && cell <= T(kMaxCoordinate / N) && cell >= T(-(kMaxCoordinate / N));
    const T low = cell >= T(-kMaxCoordinate) ? cell : T(-kMaxCoordinate);
    const T rounded = round_even(low <= T(kMaxCoordinate) ? low : T(kMaxCoordinate));
    s.point[i] = static_cast<int>(rounded);
    total += s.point[i];
    s.point[i] *= N;
    residual[i] = elevated[i] - product(rounded, T(N));
    s.rank[i] = 0;
  }
  // rank_i: how many residuals are larger; of equal ones the later index counts as smaller.
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int j = i + 1; j < N; ++j) {
      const bool smaller = residual[i] < residual[j];
      s.rank[i] += smaller ? 1 : 0;
      s.rank[j] += smaller ? 0 : 1;
    }
  }
  // The coordinates must add up to 0: move by one cell those that were rounded furthest.
  T sorted[N];
#pragma unroll
  for (int r = 0; r < N; ++r) sorted[r] = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    s.rank[i] += total;
    const int shift = (s.rank[i] < 0 ? N : 0) - (s.rank[i] >= N ? N : 0);
    s.rank[i] += shift;
    s.point[i] += shift;
    const T t = product(elevated[i] - static_cast<T>(s.point[i]), inverse);
#pragma unroll
    for (int r = 0; r < N; ++r) sorted[r] = s.rank[i] == r ? t : sorted[r];
  }
  s.weights[0] = sorted[D] + (T(1) - sorted[0]);
#pragma unroll
  for (int k = 1; k < N; ++k) s.weights[k] = sorted[D - k] - sorted[D - k + 1];
  return s;
}

// Coordinates of a vertex, all but the last (they add up to 0), 16 bits each.
template <int D> struct Key {
  static constexpr int kWords = (D + 1) / 2;
  std::uint32_t words[kWords];

  FASTSEG_DEVICE int coordinate(int i) const {
    return static_cast<std::int16_t>(words[i / 2] >> (i % 2 * 16));
  }
  // Of coordinates that were 0.
  FASTSEG_DEVICE void set_coordinate(int i, int value) {
    words[i / 2] |= (static_cast<std::uint32_t>(value) & 0xffff) << (i % 2 * 16);
  }
  FASTSEG_DEVICE bool operator==(const Key& other) const {
    std::uint32_t difference = 0;
#pragma unroll
    for (int i = 0; i < kWords; ++i) difference |= words[i] ^ other.words[i];
    return difference == 0;
  }
  // The images of a batch have vertices of their own.
  FASTSEG_DEVICE std::uint32_t hash(std::uint32_t image) const {
    // Multipliers: 2^64 / golden ratio, and the odd number of an xorshift-multiply finalizer. Any
    // odd numbers without a pattern do.
    unsigned long long h = image;
#pragma unroll
    for (int i = 0; i < kWords; ++i) h = (h ^ words[i]) * 0x9e3779b97f4a7c15ull;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93ull;
    return static_cast<std::uint32_t>(h >> 32);
  }
};

// What is kept of a pixel's simplex: its remainder-0 point, and the ranks of all coordinates but
// the last, 4 bits each.
template <int D> struct PackedSimplex {
  static constexpr int kWords = Key<D>::kWords + 1;
  Key<D> point;
  std::uint32_t ranks;

  FASTSEG_DEVICE static PackedSimplex load(const std::uint32_t* simplices, std::int64_t pixel) {
    PackedSimplex s;
#pragma unroll
    for (int i = 0; i < Key<D>::kWords; ++i) s.point.words[i] = simplices[pixel * kWords + i];
    s.ranks = simplices[pixel * kWords + kWords - 1];
    return s;
  }
  FASTSEG_DEVICE void store(std::uint32_t* simplices, std::int64_t pixel) const {
#pragma unroll
    for (int i = 0; i < Key<D>::kWords; ++i) simplices[pixel * kWords + i] = point.words[i];
    simplices[pixel * kWords + kWords - 1] = ranks;
  }
  // The vertex with remainder m.
  FASTSEG_DEVICE Key<D> vertex(int m) const {
    Key<D> key{};
#pragma unroll
    for (int i = 0; i < D; ++i) {
      const int rank = static_cast<int>(ranks >> (4 * i) & 15);
      key.set_coordinate(i, point.coordinate(i) + m - (rank <= D - m ? 0 : D + 1));
    }
    return key;
  }
};

} // namespace fastseg::permutohedral_lattice::cuda
