// Softmax of targets that are shares of each class: values [N, C, out_h, out_w], or the softmax of
// a teacher's low-resolution logits, upsampled as ours are. As with labels, all rows of a group
// visit a block of columns before the next one is touched.
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
      : call_(call), pixels_(pixels), coefficients_(coefficients), C(call.s.classes),
        regions_(call.wants(kProbability) || call.wants(kOverlap) || call.wants(kSquare) ||
                 call.wants(kEveryLoss)),
        divergence_(call.a.target_kind == TargetKind::logits && call.wants(kLoss) &&
                    call.wants(kNegativeEntropy)),
        exp_(kRows * C * L), shares_(kRows * C * L), lanes_(call.a.kept * C * L),
        values_(call.a.target_kind == TargetKind::values ? kRows * call.width() * C : 0) {}

  void forward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi, std::int64_t row,
               const LogitRows<T>* teacher) {
    zero_row(lanes_.get(), call_.a.kept * C * L);
    read_values(n, group, teacher);
    V count{};
    for (std::int64_t b = 0; b < call_.columns.blocks(); ++b) {
      Pixel pixels[kRows];
      for (int r = 0; r < group.count; ++r) {
        read(pixels[r], n, group, lo, hi, teacher, b, r, nullptr);
        count += pixels[r].weight;
        add(pixels[r]);
      }
      if (!divergence_) continue;
      int r = 0;
      for (; r + 4 <= group.count; r += 4) add_divergence<4>(pixels + r);
      for (; r < group.count; ++r) add_divergence<1>(pixels + r);
    }
    const Partials<T> partials(call_, n, row);
    for (int k = 0; k < kSums; ++k)
      for (std::int64_t c = 0; c < C && call_.wants(Sum(k)); ++c)
        partials.add(Sum(k), c, k == kCount ? count : load_vec(lanes(Sum(k)) + c * L));
  }

  void backward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
                GradientRows<T>& gradient, const LogitRows<T>* teacher) {
    read_values(n, group, teacher);
    const T* const d_loss = coefficients_.of(kLoss);
    for (std::int64_t b = 0; b < call_.columns.blocks(); ++b) {
      Row rows[kRows];
      for (int r = 0; r < group.count; ++r) {
        Row& row = rows[r];
        read(row.pixel, n, group, lo, hi, teacher, b, r, d_loss);
        row.common = regions_ ? common(row.pixel) : row.pixel.weighted * row.pixel.share;
        row.of_e = row.pixel.inverse * row.common * row.pixel.weight;
        row.of_y = row.pixel.share * row.pixel.weight;
      }
      int r = 0;
      for (; r + 4 <= group.count; r += 4)
        regions_ ? add_gradient<4, true>(gradient, b, rows + r)
                 : add_gradient<4, false>(gradient, b, rows + r);
      for (; r < group.count; ++r)
        regions_ ? add_gradient<1, true>(gradient, b, rows + r)
                 : add_gradient<1, false>(gradient, b, rows + r);
    }
  }

private:
  // A block of one output row. The probability of class c is e[c] * inverse, its target y[c] *
  // share; `weighted` is the sum of y[c] * weights[c], where there are weights.
  struct Pixel {
    T *e, *y;
    Blend<T> z;
    V inverse, share, weight, log_sum, weighted;
    Blend<T> teacher; // its log y is teacher(c) * ln 2 - teacher_log_sum
    V teacher_log_sum;
  };

  void read(Pixel& p, std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
            const LogitRows<T>* teacher, std::int64_t b, int r, const T* weights) {
    T *const e = exp_.get() + r * C * L, *const y = shares_.get() + r * C * L;
    p.e = e;
    p.y = y;
    p.z = {lo + b * C * L, hi + b * C * L, group.w_lo[r], group.w_hi[r]};
    const Normaliser<T> own(p.z, C, e);
    p.inverse = T(1) / own.sum;
    p.log_sum = own.loss(V{});
    p.weight = pixels_.weights(n, group.y + r, b, pixels_.inside(b));
    if (teacher != nullptr) {
      const Taps<T> t = taps<T>(*call_.teacher_rows, group.y + r);
      const bool one = t.hi == t.lo;
      p.teacher = {teacher->lo(b), teacher->hi(b), one ? T(1) : t.w_lo, one ? T(0) : t.w_hi};
      const Normaliser<T> other = weights == nullptr ? Normaliser<T>(p.teacher, C, y)
                                                     : Normaliser<T>(p.teacher, C, y, weights);
      p.share = T(1) / other.sum;
      p.teacher_log_sum = other.loss(V{});
      p.weighted = other.weighted;
      return;
    }
    p.share = splat<T>(T(1));
    p.weighted = V{};
    const T* const from = values_.get() + r * call_.width() + b * L;
    const std::int64_t step = kRows * call_.width();
    for (std::int64_t c = 0; c < C; ++c) {
      const V v = load_vec(from + c * step);
      store_vec(y + c * L, v);
      if (weights != nullptr) p.weighted += v * weights[c];
    }
  }

  // The values of a group: [C][kRows][width].
  void read_values(std::int64_t n, const RowGroup<T>& group, const LogitRows<T>* teacher) {
    for (std::int64_t c = 0; c < C && teacher == nullptr; ++c) {
      pixels_.read_values(n, c, group);
      T* const to = values_.get() + c * kRows * call_.width();
      for (std::int64_t i = 0; i < group.count * call_.width(); i += L)
        store_vec(to + i, pixels_.values(0, i / L));
    }
  }

  // Adds a pixel's terms to the lanes of the wanted sums, one after the other.
  void add(const Pixel& p) {
    const T *const e = p.e, *const y = p.y;
    const V p_weight = p.inverse * p.weight, y_weight = p.share * p.weight;
    const V both = p_weight * p.share, squares = p_weight * p.inverse;
    const auto of = [](const T* values, std::int64_t c) { return load_vec(values + c * L); };
    add(kProbability, [=](std::int64_t c) { return of(e, c) * p_weight; });
    add(kOverlap, [=](std::int64_t c) { return of(e, c) * of(y, c) * both; });
    add(kTarget, [=](std::int64_t c) { return of(y, c) * y_weight; });
    add(kSquare, [=](std::int64_t c) { return of(e, c) * of(e, c) * squares; });
    const Blend<T> z = p.z, other = p.teacher;
    const V log_sum = p.log_sum, other_sum = p.teacher_log_sum, weight = p.weight;
    add(kEveryLoss, [=](std::int64_t c) { return (log_sum - z(c) * T(kLn2)) * weight; });
    if (divergence_) return;
    add(kLoss, [=](std::int64_t c) {
      const V share = of(y, c);
      const V loss = share * (log_sum - z(c) * T(kLn2)) * y_weight;
      return share != V{} ? loss : V{}; // not 0 * infinity
    });
    if (call_.teacher_rows != nullptr)
      add(kNegativeEntropy,
          [=](std::int64_t c) { return of(y, c) * (other(c) * T(kLn2) - other_sum) * y_weight; });
    else
      add(kNegativeEntropy, [=](std::int64_t c) { return of(y, c) * log_of(of(y, c)) * weight; });
  }
  template <class Term> void add(Sum sum, const Term& term) {
    if (!call_.wants(sum)) return;
    T* const to = lanes(sum);
    const std::int64_t classes = C; // a local copy: a vector store may alias any member
    for (std::int64_t c = 0; c < classes; ++c)
      store_vec(to + c * L, load_vec(to + c * L) + term(c));
  }
  // kLoss and kNegativeEntropy of R rows, one visit for all. A teacher's share is never 0.
  template <int R> void add_divergence(const Pixel* pixels) {
    T *const to_loss = lanes(kLoss), *const to_entropy = lanes(kNegativeEntropy);
    const std::int64_t classes = C;
    V shares[R];
    for (int r = 0; r < R; ++r) shares[r] = pixels[r].share * pixels[r].weight;
    for (std::int64_t c = 0; c < classes; ++c) {
      const V lo = load_vec(pixels->z.lo + c * L), hi = load_vec(pixels->z.hi + c * L);
      const V teacher_lo = load_vec(pixels->teacher.lo + c * L);
      const V teacher_hi = load_vec(pixels->teacher.hi + c * L);
      V loss = load_vec(to_loss + c * L), entropy = load_vec(to_entropy + c * L);
      for (int r = 0; r < R; ++r) {
        const Pixel& p = pixels[r];
        const V y = load_vec(p.y + c * L) * shares[r];
        const V z = lo * p.z.w_lo + hi * p.z.w_hi;
        const V t = teacher_lo * p.teacher.w_lo + teacher_hi * p.teacher.w_hi;
        loss += y * (p.log_sum - z * T(kLn2));
        entropy += y * (t * T(kLn2) - p.teacher_log_sum);
      }
      store_vec(to_loss + c * L, loss);
      store_vec(to_entropy + c * L, entropy);
    }
  }
  T* lanes(Sum sum) { return lanes_.get() + call_.a.slots[sum] * C * L; }

  // log y, 0 where y is 0.
  static V log_of(V y) {
    const V log = log_positive(vmax(splat<T>(T(1e-37)), y));
    return y == V{} ? V{} : log;
  }

  // d / d z_c = weight * (p_c * (region_c + common) - log_share_c), for the derivatives region_c to
  // p_c and log_share_c to log p_c; common = sum of log_share_c - p_c region_c.
  V region(std::int64_t c, V p, V y) const {
    return coefficients_.of(kProbability)[c] + p * (T(2) * coefficients_.of(kSquare)[c]) +
           y * coefficients_.of(kOverlap)[c];
  }
  V common(const Pixel& pixel) const {
    const T* const d_every = coefficients_.of(kEveryLoss);
    V sum = pixel.weighted * pixel.share;
    for (std::int64_t c = 0; c < C; ++c) {
      const V p = load_vec(pixel.e + c * L) * pixel.inverse;
      sum += d_every[c] - p * region(c, p, load_vec(pixel.y + c * L) * pixel.share);
    }
    return sum;
  }

  struct Row {
    Pixel pixel;
    V common;
    V of_e, of_y; // without regions: the gradient is e of_e - y of_y d_loss
  };
  // Adds the gradients of R output rows to those of the two source rows, one visit for all.
  template <int R, bool Regions>
  void add_gradient(GradientRows<T>& gradient, std::int64_t b, const Row* rows) const {
    const std::int64_t classes = C;
    const T *const d_loss = coefficients_.of(kLoss), *const d_every = coefficients_.of(kEveryLoss);
    T *const to_lo = gradient.lo(b), *const to_hi = gradient.hi(b);
    for (std::int64_t c = 0; c < classes; ++c) {
      V lo = load_vec(to_lo + c * L), hi = load_vec(to_hi + c * L);
      const V of_loss = splat<T>(d_loss[c]);
      for (int r = 0; r < R; ++r) {
        const Row& row = rows[r];
        const Pixel& at = row.pixel;
        const V e = load_vec(at.e + c * L), share = load_vec(at.y + c * L);
        V d;
        if constexpr (Regions) {
          const V p = e * at.inverse, y = share * at.share;
          d = (p * (region(c, p, y) + row.common) - (y * of_loss + d_every[c])) * at.weight;
        } else {
          d = e * row.of_e - share * row.of_y * of_loss;
        }
        lo += d * at.z.w_lo;
        hi += d * at.z.w_hi;
      }
      store_vec(to_lo + c * L, lo);
      store_vec(to_hi + c * L, hi);
    }
  }

  const Call<T>& call_;
  PixelRows<T>& pixels_;
  const Coefficients<T>& coefficients_;
  std::int64_t C;
  bool regions_;    // sums whose derivative is not that of log p alone
  bool divergence_; // of a teacher: both of its sums
  Buffer<T> exp_, shares_, lanes_, values_;
};

} // namespace
} // namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL
