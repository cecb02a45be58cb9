// Rows of W values (labels) per vertex or pixel: what splat, blur and slice move.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>

#include "common/simd_cpu.h"
#include "permutohedral_lattice/permutohedral_lattice.h"

namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL {

using namespace fastseg::FASTSEG_CPU_LEVEL;

// A vector of Lanes values, at most as wide as the machine's.
template <class T, int Lanes> struct LaneVec {
  static constexpr int kCount = Lanes < kLanes<T> ? Lanes : kLanes<T>;
  typedef T type __attribute__((vector_size(kCount * sizeof(T))));
};

// How W values are stored: W is 4, 8, or multiples of 16 and perhaps 8 more. The 8 have an array of
// their own, so that no vector crosses a cache line.
template <int W> struct RowWidth {
  static constexpr int kMain = W < 16 ? W : W / 16 * 16;
  static constexpr int kTail = W - kMain;
  static_assert(kTail == 0 || kTail == 8);
};

template <class T, int W> struct RowArray {
  T* main = nullptr;
  T* tail = nullptr;
  RowArray() = default;
  RowArray(T* memory, std::int64_t rows) : main(memory), tail(memory + rows * RowWidth<W>::kMain) {}
};

// One row in registers.
template <class T, int W> struct Row {
  static constexpr int kMain = RowWidth<W>::kMain, kTail = RowWidth<W>::kTail;
  using Main = LaneVec<T, kMain>;
  using Tail = LaneVec<T, kTail == 0 ? kMain : kTail>;
  static constexpr int kMainVecs = kMain / Main::kCount;
  static constexpr int kTailVecs = kTail / Tail::kCount;
  typename Main::type main[kMainVecs];
  typename Tail::type tail[kTailVecs == 0 ? 1 : kTailVecs];

  static Row zero() {
    Row r;
    for (int k = 0; k < kMainVecs; ++k) r.main[k] = typename Main::type{};
    for (int k = 0; k < kTailVecs; ++k) r.tail[k] = typename Tail::type{};
    return r;
  }
  static Row load(const T* main, const T* tail) {
    Row r;
    for (int k = 0; k < kMainVecs; ++k)
      std::memcpy(&r.main[k], main + k * Main::kCount, sizeof(r.main[k]));
    for (int k = 0; k < kTailVecs; ++k)
      std::memcpy(&r.tail[k], tail + k * Tail::kCount, sizeof(r.tail[k]));
    return r;
  }
  static Row load(const RowArray<T, W>& rows, std::int64_t row) {
    return load(rows.main + row * kMain, rows.tail + row * kTail);
  }
  void store(T* main_out, T* tail_out) const {
    for (int k = 0; k < kMainVecs; ++k)
      std::memcpy(main_out + k * Main::kCount, &main[k], sizeof(main[k]));
    for (int k = 0; k < kTailVecs; ++k)
      std::memcpy(tail_out + k * Tail::kCount, &tail[k], sizeof(tail[k]));
  }
  void store(const RowArray<T, W>& rows, std::int64_t row) const {
    store(rows.main + row * kMain, rows.tail + row * kTail);
  }
  // this += other * scale
  void add(const Row& other, T scale) {
    for (int k = 0; k < kMainVecs; ++k) main[k] += other.main[k] * scale;
    for (int k = 0; k < kTailVecs; ++k) tail[k] += other.tail[k] * scale;
  }
  void add(const Row& other) {
    for (int k = 0; k < kMainVecs; ++k) main[k] += other.main[k];
    for (int k = 0; k < kTailVecs; ++k) tail[k] += other.tail[k];
  }
  void add_product(const Row& a, const Row& b) {
    for (int k = 0; k < kMainVecs; ++k) main[k] += a.main[k] * b.main[k];
    for (int k = 0; k < kTailVecs; ++k) tail[k] += a.tail[k] * b.tail[k];
  }
  void scale(T factor) {
    for (int k = 0; k < kMainVecs; ++k) main[k] *= factor;
    for (int k = 0; k < kTailVecs; ++k) tail[k] *= factor;
  }
  // Sum of the products, in a fixed order.
  T dot(const Row& other) const {
    double sum = 0; // the gradient to the features is a difference of such sums
    alignas(64) T lanes[W];
    for (int k = 0; k < kMainVecs; ++k) {
      const typename Main::type product = main[k] * other.main[k];
      std::memcpy(lanes + k * Main::kCount, &product, sizeof(product));
    }
    for (int k = 0; k < kTailVecs; ++k) {
      const typename Tail::type product = tail[k] * other.tail[k];
      std::memcpy(lanes + kMain + k * Tail::kCount, &product, sizeof(product));
    }
    for (int k = 0; k < W; ++k) sum += lanes[k];
    return static_cast<T>(sum);
  }
};

// Every other lane of a and b, from the first or the second on.
template <class T, int First> inline vec<T> every_other(vec<T> a, vec<T> b) {
  ivec<T> at{};
  for (int k = 0; k < kLanes<T>; ++k) at[k] = 2 * k + First;
  return shuffle<T>(a, b, at);
}
// Lanes [from, from + lanes / 2) of a and b, alternating.
template <class T, int From> inline vec<T> interleave(vec<T> a, vec<T> b) {
  ivec<T> at{};
  for (int k = 0; k < kLanes<T>; ++k) at[k] = From + k / 2 + (k % 2) * kLanes<T>;
  return shuffle<T>(a, b, at);
}

// kBlock pixels x W labels. By pixel: groups of 16 labels (or the W < 16, or the 8 of the tail), in
// each group the pixels one after the other. By label: [W][kBlock].
template <class T, int W> struct BlockRows {
  static constexpr int kMain = RowWidth<W>::kMain, kTail = RowWidth<W>::kTail;
  static constexpr int kGroup = kMain < 16 ? kMain : 16;
  alignas(64) T values[W * kBlock];

  Row<T, W> row(std::int64_t p) const {
    using R = Row<T, W>;
    R r;
    constexpr int per_group = kGroup / R::Main::kCount;
    for (int k = 0; k < R::kMainVecs; ++k)
      std::memcpy(&r.main[k], main_vec(p, k, per_group), sizeof(r.main[k]));
    for (int k = 0; k < R::kTailVecs; ++k)
      std::memcpy(&r.tail[k], values + kMain * kBlock + p * kTail + k * R::Tail::kCount,
                  sizeof(r.tail[k]));
    return r;
  }
  void set_row(std::int64_t p, const Row<T, W>& r) {
    using R = Row<T, W>;
    constexpr int per_group = kGroup / R::Main::kCount;
    for (int k = 0; k < R::kMainVecs; ++k)
      std::memcpy(const_cast<T*>(main_vec(p, k, per_group)), &r.main[k], sizeof(r.main[k]));
    for (int k = 0; k < R::kTailVecs; ++k)
      std::memcpy(values + kMain * kBlock + p * kTail + k * R::Tail::kCount, &r.tail[k],
                  sizeof(r.tail[k]));
  }

  void to_labels() {
    for (int g = 0; g < kMain / kGroup; ++g) group_to_labels<kGroup>(values + g * 16 * kBlock);
    if constexpr (kTail > 0) group_to_labels<kTail>(values + kMain * kBlock);
  }
  void to_rows() {
    for (int g = 0; g < kMain / kGroup; ++g) group_to_rows<kGroup>(values + g * 16 * kBlock);
    if constexpr (kTail > 0) group_to_rows<kTail>(values + kMain * kBlock);
  }

private:
  const T* main_vec(std::int64_t p, int k, int per_group) const {
    return values + (k / per_group) * 16 * kBlock + p * kGroup +
           (k % per_group) * Row<T, W>::Main::kCount;
  }
  // The position of a value in its group is, in bits, (pixel, label). Taking the even lanes of
  // all vectors first and then the odd ones moves the lowest bit to the top: once for each bit of
  // the label turns it into (label, pixel).
  template <int G> static void group_to_labels(T* group) {
    constexpr int n = G * kBlock / kLanes<T>;
    vec<T> a[n], b[n];
    std::memcpy(a, group, sizeof(a));
    for (int step = G; step > 1; step /= 2) {
      for (int i = 0; i < n / 2; ++i) {
        b[i] = every_other<T, 0>(a[2 * i], a[2 * i + 1]);
        b[i + n / 2] = every_other<T, 1>(a[2 * i], a[2 * i + 1]);
      }
      for (int i = 0; i < n; ++i) a[i] = b[i];
    }
    std::memcpy(group, a, sizeof(a));
  }
  template <int G> static void group_to_rows(T* group) {
    constexpr int n = G * kBlock / kLanes<T>;
    vec<T> a[n], b[n];
    std::memcpy(a, group, sizeof(a));
    for (int step = G; step > 1; step /= 2) {
      for (int i = 0; i < n / 2; ++i) {
        b[2 * i] = interleave<T, 0>(a[i], a[i + n / 2]);
        b[2 * i + 1] = interleave<T, kLanes<T> / 2>(a[i], a[i + n / 2]);
      }
      for (int i = 0; i < n; ++i) a[i] = b[i];
    }
    std::memcpy(group, a, sizeof(a));
  }
};

template <class T> struct LatticeView {
  LatticeView() = default;
  explicit LatticeView(const Lattice& l)
      : corners(l.features + 1), pixels(l.pixels), blocks(l.blocks()), vertices(l.vertices),
        rows(l.rows), weights(static_cast<const T*>(l.weights)), neighbours(l.neighbours),
        alpha(T(1) / (T(1) + std::ldexp(T(1), -l.features))) {}
  int corners = 0; // of a simplex: D + 1
  std::int64_t pixels = 0, blocks = 0, vertices = 0;
  const std::int32_t* rows = nullptr;
  const T* weights = nullptr;
  const std::int32_t* neighbours = nullptr;
  T alpha = 1; // undoes, roughly, what the blur adds

  std::int64_t at(std::int64_t block) const { return block * corners * kBlock; }
};

// out = (row + (lower neighbour + upper neighbour) / 2) * scale along one axis, for vertices
// [first, end). Row 0 of both arrays is zero.
template <class T, int W>
inline void blur_axis(const LatticeView<T>& lattice, int axis, const RowArray<T, W>& in,
                      const RowArray<T, W>& out, T scale, std::int64_t first, std::int64_t end) {
  const std::int32_t* links = lattice.neighbours + 2 * axis * lattice.vertices;
  for (std::int64_t v = first; v < end; ++v) {
    Row<T, W> sum = Row<T, W>::load(in, links[2 * v]);
    sum.add(Row<T, W>::load(in, links[2 * v + 1]));
    Row<T, W> here = Row<T, W>::load(in, v + 1);
    here.add(sum, T(0.5));
    here.scale(scale);
    here.store(out, v + 1);
  }
}

// Rows of an array that holds `rows` of them: with these, each part of an array begins at a cache
// line.
inline std::int64_t whole_lines(std::int64_t rows) { return (rows + 15) / 16 * 16; }

// Parts of the pixels that are added up apart and then in order: their number depends on sizes
// alone, so results are the same bits at any thread count.
inline std::int64_t chunk_count(std::int64_t blocks, std::int64_t vertices) {
  std::int64_t count = 1;
  while (count < (blocks > 65536 ? 8 : 4) && blocks >= 256 * count &&
         (count == 1 || 2 * count * vertices <= blocks * kBlock))
    count *= 2;
  return count;
}

// The rows that the pixels of a chunk touch: [first, end).
struct RowRange {
  std::int64_t first, end;
};
inline RowRange touched_rows(const std::int32_t* rows, std::int64_t count) {
  std::int32_t low = INT32_MAX, high = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    low = std::min(low, rows[i]);
    high = std::max(high, rows[i]);
  }
  return {count > 0 ? low : 0, count > 0 ? high + 1 : 0};
}

} // namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL
