// What both directions of the CUDA twin share. A thread owns kRows pixels of a column, a block
// kColumns such columns. The rows of the window come one after the other into shared memory,
// features and labels, and every value that a thread reads there meets all of its pixels. The
// weights of kShifts neighbours of each pixel are in registers, worked out once for all labels of a
// block; nothing but the results is stored.
#pragma once

#include <limits>

#include "common/cuda_vector.h"
#include "window_filter/window_filter.h"

namespace fastseg::window_filter::cuda {

constexpr int kColumns = 64; // of pixels of a block: its threads
constexpr int kShifts = 4;   // neighbours along a row at a time
constexpr int kStrip = 64;   // shifts whose columns are staged at a time
// Pixels of a thread; labels of a block, in registers (forward) or shared memory (gradient).
template <class T> constexpr int kRows = sizeof(T) == 8 ? 2 : 4;
template <class T> constexpr int kMostLabels = sizeof(T) == 8 ? 8 : 24;
// Resident blocks per multiprocessor, limited by registers.
template <class Storage> constexpr int kBlocks = sizeof(Storage) == 8 ? 4 : 6;

// exp of less counts as zero: no normal number.
template <class T>
constexpr T kLeastExponent =
    T(std::numeric_limits<T>::min_exponent - 1) * T(0.69314718055994530942);

struct Tiling {
  Shape shape;
  int shifts;                                         // of the window along a row
  int strip;                                          // shifts staged at a time
  int columns;                                        // staged for them
  int group;                                          // labels at a time
  std::int64_t reach_rows, reach_columns;             // of the window, cut to the image
  std::int64_t tile_rows, tile_columns, label_groups; // label_groups: blocks of the same pixels
};

template <class T> Tiling tiling(const Shape& s) {
  Tiling t{};
  t.shape = s;
  t.reach_rows = s.radius < s.height ? s.radius : s.height - 1;
  t.reach_columns = s.radius < s.width ? s.radius : s.width - 1;
  const std::int64_t shifts = 2 * t.reach_columns + 1;
  if (shifts > std::numeric_limits<int>::max())
    throw std::invalid_argument("fastseg: window_filter: the image is too wide");
  t.shifts = static_cast<int>(shifts);
  t.strip = t.shifts < kStrip ? t.shifts : kStrip;
  // Weights are worked out for whole groups of shifts.
  t.columns = kColumns + static_cast<int>(ceil_div(t.strip, kShifts)) * kShifts - 1;
  t.tile_rows = ceil_div(s.height, kRows<T>);
  t.tile_columns = ceil_div(s.width, kColumns);
  // Groups of nearly the same size.
  t.label_groups = ceil_div(s.labels, kMostLabels<T>);
  t.group = static_cast<int>(ceil_div(s.labels, t.label_groups));
  return t;
}

struct Place {
  std::int64_t image, y, x; // of the thread's first pixel
  std::int64_t group;
};

template <class T> FASTSEG_DEVICE Place place(const Tiling& t) {
  const Division column = divide(blockIdx.x, t.tile_columns);
  const Division row = divide(column.quotient, t.tile_rows);
  const Division group = divide(row.quotient, t.label_groups);
  return {group.quotient, row.remainder * kRows<T>, column.remainder * kColumns + threadIdx.x,
          group.remainder};
}

// `planes` planes of a row in shared memory [planes][columns], from column `first` on; 0 outside of
// the image, and in the planes from `filled` on.
template <class Storage>
FASTSEG_DEVICE void stage(const Storage* row, const Strides& strides, int planes, int filled,
                          std::int64_t first, int columns, std::int64_t width,
                          compute_t<Storage>* to) {
#pragma unroll 4
  for (int p = 0; p < planes; ++p)
    for (int c = threadIdx.x; c < columns; c += kColumns) {
      const std::int64_t x = first + c;
      const bool inside = p < filled && x >= 0 && x < width;
      to[p * columns + c] =
          inside ? to_compute(load(row + p * strides.plane + x)) : compute_t<Storage>(0);
    }
}

// Features of the block's own pixels, [dims][kRows][kColumns].
template <class Storage>
FASTSEG_DEVICE void stage_own(const Storage* image, const Strides& strides, const Tiling& t,
                              const Place& at, compute_t<Storage>* to) {
  constexpr int kPixels = kRows<compute_t<Storage>>;
  const std::int64_t first = at.x - threadIdx.x;
  for (int r = 0; r < kPixels; ++r) {
    const std::int64_t y = at.y + r < t.shape.height ? at.y + r : t.shape.height - 1;
    for (int d = 0; d < static_cast<int>(t.shape.dims); ++d)
      stage(image + d * strides.plane + y * strides.row, strides, 1, 1, first, kColumns,
            t.shape.width, to + (d * kPixels + r) * kColumns);
  }
}

// weight[r][s] = exp(-|f_i - f_j|^2 / 2) of a thread's pixels i, r rows down, and the pixels j of
// one row, s columns on.
template <class T>
FASTSEG_DEVICE void weigh(const T* own, const T* there, int dims, int columns,
                          T (&weight)[kRows<T>][kShifts]) {
#pragma unroll
  for (int r = 0; r < kRows<T>; ++r)
#pragma unroll
    for (int s = 0; s < kShifts; ++s) weight[r][s] = T(0);
  for (int d = 0; d < dims; ++d) {
    T mine[kRows<T>];
#pragma unroll
    for (int r = 0; r < kRows<T>; ++r) mine[r] = own[(d * kRows<T> + r) * kColumns];
#pragma unroll
    for (int s = 0; s < kShifts; ++s) {
      const T theirs = there[d * columns + s];
#pragma unroll
      for (int r = 0; r < kRows<T>; ++r) {
        const T difference = mine[r] - theirs;
        weight[r][s] += difference * difference;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows<T>; ++r)
#pragma unroll
    for (int s = 0; s < kShifts; ++s) {
      const T exponent = weight[r][s] * T(-0.5);
      weight[r][s] = exponent < kLeastExponent<T> ? T(0) : exp(exponent);
    }
}

// Calls fn(row, first, last) for every row that the windows of a block's pixels reach: it is in
// those of the pixels first to last of each thread.
template <class T, class Fn>
FASTSEG_DEVICE void for_each_row(const Tiling& t, const Place& at, const Fn& fn) {
  const std::int64_t begin = max(std::int64_t(0), at.y - t.reach_rows);
  const std::int64_t end = min(t.shape.height, at.y + kRows<T> + t.reach_rows);
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t first = row - t.reach_rows - at.y, last = row + t.reach_rows - at.y;
    fn(row, static_cast<int>(max(std::int64_t(0), first)),
       static_cast<int>(min(std::int64_t(kRows<T> - 1), last)));
  }
}

template <class Storage> Map<Storage> typed(const Map<void>& map) {
  return {static_cast<const Storage*>(map.data), map.strides};
}

inline void check(const Shape& s) {
  if (s.dims > kMaxDims)
    throw std::invalid_argument("fastseg: window_filter: more features than the kernels take");
}

// Bytes of shared memory for the features of a block's pixels and a row of `planes` others.
template <class T> std::size_t shared_bytes(const Tiling& t, int planes) {
  const int dims = static_cast<int>(t.shape.dims);
  return (dims * kRows<T> * kColumns + (dims + planes) * t.columns) * sizeof(T);
}

} // namespace fastseg::window_filter::cuda
