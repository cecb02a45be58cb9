// The truncated Gaussian filter: out_i = sum over the pixels j of a window around i of
// exp(-|f_i - f_j|^2 / 2) * v_j.
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"

namespace fastseg::window_filter {

struct Shape {
  std::int64_t batch;
  std::int64_t labels;
  std::int64_t dims; // features per pixel
  std::int64_t height;
  std::int64_t width;
  std::int64_t radius; // the window has 2 * radius + 1 rows and columns, as far as the image goes
};

// Of a map [N, C, H, W], in elements.
struct Strides {
  std::int64_t image, plane, row, column;
};

template <class Element> struct Map {
  const Element* data;
  Strides strides;
};

// Inputs may have any strides, results are contiguous; all have one dtype.
//
// forward: values [N, L, H, W], features [N, D, H, W] -> out [N, L, H, W]
// feature_gradient: grad_out [N, L, H, W], values, features -> grad_features [N, D, H, W]
// (The gradient to values is forward of grad_out: the weights are symmetric.)
struct CpuKernels {
  void (*forward)(DType dtype, Map<void> values, Map<void> features, void* out, const Shape& shape,
                  int threads);
  void (*feature_gradient)(DType dtype, Map<void> grad_out, Map<void> values, Map<void> features,
                           void* grad_features, const Shape& shape, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

namespace cuda {
// Features that a pixel may have here.
inline constexpr int kMaxDims = 8;
// The same; rows of the inputs are dense (column stride 1).
void forward(DType dtype, const Map<void>& values, const Map<void>& features, void* out,
             const Shape& shape, std::uintptr_t stream);
void feature_gradient(DType dtype, const Map<void>& grad_out, const Map<void>& values,
                      const Map<void>& features, void* grad_features, const Shape& shape,
                      std::uintptr_t stream);
} // namespace cuda

} // namespace fastseg::window_filter
