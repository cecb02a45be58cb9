// Labels from the masks of queries: bilinear resize, sigmoid, sum over the queries with their class
// probabilities, crop, bilinear resize, argmax over the classes; nothing at full resolution.
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"
#include "common/label.h"

namespace fastseg::mask_argmax {

struct Shape {
  std::int64_t batch, queries, classes;
  std::int64_t in_h, in_w;     // of the masks
  std::int64_t size_h, size_w; // that they are resized to before the sigmoid
  std::int64_t crop_h, crop_w; // of that, from the upper left corner
  std::int64_t out_h, out_w;   // that the scores of the crop are resized to
  std::int64_t stride_n, stride_q, stride_h, stride_w; // of the masks, in elements
};

struct CpuKernels {
  // masks [N, Q, in_h, in_w], strided, probabilities [N, Q, C], dense, in what masks are computed
  // in -> labels [N, out_h, out_w], dense uint8 or int32
  void (*forward)(DType dtype, LabelType label_type, const void* masks, const void* probabilities,
                  void* labels, const Shape& shape, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

namespace cuda {
// Classes that a thread sums at a time: probabilities come with a multiple of it, zeros at the end.
inline constexpr std::int64_t kClasses = 8;
// Queries whose sigmoids fit into a block's shared memory.
std::int64_t max_queries(DType dtype);

// probabilities [N, Q, ceil(C / kClasses) * kClasses], aligned to 16 bytes.
void forward(DType dtype, LabelType label_type, const void* masks, const void* probabilities,
             void* labels, const Shape& shape, std::uintptr_t stream);
} // namespace cuda

} // namespace fastseg::mask_argmax
