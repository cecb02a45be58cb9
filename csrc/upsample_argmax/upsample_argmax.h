// Bilinear upsampling of logits + argmax over the classes, without the full-resolution logits.
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"
#include "common/label.h"

namespace fastseg::upsample_argmax {

struct Shape {
  std::int64_t batch, classes;
  std::int64_t in_h, in_w;   // of the logits
  std::int64_t out_h, out_w; // of the labels
  bool align_corners;
  std::int64_t stride_n, stride_c, stride_h, stride_w; // of the logits, in elements
};

struct CpuKernels {
  // logits [N, C, in_h, in_w], strided -> labels [N, out_h, out_w], dense uint8 or int32
  void (*forward)(DType dtype, LabelType label_type, const void* logits, void* labels,
                  const Shape& shape, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

namespace cuda {
void forward(DType dtype, LabelType label_type, const void* logits, void* labels,
             const Shape& shape, std::uintptr_t stream);
} // namespace cuda

} // namespace fastseg::upsample_argmax
