// Bilinear upsampling of logits + softmax cross-entropy, forward and gradient, without the
// full-resolution logits.
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"
#include "common/label.h"

namespace fastseg::upsample_cross_entropy {

struct Shape {
  std::int64_t batch, classes;
  std::int64_t in_h, in_w;   // of the logits
  std::int64_t out_h, out_w; // of the target
  bool align_corners;
  std::int64_t stride_n, stride_c, stride_h, stride_w; // of the logits, in elements
  std::int64_t ignore_index;
  double label_smoothing;
};

// Everything the op computes comes out of one pass over the pixels; a null pointer means: not
// wanted. "compute type" is double for float64 logits, else float.
struct Arguments {
  const void* logits;       // [N, C, in_h, in_w], strided
  const void* target;       // [N, out_h, out_w], dense
  const void* class_weight; // [C], compute type; null: all 1
  const void* pixel_scale;  // [N, out_h, out_w], compute type: d(result)/d(pixel loss); null: all 1
  double* loss_sum;         // [2]: sum of the pixel losses, sum of the target classes' weights
  void* pixel_loss;         // [N, out_h, out_w], compute type
  void* grad_logits;        // [N, C, in_h, in_w] dense, compute type
  bool grad_channels_last;  // layout of grad_logits
};

struct CpuKernels {
  // Returns the flat index of the first target that is neither a class nor ignore_index, or -1.
  std::int64_t (*run)(DType dtype, LabelType target_type, const Arguments& arguments,
                      const Shape& shape, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

} // namespace fastseg::upsample_cross_entropy
