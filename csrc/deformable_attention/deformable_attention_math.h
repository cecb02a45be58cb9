// Where a location reads, shared by the CPU and the CUDA twin. The rule is F.grid_sample's
// (align_corners=False, zeros outside): the map reaches from 0 to 1, its cells have their values in
// their middles.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace FASTSEG_MATH_NAMESPACE {

// The four cells around a location: (y, x), the one to its right and the two below.
template <class T> struct Place {
  bool reached;  // whether one of the four may lie on the map
  int y, x;      // -1 above or left of it
  T right, down; // weights of the right and of the lower cells
  T poison;      // 0, or NaN for a location that is NaN
};

template <class T>
FASTSEG_HD Place<T> place(T location_x, T location_y, std::int64_t height, std::int64_t width) {
  const T px = location_x * static_cast<T>(width) - T(0.5);
  const T py = location_y * static_cast<T>(height) - T(0.5);
  Place<T> p{};
  // Compared before the conversions, which are undefined for what is no int.
  p.reached = px >= T(-1) && py >= T(-1) && px < static_cast<T>(width) &&
              py < static_cast<T>(height) && width > 0 && height > 0;
  if (!p.reached) {
    p.poison = px != px ? px : py != py ? py : T(0);
    return p;
  }
  p.x = static_cast<int>(px);
  p.y = static_cast<int>(py);
  p.x -= px < static_cast<T>(p.x) ? 1 : 0; // the conversion rounds towards 0
  p.y -= py < static_cast<T>(p.y) ? 1 : 0;
  p.right = px - static_cast<T>(p.x);
  p.down = py - static_cast<T>(p.y);
  return p;
}

} // namespace FASTSEG_MATH_NAMESPACE
