// What the two directions of the CUDA twin share. All maps are channels_last; `lanes` threads side
// by side own kItems channels each.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "common/cuda_launch.h"
#include "common/cuda_vector.h"
#include "upsample_taps/upsample_taps.h"
#include "upsample_taps/upsample_taps_math.h"

namespace fastseg::upsample_taps::cuda {

inline constexpr int kThreads = 256;
// Channels of a thread where all maps are aligned to as many; 1 otherwise.
template <class Storage> inline constexpr int kVectorItems = sizeof(Storage) == 8 ? 2 : 4;
// Threads side by side: 64 channels, or 32.
template <int kItems> inline constexpr int kLanes = kItems == 1 ? 32 : 64 / kItems;

struct Axis {
  ResizeAxis resize;
  bool nearest;
};
inline Axis axis_of(std::int64_t in, std::int64_t out, const Shape& s) {
  return {resize_axis(in, out, s.align_corners, 0.0), s.nearest};
}

// The sources of a position of the resized map; lo is -1 outside of the map. With hi == lo there is
// one source, of weight 1.
template <class T> struct Position {
  int lo, hi;
  T w_lo, w_hi;
};
template <class T> FASTSEG_HD Position<T> position_at(const Axis& axis, std::int64_t index) {
  if (index < 0 || index >= axis.resize.out) return {-1, -1, T(0), T(0)};
  const Taps<T> t = axis.nearest ? nearest_taps<T>(axis.resize.in, axis.resize.out, index)
                                 : taps<T>(axis.resize, index);
  const bool one = t.lo == t.hi;
  return {static_cast<int>(t.lo), static_cast<int>(t.hi), one ? T(1) : t.w_lo, one ? T(0) : t.w_hi};
}

inline void check_sizes(std::int64_t h, std::int64_t w, const Shape& s) {
  if (std::max({h, w, s.out_h, s.out_w}) >= 0x7fffffff)
    throw std::invalid_argument("fastseg: upsample_taps: an axis of 2^31 - 1 or more elements");
}

} // namespace fastseg::upsample_taps::cuda
