// Bilinear upsampling of logits + softmax or sigmoid + sums over the pixels per image and class,
// and the gradient of any function of these sums, without the full-resolution logits.
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"
#include "common/label.h"

namespace fastseg::upsample_class_sums {

// What can be summed over the pixels, each times the pixel's weight v; p is the probability of the
// class, y its target in [0, 1]. The order is the contract with fastseg/ops/upsample_class_sums.
// With w(t) = ((1 - t) / r)^gamma, and 1 where t < r:
enum Sum : int {
  kProbability,         // p
  kOverlap,             // p y
  kTarget,              // y
  kCount,               // 1
  kSquare,              // p p
  kLoss,                // -y log p
  kNegativeLoss,        // -(1 - y) log(1 - p)            (sigmoid)
  kEveryLoss,           // -log p
  kFocal,               // -y w(p) log p
  kNegativeFocal,       // -(1 - y) w(1 - p) log(1 - p)   (sigmoid)
  kFocalWeight,         // y w(p)
  kNegativeFocalWeight, // (1 - y) w(1 - p)               (sigmoid)
  kMinimum,             // min(p, y)                      (sigmoid)
  kNegativeEntropy,     // y log y                        (softmax)
  kNegativeEveryLoss,   // -log(1 - p)                    (sigmoid)
  kSums
};

enum class TargetKind : int {
  labels = 0, // [N, out_h, out_w] classes; sigmoid of one class: 0 and 1
  values = 1, // [N, C, out_h, out_w] y; with sigmoid, ignore_index does not count, and integers are
              // 0 or 1
  logits = 2, // [N, C, teacher_h, teacher_w], compute type: y is their softmax, upsampled first
};

// Of `labels` and of `values`; compute: float, for float64 logits double.
enum class TargetType : int { uint8 = 0, int32 = 1, int64 = 2, compute = 3 };

struct Shape {
  std::int64_t batch, classes;
  std::int64_t in_h, in_w;   // of the logits
  std::int64_t out_h, out_w; // of the target
  bool align_corners;
  std::int64_t stride_n, stride_c, stride_h, stride_w; // of the logits, in elements
  std::int64_t teacher_h, teacher_w;                   // 0: no teacher
  bool sigmoid;
  std::int64_t ignore_index;
  double gamma, reduced_threshold;

  // Classes that labels may be.
  std::int64_t labels() const { return sigmoid && classes == 1 ? 2 : classes; }
};

// Forward: `sums` is set; backward: `coefficients` and `grad_logits`.
struct Arguments {
  const void* logits; // [N, C, in_h, in_w], strided
  const void* target; // dense
  TargetKind target_kind;
  TargetType target_type;
  const void* pixel_weight; // [N, out_h, out_w], compute type; null: all 1
  int slots[kSums];         // place of each sum among the `kept` ones, or -1
  std::int64_t kept;
  double* sums;             // [N, kept, C]
  const void* coefficients; // [N, kept, C], compute type: d(result) / d(sums)
  void* grad_logits;        // [N, C, in_h, in_w] dense, compute type
  bool grad_channels_last;
};

struct CpuKernels {
  // Returns the flat index of the first label that is neither a class nor ignore_index, or -1.
  std::int64_t (*run)(DType dtype, const Arguments& arguments, const Shape& shape, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

namespace cuda {

// `workspace` has workspace_bytes(...) bytes, aligned to 16. The gradient is in the type of logits.
// `bad`: lowered to the flat index of the first bad label; may be null. A bad label makes the sums
// of its image NaN, and has no part in the gradient.
std::int64_t workspace_bytes(DType dtype, const Arguments& arguments, const Shape& shape);
void forward(DType dtype, const Arguments& arguments, const Shape& shape, void* workspace,
             std::int64_t* bad, std::uintptr_t stream);
void backward(DType dtype, const Arguments& arguments, const Shape& shape, void* workspace,
              std::uintptr_t stream);

} // namespace cuda

} // namespace fastseg::upsample_class_sums
