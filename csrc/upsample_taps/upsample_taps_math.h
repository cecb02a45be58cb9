// Where an output pixel of the resize reads: bilinear_math.h, and F.interpolate's mode="nearest".
#pragma once

#include "common/bilinear_math.h"

namespace FASTSEG_MATH_NAMESPACE {

// In float32, as PyTorch: in exact arithmetic some sizes would read another pixel.
template <class T>
FASTSEG_HD Taps<T> nearest_taps(std::int64_t in, std::int64_t out, std::int64_t index) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  const float position = static_cast<float>(index) * scale;
  const std::int64_t at =
      position < static_cast<float>(in - 1) ? static_cast<std::int64_t>(position) : in - 1;
  return {at, at, T(1), T(0)};
}

} // namespace FASTSEG_MATH_NAMESPACE
