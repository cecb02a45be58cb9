// Multi-scale deformable attention: every query sums values at a few places between the cells of
// several maps (Zhu et al., Deformable DETR, 2021, equation 3).
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"

namespace fastseg::deformable_attention {

struct Shape {
  std::int64_t batch;
  std::int64_t cells; // of all levels
  std::int64_t heads, channels;
  std::int64_t queries, points; // points: of a query, per head and level
};

// Level l has heights[l] x widths[l] cells, perhaps none. Host memory.
struct Levels {
  const std::int64_t* heights;
  const std::int64_t* widths;
  std::int64_t count;
};

// All tensors are contiguous. value [N, S, M, D], out and grad_out [N, Q, M, D] are stored in
// `dtype`; locations [N, Q, M, L, P, 2] (x, y), weights [N, Q, M, L, P] and their gradients in what
// it is computed in.
struct CpuKernels {
  void (*forward)(DType dtype, const void* value, const void* locations, const void* weights,
                  void* out, const Shape& shape, const Levels& levels, int threads);
  void (*backward)(DType dtype, const void* grad_out, const void* value, const void* locations,
                   const void* weights, void* grad_value, void* grad_locations, void* grad_weights,
                   const Shape& shape, const Levels& levels, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

namespace cuda {
inline constexpr std::int64_t kMaxLevels = 16;

// How many bins points are sorted into; the last one takes those that lie outside of their map.
std::int64_t bins(const Shape& shape, const Levels& levels);

void forward(DType dtype, const void* value, const void* locations, const void* weights, void* out,
             const Shape& shape, const Levels& levels, std::uintptr_t stream);
// grad_locations and grad_weights; and the bin of every point, int32 [N, Q, M, L, P].
void backward_points(DType dtype, const void* grad_out, const void* value, const void* locations,
                     const void* weights, void* grad_locations, void* grad_weights, void* bin,
                     const Shape& shape, const Levels& levels, std::uintptr_t stream);
// grad_value, from the points (int64, flat indices) sorted by bin and where each bin begins in them
// (int64 [bins + 1]).
void backward_value(DType dtype, const void* grad_out, const void* locations, const void* weights,
                    const void* sorted, const void* begins, void* grad_value, const Shape& shape,
                    const Levels& levels, std::uintptr_t stream);
} // namespace cuda

} // namespace fastseg::deformable_attention
