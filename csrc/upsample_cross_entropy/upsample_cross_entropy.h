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

namespace cuda {

// sums [N, out_h, out_w], compute type: what a pixel's softmax divides by. With each source cell's
// largest logit subtracted from all its logits, it is the sum of e^z over the classes, at most
// their number; where that is below kSmallestSum, it is minus the sum of e^(z - max z). 1 for a
// pixel that does not count.
template <class T> inline constexpr T kSmallestSum = T(0x1p-60);

struct ForwardArguments {
  const void* logits;       // [N, C, in_h, in_w], strided
  const void* target;       // [N, out_h, out_w], dense
  const void* class_weight; // [C], compute type; null: all 1
  bool mean;                // of the loss; else the sum
  double* partials;         // workspace of partial_sums(shape) numbers
  void* sums;               // null: not wanted
  void* pixel_loss;         // [N, out_h, out_w], compute type; null: not wanted
  void* loss;               // one number, compute type
  double* total_weight;     // one number: the sum of the target classes' weights
  std::int64_t* bad;        // lowered to the flat index of the first bad target; may be null
};
// A bad target makes its pixel's loss NaN, and has no part in the weights and the gradient.
void forward(DType dtype, LabelType target_type, const ForwardArguments& arguments,
             const Shape& shape, std::uintptr_t stream);
std::int64_t partial_sums(const Shape& shape);

struct BackwardArguments {
  const void* logits;
  const void* target;
  const void* class_weight;
  const void* sums;           // of the forward
  const void* grad_loss;      // one number, or [N, out_h, out_w] dense; compute type
  bool per_pixel;             // grad_loss has a number for each pixel
  const double* total_weight; // the mean's; null for a sum
  void* grad_logits;          // [N, C, in_h, in_w] dense, type of logits
  bool grad_channels_last;
};
void backward(DType dtype, LabelType target_type, const BackwardArguments& arguments,
              const Shape& shape, std::uintptr_t stream);

} // namespace cuda

} // namespace fastseg::upsample_cross_entropy
