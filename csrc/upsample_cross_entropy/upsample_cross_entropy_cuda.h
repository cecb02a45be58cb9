// What the two directions of the CUDA twin share.
//
// Logits come times log2 e, so that the softmax is one 2^x per pixel and class: the unit for it is
// what limits both kernels. The forward adds up 2^z without looking for the maximum first; a sum
// that left the safe range is done again with it.
#pragma once

#include "common/logit_tiles_cuda.h"
#include "upsample_cross_entropy/upsample_cross_entropy.h"

namespace fastseg::upsample_cross_entropy::cuda {

template <class T> inline constexpr T kLog2E = T(1.44269504088896340736);
template <class T> inline constexpr T kLn2 = T(0.693147180559945309417);

// Targets, and the weights of the loss. Class c of a pixel with target t has the share
// own * [c == t] + each * weight(c) of -log p_c in its loss, own = weight(t) * (1 - smoothing).
template <class T> struct Loss {
  const void* target;
  LabelType target_type;
  std::int64_t ignore_index;
  int classes;
  const T* class_weight; // null: all 1
  T smoothing, each;

  // The class of a pixel, -1 if it does not count, -2 if it is bad.
  FASTSEG_DEVICE int label(std::int64_t pixel) const {
    const std::int64_t t = load_label(target, target_type, pixel);
    return t == ignore_index ? -1 : t < 0 || t >= classes ? -2 : static_cast<int>(t);
  }
  FASTSEG_DEVICE T weight(int c) const {
    return class_weight == nullptr ? T(1) : load(class_weight + c);
  }
  FASTSEG_DEVICE T own(int t) const { return weight(t) * (T(1) - smoothing); }
  FASTSEG_DEVICE T weight_sum() const {
    if (class_weight == nullptr) return static_cast<T>(classes);
    T sum = 0;
    for (int c = 0; c < classes; ++c) sum += weight(c);
    return sum;
  }
};
template <class T, class Arguments>
Loss<T> loss_of(LabelType target_type, const Arguments& a, const Shape& s) {
  return {a.target,
          target_type,
          s.ignore_index,
          static_cast<int>(s.classes),
          static_cast<const T*>(a.class_weight),
          static_cast<T>(s.label_smoothing),
          static_cast<T>(s.label_smoothing / static_cast<double>(s.classes))};
}

// Classes modulo 32 as bits: whether a thread need look for its targets at a class.
FASTSEG_DEVICE unsigned class_bit(int c) { return c < 0 ? 0u : 1u << (c & 31); }

} // namespace fastseg::upsample_cross_entropy::cuda
