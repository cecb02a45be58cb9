// The second half of a convolution of resized maps: the products with every tap of the kernel are
// at hand at low resolution; here they are resized, shifted and summed.
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"

namespace fastseg::upsample_taps {

inline constexpr int kMaxSources = 4;

struct Shape {
  std::int64_t batch;
  std::int64_t channels; // of the result
  std::int64_t out_h, out_w;
  int kernel; // 1 or 3: rows and columns of taps
  bool nearest, align_corners;
};

// [N, h, w, kernel * kernel, channels]: dense channels_last maps, channel after channel of a tap.
struct Source {
  const void* taps;
  std::int64_t h, w;
};

// forward: sources and `added` (may be null) -> out, both [N, out_h, out_w, channels]
// backward: grad_out -> grad_taps of a source of h x w
struct CpuKernels {
  void (*forward)(DType dtype, const Source* sources, int count, const void* added, void* out,
                  const Shape& shape, int threads);
  void (*backward)(DType dtype, const void* grad_out, void* grad_taps, std::int64_t h,
                   std::int64_t w, const Shape& shape, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

namespace cuda { // the same
void forward(DType dtype, const Source* sources, int count, const void* added, void* out,
             const Shape& shape, std::uintptr_t stream);
void backward(DType dtype, const void* grad_out, void* grad_taps, std::int64_t h, std::int64_t w,
              const Shape& shape, std::uintptr_t stream);
} // namespace cuda

} // namespace fastseg::upsample_taps
