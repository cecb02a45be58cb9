// What both twins know about simplices: how far the lattice goes, how features are scaled.
#pragma once

#include <cmath>
#include <type_traits>

#include "common/host_device.h"

namespace FASTSEG_MATH_NAMESPACE {

// Coordinates of lattice points are multiples of D + 1 plus a remainder; beyond this they, or those
// of a neighbour, would not fit into the 16 bits of a packed key.
inline constexpr int kMaxCoordinate = 32000;

// The same for keys of 32 bits (wide_lattice_cpu.h). For float it is where the arithmetic no longer
// tells the corners of a simplex apart: beyond, the simplex is found in double.
template <class T> constexpr double wide_limit() {
  return std::is_same_v<T, float> ? 4194304.0 : 1073741824.0;
}

// What axis i of the features is multiplied with: unit distances in feature space become the width
// of the lattice's blur.
template <class T> inline void axis_scales(int features, T* scales) {
  const T spread = static_cast<T>(std::sqrt(2.0 / 3.0) * (features + 1));
  for (int i = 0; i < features; ++i)
    scales[i] = static_cast<T>(1.0 / std::sqrt(static_cast<double>((i + 2) * (i + 1))) * spread);
}

} // namespace FASTSEG_MATH_NAMESPACE
