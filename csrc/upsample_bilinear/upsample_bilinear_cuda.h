// What the two directions of the CUDA twin share.
//
// Both are separable, and both march down rows with the columns' weights in registers: an element
// of the large map is touched once, by one thread.
//
// Positions are float64 (bilinear_math.h), which is slow on some GPUs. A thread therefore works out
// its columns once and keeps them for all its rows; rows are worked out once per block, into shared
// memory.
#pragma once

#include <algorithm>

#include "common/bilinear_math.h"
#include "common/cuda_launch.h"
#include "common/cuda_vector.h"
#include "upsample_bilinear/upsample_bilinear.h"

namespace fastseg::upsample_bilinear::cuda {

inline constexpr int kThreads = 256;
inline constexpr int kScalarItems = 4; // values per thread where 16-byte accesses do not fit
// Resident blocks that the compiler must leave registers for. Without a bound it gives some
// instances too few registers, and they spill; with more blocks than these, some do as well
// (resources.json).
template <class T, bool kManyRegisters>
inline constexpr int kResidentBlocks = sizeof(T) == 8   ? 2
                                       : kManyRegisters ? 3
                                                        : 4;
// Enough threads to fill the largest GPUs twice; smaller problems are cut into fewer rows each.
inline constexpr std::int64_t kWantedThreads = std::int64_t{1} << 19;

// The sources of one output row. Sizes are below 2^31 (check_sizes).
template <class T> struct Row {
  int lo, hi;
  T w_lo, w_hi;
};
template <class T> FASTSEG_DEVICE Row<T> row_at(const ResizeAxis& axis, std::int64_t y) {
  const Taps<T> t = taps<T>(axis, y);
  return {static_cast<int>(t.lo), static_cast<int>(t.hi), t.w_lo, t.w_hi};
}

// Whether the rows of a map in NCHW are worth 16-byte accesses where they begin anywhere. The two
// vectors at a row's ends are partial; below four vectors they are half of all.
template <class Storage> bool fills_vectors(std::int64_t width) {
  return width >= 4 * kPack<Storage>;
}

inline void check_sizes(const Shape& s) {
  if (std::max({s.in_h, s.in_w, s.out_h, s.out_w}) > 0x7fffffff)
    throw std::invalid_argument("fastseg: upsample_bilinear: an axis of 2^31 or more elements");
}

} // namespace fastseg::upsample_bilinear::cuda
