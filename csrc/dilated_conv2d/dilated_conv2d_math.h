// Which input pixel meets which output pixel at which tap, shared by the CPU and CUDA twins.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace FASTSEG_MATH_NAMESPACE {

// One axis of a convolution.
struct ConvAxis {
  std::int64_t in, out;
  std::int64_t kernel;
  std::int64_t stride, padding, dilation;
};

FASTSEG_HD std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  return a >= 0 ? a / b : -((b - 1 - a) / b);
}

// The input that `tap` of output `out` reads; it lies in the padding unless 0 <= result < in.
FASTSEG_HD std::int64_t input_index(const ConvAxis& axis, std::int64_t out, std::int64_t tap) {
  return out * axis.stride - axis.padding + tap * axis.dilation;
}

// Whether some output index, inside the map or not, reads input `in` at `tap`, and which one.
FASTSEG_HD bool output_index(const ConvAxis& axis, std::int64_t in, std::int64_t tap,
                             std::int64_t* out) {
  const std::int64_t position = in + axis.padding - tap * axis.dilation;
  *out = floor_div(position, axis.stride);
  return *out * axis.stride == position;
}

} // namespace FASTSEG_MATH_NAMESPACE
