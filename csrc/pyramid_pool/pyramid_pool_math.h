// The windows of adaptive average pooling, shared by the CPU and the CUDA twins of pyramid_pool.
// Cell i of a grid of `bins` covers the pixels [floor(i * in / bins), ceil((i + 1) * in / bins)):
// neighbouring windows share a pixel where bins does not divide in.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace FASTSEG_MATH_NAMESPACE {

FASTSEG_HD std::int64_t window_begin(std::int64_t cell, std::int64_t in, std::int64_t bins) {
  return cell * in / bins;
}
FASTSEG_HD std::int64_t window_end(std::int64_t cell, std::int64_t in, std::int64_t bins) {
  return ((cell + 1) * in + bins - 1) / bins;
}

// The cells that cover a pixel, one or two since bins <= in: the same rule with the roles swapped.
FASTSEG_HD std::int64_t cells_begin(std::int64_t pixel, std::int64_t in, std::int64_t bins) {
  return window_begin(pixel, bins, in);
}
FASTSEG_HD std::int64_t cells_end(std::int64_t pixel, std::int64_t in, std::int64_t bins) {
  return window_end(pixel, bins, in);
}

} // namespace FASTSEG_MATH_NAMESPACE
