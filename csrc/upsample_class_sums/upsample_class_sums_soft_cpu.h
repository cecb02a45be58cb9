// Softmax of targets that are shares of each class: values [N, C, out_h, out_w], or the softmax of
// a teacher's low-resolution logits, upsampled as ours are.
#pragma once

#include "upsample_class_sums/upsample_class_sums_softmax_cpu.h"

namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL {
namespace {

template <class T> class SoftTargets {
  using V = vec<T>;
  using IV = ivec<T>;
  static constexpr int L = kLanes<T>;

public:
  SoftTargets(const Call<T>& call, PixelRows<T>& pixels, const Coefficients<T>& coefficients)
      : call_(call), pixels_(pixels), coefficients_(coefficients), C(call.s.classes), exp_(C * L),
        shares_(C * L), lanes_(call.a.kept * C * L),
        values_(call.a.target_kind == TargetKind::values ? kRows * call.width() * C : 0) {}

  void forward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi, std::int64_t row,
               const LogitRows<T>* teacher) {
    zero_row(lanes_.get(), call_.a.kept * C * L);
    visit(n, group, lo, hi, teacher,
          [&](const Blend<T>& z, const Normaliser<T>& normaliser, V v, std::int64_t, int) {
            const V log_sum = normaliser.loss(V{}), inverse = T(1) / normaliser.sum;
            for (std::int64_t c = 0; c < C; ++c) {
              const V p = load_vec(exp_.get() + c * L) * inverse;
              const V y = load_vec(shares_.get() + c * L);
              const V loss = log_sum - z(c) * T(kLn2);
              add(kProbability, c, p * v);
              add(kOverlap, c, p * y * v);
              add(kTarget, c, y * v);
              add(kCount, c, v);
              add(kSquare, c, p * p * v);
              add(kLoss, c, y != V{} ? y * loss * v : V{}); // not 0 * infinity
              add(kEveryLoss, c, loss * v);
              if (call_.wants(kNegativeEntropy)) add(kNegativeEntropy, c, y * log_of(y) * v);
            }
          });
    const Partials<T> partials(call_, n, row);
    for (int k = 0; k < kSums; ++k)
      for (std::int64_t c = 0; c < C && call_.wants(Sum(k)); ++c)
        partials.add(Sum(k), c, load_vec(lanes(Sum(k)) + c * L));
  }

  void backward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
                GradientRows<T>& gradient, const LogitRows<T>* teacher) {
    const T* const d_probability = coefficients_.of(kProbability);
    const T* const d_overlap = coefficients_.of(kOverlap);
    const T* const d_square = coefficients_.of(kSquare);
    const T* const d_loss = coefficients_.of(kLoss);
    const T* const d_every = coefficients_.of(kEveryLoss);
    visit(n, group, lo, hi, teacher,
          [&](const Blend<T>& z, const Normaliser<T>& normaliser, V v, std::int64_t b, int r) {
            (void)z;
            const V inverse = T(1) / normaliser.sum;
            // d / d z_c = v * (p_c * (region_c + common) - log_share_c), for the derivatives
            // region_c to p_c and log_share_c to log p_c.
            V common{};
            for (std::int64_t c = 0; c < C; ++c) {
              const V p = load_vec(exp_.get() + c * L) * inverse;
              const V y = load_vec(shares_.get() + c * L);
              const V region = d_probability[c] + p * (T(2) * d_square[c]) + y * d_overlap[c];
              common += y * d_loss[c] + d_every[c] - p * region;
            }
            T* const to_lo = gradient.lo(b);
            T* const to_hi = gradient.hi(b);
            const V v_lo = v * group.w_lo[r], v_hi = v * group.w_hi[r];
            for (std::int64_t c = 0; c < C; ++c) {
              const V p = load_vec(exp_.get() + c * L) * inverse;
              const V y = load_vec(shares_.get() + c * L);
              const V region = d_probability[c] + p * (T(2) * d_square[c]) + y * d_overlap[c];
              const V d = p * (region + common) - (y * d_loss[c] + d_every[c]);
              store_vec(to_lo + c * L, load_vec(to_lo + c * L) + d * v_lo);
              store_vec(to_hi + c * L, load_vec(to_hi + c * L) + d * v_hi);
            }
          });
  }

private:
  // Calls fn(logits, their normaliser, weights, block, row) with exp_ and shares_ of the block.
  template <class Fn>
  void visit(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
             const LogitRows<T>* teacher, const Fn& fn) {
    const std::int64_t size = kRows * call_.width();
    if (teacher == nullptr)
      for (std::int64_t c = 0; c < C; ++c) {
        pixels_.read_values(n, c, group);
        for (std::int64_t i = 0; i < group.count * call_.width(); i += L)
          store_vec(values_.get() + c * size + i, pixels_.values(0, i / L));
      }
    for (std::int64_t b = 0; b < call_.columns.blocks(); ++b) {
      const IV inside = pixels_.inside(b);
      for (int r = 0; r < group.count; ++r) {
        const Blend<T> z{lo + b * C * L, hi + b * C * L, group.w_lo[r], group.w_hi[r]};
        const Normaliser<T> normaliser(z, C, exp_.get());
        if (teacher != nullptr) {
          read_teacher(*teacher, group.y + r, b);
        } else {
          for (std::int64_t c = 0; c < C; ++c)
            store_vec(shares_.get() + c * L,
                      load_vec(values_.get() + c * size + r * call_.width() + b * L));
        }
        fn(z, normaliser, pixels_.weights(n, group.y + r, b, inside), b, r);
      }
    }
  }

  void read_teacher(const LogitRows<T>& teacher, std::int64_t y, std::int64_t b) {
    const Taps<T> t = taps<T>(*call_.teacher_rows, y);
    const bool one = t.hi == t.lo;
    const Blend<T> z{teacher.lo(b), teacher.hi(b), one ? T(1) : t.w_lo, one ? T(0) : t.w_hi};
    const Normaliser<T> normaliser(z, C, shares_.get());
    const V inverse = T(1) / normaliser.sum;
    for (std::int64_t c = 0; c < C; ++c)
      store_vec(shares_.get() + c * L, load_vec(shares_.get() + c * L) * inverse);
  }

  // log y, 0 where y is 0.
  static V log_of(V y) {
    const V log = log_positive(vmax(splat<T>(T(1e-37)), y));
    return y == V{} ? V{} : log;
  }

  T* lanes(Sum sum) { return lanes_.get() + call_.a.slots[sum] * C * L; }
  void add(Sum sum, std::int64_t c, V v) {
    if (!call_.wants(sum)) return;
    T* const to = lanes(sum) + c * L;
    store_vec(to, load_vec(to) + v);
  }

  const Call<T>& call_;
  PixelRows<T>& pixels_;
  const Coefficients<T>& coefficients_;
  std::int64_t C;
  Buffer<T> exp_, shares_, lanes_, values_;
};

} // namespace
} // namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL
