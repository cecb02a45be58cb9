// The exact Gaussian filter: out_i = sum over j of exp(-|f_i - f_j|^2 / 2) * v_j.
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"

namespace fastseg::gaussian_filter {

struct Shape {
  std::int64_t batch;
  std::int64_t labels;
  std::int64_t dims; // features per point
  std::int64_t points;
};

// dtype is float32 or float64: what is computed in. Values and their gradients go in as rows
// [N, P, L], the labels of a point side by side; results come out as planes [N, L, P].
//
// forward: values [N, P, L], features [N, D, P] -> out [N, L, P]
// backward: grad_out [N, P, L], values [N, P, L], features [N, D, P]
//   -> grad_values [N, L, P], grad_features [N, D, P]
struct CpuKernels {
  void (*forward)(DType dtype, const void* values, const void* features, void* out,
                  const Shape& shape, int threads);
  void (*backward)(DType dtype, const void* grad_out, const void* values, const void* features,
                   void* grad_values, void* grad_features, const Shape& shape, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

} // namespace fastseg::gaussian_filter
