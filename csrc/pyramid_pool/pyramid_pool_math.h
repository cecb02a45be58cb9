// The windows of adaptive average pooling, shared by the CPU and the CUDA twins of pyramid_pool.
// Cell i of a grid of `bins` covers the pixels [floor(i * in / bins), ceil((i + 1) * in / bins)):
// neighbouring windows share a pixel where bins does not divide in.
#pragma once

#include "common/host_device.h"

namespace FASTSEG_MATH_NAMESPACE {

// Int is std::int64_t, or int where the products are known to fit: a division costs a quarter.
template <class Int> FASTSEG_HD Int window_begin(Int cell, Int in, Int bins) {
  return cell * in / bins;
}
template <class Int> FASTSEG_HD Int window_end(Int cell, Int in, Int bins) {
  return ((cell + 1) * in + bins - 1) / bins;
}

// The cells that cover a pixel, one or two since bins <= in: the same rule with the roles swapped.
template <class Int> FASTSEG_HD Int cells_begin(Int pixel, Int in, Int bins) {
  return window_begin(pixel, bins, in);
}
template <class Int> FASTSEG_HD Int cells_end(Int pixel, Int in, Int bins) {
  return window_end(pixel, bins, in);
}

} // namespace FASTSEG_MATH_NAMESPACE
