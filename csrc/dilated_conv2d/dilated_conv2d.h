// Depthwise convolution of [N, C, H, W] maps with any kernel size, stride, padding and dilation,
// and its derivatives. (Dense convolutions run through torch's own kernels.)
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"

namespace fastseg::dilated_conv2d {

struct Shape {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t in_h, in_w;
  std::int64_t out_h, out_w;
  std::int64_t kernel_h, kernel_w;
  std::int64_t stride_h, stride_w;
  std::int64_t padding_h, padding_w;
  std::int64_t dilation_h, dilation_w;
  bool channels_last; // all maps dense, in this layout
};

// x, grad_x [N, C, in_h, in_w]; out, grad_out [N, C, out_h, out_w];
// weight, grad_weight [C, kernel_h, kernel_w]; bias, grad_bias [C].
// bias is null when there is none; a gradient that is null is not computed. workspace has
// workspace_bytes, which only grad_weight and grad_bias need.
struct CpuKernels {
  std::int64_t (*workspace_bytes)(DType dtype, const Shape& shape);
  void (*forward)(DType dtype, const void* x, const void* weight, const void* bias, void* out,
                  const Shape& shape, int threads);
  void (*backward)(DType dtype, const void* grad_out, const void* x, const void* weight,
                   void* grad_x, void* grad_weight, void* grad_bias, void* workspace,
                   const Shape& shape, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

namespace cuda { // the same
std::int64_t workspace_bytes(DType dtype, const Shape& shape);
void forward(DType dtype, const void* x, const void* weight, const void* bias, void* out,
             const Shape& shape, std::uintptr_t stream);
void backward(DType dtype, const void* grad_out, const void* x, const void* weight, void* grad_x,
              void* grad_weight, void* grad_bias, void* workspace, const Shape& shape,
              std::uintptr_t stream);
} // namespace cuda

} // namespace fastseg::dilated_conv2d
