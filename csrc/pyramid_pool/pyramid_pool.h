// Average pooling of [N, C, H, W] maps onto several grids at once, and its adjoint.
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"

namespace fastseg::pyramid_pool {

struct Shape {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t in_h, in_w;
  bool channels_last; // of x and of the pooled cells alike
};

// Grid k has sizes[k] x sizes[k] cells, 1 <= sizes[k] <= min(in_h, in_w). Host memory.
struct Bins {
  const std::int64_t* sizes;
  std::int64_t count;
};

// Pooled cells lie grid after grid, row-major: [N, C, cells], or [N, cells, C] with channels_last.
// forward: x [N, C, in_h, in_w] -> out
// backward: grad_out -> grad_x [N, C, in_h, in_w]
struct CpuKernels {
  void (*forward)(DType dtype, const void* x, void* out, const Shape& shape, const Bins& bins,
                  int threads);
  void (*backward)(DType dtype, const void* grad_out, void* grad_x, const Shape& shape,
                   const Bins& bins, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

namespace cuda {
// More windows on an axis, over all grids, or longer axes are an error.
inline constexpr std::int64_t kMaxWindows = 128, kMaxAxis = std::int64_t{1} << 17;

// The workspace of the forward.
std::int64_t workspace_bytes(DType dtype, const Shape& shape, const Bins& bins);
void forward(DType dtype, const void* x, void* out, void* workspace, const Shape& shape,
             const Bins& bins, std::uintptr_t stream);
void backward(DType dtype, const void* grad_out, void* grad_x, const Shape& shape, const Bins& bins,
              std::uintptr_t stream);
} // namespace cuda

} // namespace fastseg::pyramid_pool
