// Bilinear resize of [N, C, H, W] maps, and its adjoint.
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"

namespace fastseg::upsample_bilinear {

struct Shape {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t in_h, in_w;
  std::int64_t out_h, out_w;
  bool align_corners;
  double scale_h, scale_w; // scale factors as given to the op; <= 0: not given
  bool channels_last;      // both maps dense, in this layout
};

// forward: x [N, C, in_h, in_w] -> out [N, C, out_h, out_w]
// backward: grad_out [N, C, out_h, out_w] -> grad_x [N, C, in_h, in_w]
struct CpuKernels {
  void (*forward)(DType dtype, const void* x, void* out, const Shape& shape, int threads);
  void (*backward)(DType dtype, const void* grad_out, void* grad_x, const Shape& shape,
                   int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

namespace cuda {
void forward(DType dtype, const void* x, void* out, const Shape& shape, std::uintptr_t stream);
void backward(DType dtype, const void* grad_out, void* grad_x, const Shape& shape,
              std::uintptr_t stream);
} // namespace cuda

} // namespace fastseg::upsample_bilinear
