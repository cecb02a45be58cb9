// Where an output pixel of a bilinear resize reads, shared by the CPU and the CUDA twins of every
// upsample_* op. The rule is F.interpolate's (mode="bilinear", antialias=False). Positions are
// computed in float64 whatever the storage type: float32 positions lose 1e-4 of a pixel at 2048.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace FASTSEG_MATH_NAMESPACE {

// One axis of a resize.
struct ResizeAxis {
  std::int64_t in;
  std::int64_t out;
  double scale; // source pixels per output pixel
  bool align_corners;
};

// Weights and sources of one output index: w_lo * x[lo] + w_hi * x[hi], w_lo + w_hi == 1.
template <class T> struct Taps {
  std::int64_t lo;
  std::int64_t hi;
  T w_lo;
  T w_hi;
};

// `scale_factor` <= 0 means: not given. With align_corners it plays no role, as in PyTorch.
FASTSEG_HD ResizeAxis resize_axis(std::int64_t in, std::int64_t out, bool align_corners,
                                  double scale_factor) {
  double scale = 1.0;
  if (align_corners)
    scale = out > 1 ? static_cast<double>(in - 1) / static_cast<double>(out - 1) : 0.0;
  else if (scale_factor > 0.0)
    scale = 1.0 / scale_factor;
  else
    scale = static_cast<double>(in) / static_cast<double>(out);
  return {in, out, scale, align_corners};
}

// T is float or double: the type of the weights.
template <class T> FASTSEG_HD Taps<T> taps(const ResizeAxis& axis, std::int64_t index) {
  if (axis.in == axis.out) return {index, index, T(1), T(0)};
  double position = axis.align_corners ? axis.scale * index
                                       : axis.scale * (static_cast<double>(index) + 0.5) - 0.5;
  if (position < 0.0) position = 0.0;
  // Compared before the conversion, which is undefined for infinities and NaN.
  const std::int64_t lo = position < static_cast<double>(axis.in - 1)
                              ? static_cast<std::int64_t>(position)
                              : axis.in - 1;
  const std::int64_t hi = lo + (lo < axis.in - 1 ? 1 : 0);
  double fraction = position - static_cast<double>(lo);
  if (fraction > 1.0) fraction = 1.0;
  const T w_hi = static_cast<T>(fraction);
  return {lo, hi, T(1) - w_hi, w_hi};
}

// First output index whose lo is >= `source` (axis.out when there is none): lo never decreases, so
// the outputs that touch source j are [first_output(j - 1), first_output(j + 1)).
FASTSEG_HD std::int64_t first_output(const ResizeAxis& axis, std::int64_t source) {
  std::int64_t low = 0, high = axis.out;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (taps<float>(axis, middle).lo >= source)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

} // namespace FASTSEG_MATH_NAMESPACE
