// Confusion matrix of upsampled logits against a target, without logits or labels at full
// resolution.
#pragma once

#include <cstdint>

#include "common/label.h"
#include "upsample_argmax/upsample_argmax.h"

namespace fastseg::upsample_confusion_matrix {

using upsample_argmax::Shape; // out_h, out_w: of the target

struct CpuKernels {
  // logits [N, C, in_h, in_w], strided; target [N, out_h, out_w], dense -> counts [C, C], dense:
  // counts[t, p] = pixels of class t that were labelled p. Returns the flat index of the first
  // target that is neither a class nor ignore_index, or -1.
  std::int64_t (*forward)(DType dtype, LabelType target_type, const void* logits,
                          const void* target, std::int64_t ignore_index, std::int64_t* counts,
                          const Shape& shape, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

namespace cuda {
// Adds to counts. Targets that are neither a class nor ignore_index are not counted; the flat index
// of the first one lowers *bad, if that is not null.
void forward(DType dtype, LabelType target_type, const void* logits, const void* target,
             std::int64_t ignore_index, std::int64_t* counts, std::int64_t* bad, const Shape& shape,
             std::uintptr_t stream);
} // namespace cuda

} // namespace fastseg::upsample_confusion_matrix
