// Softmax. All rows of a group visit a block of columns before the next one is touched: the powers
// of two of each row lie in the first-level cache, and sums (gradients) are updated for up to four
// rows at a time.
//
// There is no pass for the maximum: each source row is shifted by its own maximum over the classes,
// so a blend of two of them is <= 0. Where that bound is too far above the true maximum (the sum
// would underflow), the maximum is searched after all.
#pragma once

#include "upsample_class_sums/upsample_class_sums_cpu.h"

namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL {
namespace {

// Shifts logits [C][kLanes] by their maximum and turns them to powers of two: exp(x - max) ==
// 2^result.
template <class T> inline void normalise(T* values, std::int64_t classes) {
  constexpr int L = kLanes<T>;
  vec<T> maximum = load_vec(values);
  for (std::int64_t c = 1; c < classes; ++c) maximum = vmax(maximum, load_vec(values + c * L));
  for (std::int64_t c = 0; c < classes; ++c)
    store_vec(values + c * L, (load_vec(values + c * L) - maximum) * T(1.0 / kLn2));
}

// The upsampled logits of a block: blends of two normalised source rows.
template <class T> struct Blend {
  const T *lo, *hi;
  T w_lo, w_hi;
  vec<T> operator()(std::int64_t c) const {
    return load_vec(lo + c * kLanes<T>) * w_lo + load_vec(hi + c * kLanes<T>) * w_hi;
  }
};

// Sum of the classes' 2^(z - shift), stored to `e`; shift is 0 unless that sum would be too small.
// `weighted`: the same with each class times its weight, where there are weights.
template <class T> struct Normaliser {
  vec<T> sum{}, shift{}, weighted{};

  Normaliser(const Blend<T>& z, std::int64_t classes, T* e) {
    run<false, false>(z, classes, e, nullptr);
    search<false>(z, classes, e, nullptr);
  }
  Normaliser(const Blend<T>& z, std::int64_t classes, T* e, const T* weights) {
    run<false, true>(z, classes, e, weights);
    search<true>(z, classes, e, weights);
  }
  // -log of the probability of the class with logit z.
  vec<T> loss(vec<T> z) const { return log_positive(sum) + (shift - z) * T(kLn2); }

private:
  template <bool Shifted, bool Weighted>
  void run(const Blend<T> z, std::int64_t classes, T* e, const T* weights) {
    vec<T> s{}, w{};
    const vec<T> offset = shift;
    for (std::int64_t c = 0; c < classes; ++c) {
      const vec<T> v = exp2_nonpositive(Shifted ? z(c) - offset : z(c));
      store_vec(e + c * kLanes<T>, v);
      s += v;
      if constexpr (Weighted) w += v * weights[c];
    }
    sum = s;
    weighted = w;
  }
  template <bool Weighted>
  void search(const Blend<T>& z, std::int64_t classes, T* e, const T* weights) {
    if (!any<T>(sum < T(0x1p-40))) return;
    shift = z(0);
    for (std::int64_t c = 1; c < classes; ++c) shift = vmax(z(c), shift);
    run<true, Weighted>(z, classes, e, weights);
  }
};

// Targets that are labels. With other targets: upsample_class_sums_soft_cpu.h.
template <class T> class Softmax {
  using V = vec<T>;
  using IV = ivec<T>;
  static constexpr int L = kLanes<T>;

public:
  Softmax(const Call<T>& call, PixelRows<T>& pixels, const Coefficients<T>& coefficients)
      : call_(call), pixels_(pixels), coefficients_(coefficients), modulation_(call.s),
        with_focal_(call.wants(kFocal) || call.wants(kFocalWeight)), C(call.s.classes),
        exp_(kRows * C * L), lanes_(kOfClasses * C * L), targets_(kOfTargets * C) {}

  void forward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
               std::int64_t row) {
    pixels_.read_labels(n, group);
    zero_row(lanes_.get(), kOfClasses * C * L);
    zero_row(targets_.get(), kOfTargets * C);
    const bool squares = call_.wants(kSquare), every = call_.wants(kEveryLoss);
    for (std::int64_t b = 0; b < call_.columns.blocks(); ++b) {
      Row rows[kRows];
      int visited = 0; // rows with a pixel that counts
      for (int r = 0; r < group.count; ++r) {
        const IV label = pixels_.labels(r, b), counts = label >= 0;
        if (!any<T>(counts)) continue;
        Row& o = rows[visited];
        o.e = exp_.get() + visited * C * L;
        ++visited;
        const IV target = label & counts;
        const Blend<T> z{lo + b * C * L, hi + b * C * L, group.w_lo[r], group.w_hi[r]};
        const Normaliser<T> normaliser(z, C, o.e);
        const V v = pixels_.weights(n, group.y + r, b, counts);
        const V inverse = counts ? T(1) / normaliser.sum : V{};
        o.inverse = inverse;
        o.weight = v;
        const IV own = target * L + iota<T>();
        const V p = gather(o.e, own) * inverse;
        const V logit = gather(z.lo, own) * z.w_lo + gather(z.hi, own) * z.w_hi;
        V loss = normaliser.loss(logit);
        loss = counts ? loss : V{}; // not a product: an ignored pixel may hold NaN
        add_target(label, target, v, p, loss);
        if (every) add_every(z, normaliser, counts, v);
      }
      const bool weighted = call_.a.pixel_weight != nullptr;
      int r = 0;
      for (; r + 4 <= visited; r += 4)
        squares || weighted ? sweep<4, true>(rows + r) : sweep<4, false>(rows + r);
      for (; r < visited; ++r)
        squares || weighted ? sweep<1, true>(rows + r) : sweep<1, false>(rows + r);
    }
    flush(Partials<T>(call_, n, row));
  }

  void backward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
                GradientRows<T>& gradient) {
    pixels_.read_labels(n, group);
    const T* const d_probability = coefficients_.of(kProbability);
    const T* const d_square = coefficients_.of(kSquare);
    const T* const d_every = coefficients_.of(kEveryLoss);
    const bool squares = call_.wants(kSquare), every = call_.wants(kEveryLoss);
    T every_sum = 0;
    for (std::int64_t c = 0; c < C; ++c) every_sum += d_every[c];
    for (std::int64_t b = 0; b < call_.columns.blocks(); ++b) {
      Row rows[kRows];
      int visited = 0;
      for (int r = 0; r < group.count; ++r) {
        const IV label = pixels_.labels(r, b), counts = label >= 0;
        if (!any<T>(counts)) continue;
        Row& o = rows[visited];
        o.e = exp_.get() + visited * C * L;
        ++visited;
        o.target = label & counts;
        const Blend<T> z{lo + b * C * L, hi + b * C * L, group.w_lo[r], group.w_hi[r]};
        const Normaliser<T> normaliser(z, C, o.e, d_probability);
        const V v = pixels_.weights(n, group.y + r, b, counts);
        const V inverse = counts ? T(1) / normaliser.sum : V{};
        const IV own = o.target * L + iota<T>();
        const V p = gather(o.e, own) * inverse;
        V d_own = gather(coefficients_.of(kLoss), o.target);
        if (with_focal_) d_own += focal(normaliser, z, own, p, o.target);
        const V at_target = p * gather(coefficients_.of(kOverlap), o.target);
        V mean = normaliser.weighted * inverse + at_target;
        if (squares) mean += T(2) * weighted_squares(o.e, d_square) * inverse * inverse;
        // d / d z_c = v * (p_c * (d_probability_c + 2 p_c d_square_c + common) + [c == target] *
        // (at_target - d_own))
        o.common = d_own - mean;
        if (every) o.common += every_sum;
        o.off_target = (at_target - d_own) * normaliser.sum;
        o.inverse = T(2) * inverse;
        o.f_lo = v * inverse * group.w_lo[r];
        o.f_hi = v * inverse * group.w_hi[r];
        if (every) subtract_every(gradient, b, v * group.w_lo[r], v * group.w_hi[r], d_every);
      }
      int r = 0;
      for (; r + 4 <= visited; r += 4)
        squares ? add_gradient<4, true>(gradient, b, rows + r)
                : add_gradient<4, false>(gradient, b, rows + r);
      for (; r < visited; ++r)
        squares ? add_gradient<1, true>(gradient, b, rows + r)
                : add_gradient<1, false>(gradient, b, rows + r);
    }
  }

private:
  // Sums of every class, in lanes; sums of the target's class, in double.
  enum { kLanesProbability, kLanesSquare, kLanesEvery, kOfClasses };
  enum { kAtOverlap, kAtTarget, kAtLoss, kAtFocal, kAtFocalWeight, kOfTargets };

  // A block of one output row: powers of two of its logits, and what they are multiplied with.
  struct Row {
    T* e;
    IV target;
    V inverse, weight;
    V common, off_target, f_lo, f_hi;
  };

  void add_target(IV label, IV target, V v, V p, V loss) {
    V focal{}, focal_weight{};
    if (with_focal_) {
      focal_weight = modulation_(p, T(1) - p).weight * v;
      focal = focal_weight * loss;
    }
    const V overlap = p * v, weighted = loss * v;
    double* const to = targets_.get();
    int lane = 0;
    while (label[lane] < 0) ++lane;
    const std::int64_t first = label[lane];
    if (!any<T>((label >= 0) & (label != isplat<T>(label[lane])))) {
      to[kAtOverlap * C + first] += static_cast<double>(reduce_add<T>(overlap));
      to[kAtTarget * C + first] += static_cast<double>(reduce_add<T>(v));
      to[kAtLoss * C + first] += static_cast<double>(reduce_add<T>(weighted));
      if (!with_focal_) return;
      to[kAtFocal * C + first] += static_cast<double>(reduce_add<T>(focal));
      to[kAtFocalWeight * C + first] += static_cast<double>(reduce_add<T>(focal_weight));
      return;
    }
    // Lanes that do not count add zeros to class 0.
    for (int k = 0; k < L; ++k) {
      to[kAtOverlap * C + target[k]] += static_cast<double>(overlap[k]);
      to[kAtTarget * C + target[k]] += static_cast<double>(v[k]);
      to[kAtLoss * C + target[k]] += static_cast<double>(weighted[k]);
    }
    for (int k = 0; with_focal_ && k < L; ++k) {
      to[kAtFocal * C + target[k]] += static_cast<double>(focal[k]);
      to[kAtFocalWeight * C + target[k]] += static_cast<double>(focal_weight[k]);
    }
  }

  void add_every(const Blend<T>& z, const Normaliser<T>& normaliser, IV counts, V v) {
    T* const to = lanes_.get() + kLanesEvery * C * L;
    for (std::int64_t c = 0; c < C; ++c) {
      const V loss = normaliser.loss(z(c)) * v;
      store_vec(to + c * L, load_vec(to + c * L) + (counts ? loss : V{}));
    }
  }

  template <int R, bool General> void sweep(const Row* rows) {
    const std::int64_t classes = C; // a local copy: a vector store may alias any member
    T* const p = lanes_.get() + kLanesProbability * classes * L;
    T* const q = lanes_.get() + kLanesSquare * classes * L;
    for (std::int64_t c = 0; c < classes; ++c) {
      V sum = load_vec(p + c * L), squares = General ? load_vec(q + c * L) : V{};
      for (int r = 0; r < R; ++r) {
        const V v = load_vec(rows[r].e + c * L) * rows[r].inverse;
        if constexpr (General) {
          sum += v * rows[r].weight;
          squares += v * v * rows[r].weight;
        } else {
          sum += v;
        }
      }
      store_vec(p + c * L, sum);
      if constexpr (General) store_vec(q + c * L, squares);
    }
  }

  void flush(const Partials<T>& partials) const {
    const T* const lanes = lanes_.get();
    const double* const targets = targets_.get();
    for (std::int64_t c = 0; c < C; ++c) {
      partials.add(kProbability, c, load_vec(lanes + (kLanesProbability * C + c) * L));
      partials.add(kSquare, c, load_vec(lanes + (kLanesSquare * C + c) * L));
      partials.add(kEveryLoss, c, load_vec(lanes + (kLanesEvery * C + c) * L));
    }
    double count = 0;
    for (std::int64_t c = 0; c < C; ++c) count += targets[kAtTarget * C + c];
    const Sum sums[] = {kOverlap, kTarget, kLoss, kFocal, kFocalWeight};
    for (int k = 0; k < kOfTargets; ++k)
      if (double* const to = partials.of(sums[k]))
        for (std::int64_t c = 0; c < C; ++c) to[c] += targets[k * C + c];
    if (double* const to = partials.of(kCount))
      for (std::int64_t c = 0; c < C; ++c) to[c] += count;
  }

  V weighted_squares(const T* e, const T* coefficients) const {
    V sum{};
    for (std::int64_t c = 0; c < C; ++c) {
      const V v = load_vec(e + c * L);
      sum += v * v * coefficients[c];
    }
    return sum;
  }

  // What the focal sums add to d / d(-log p) of the target's class.
  V focal(const Normaliser<T>& normaliser, const Blend<T>& z, IV own, V p, IV target) const {
    const V logit = gather(z.lo, own) * z.w_lo + gather(z.hi, own) * z.w_hi;
    const V loss = normaliser.loss(logit);
    const auto at = modulation_(p, T(1) - p);
    return gather(coefficients_.of(kFocal), target) * (at.weight - p * at.slope * loss) -
           gather(coefficients_.of(kFocalWeight), target) * p * at.slope;
  }

  void subtract_every(GradientRows<T>& gradient, std::int64_t b, V v_lo, V v_hi,
                      const T* d_every) const {
    T* const to_lo = gradient.lo(b);
    T* const to_hi = gradient.hi(b);
    for (std::int64_t c = 0; c < C; ++c) {
      store_vec(to_lo + c * L, load_vec(to_lo + c * L) - v_lo * d_every[c]);
      store_vec(to_hi + c * L, load_vec(to_hi + c * L) - v_hi * d_every[c]);
    }
  }

  // Adds the gradients of R output rows to those of the two source rows, one visit for all.
  template <int R, bool Squares>
  void add_gradient(GradientRows<T>& gradient, std::int64_t b, const Row* rows) const {
    const std::int64_t classes = C;
    const T* const d_probability = coefficients_.of(kProbability);
    const T* const d_square = coefficients_.of(kSquare);
    T* const to_lo = gradient.lo(b);
    T* const to_hi = gradient.hi(b);
    IV index{};
    for (std::int64_t c = 0; c < classes; ++c) {
      V lo = load_vec(to_lo + c * L), hi = load_vec(to_hi + c * L);
      const V every_row = splat<T>(d_probability[c]);
      for (int r = 0; r < R; ++r) {
        const V e = load_vec(rows[r].e + c * L);
        V factor = every_row + rows[r].common;
        if constexpr (Squares) factor += e * rows[r].inverse * d_square[c];
        const V v = e * factor + (rows[r].target == index ? rows[r].off_target : V{});
        lo += v * rows[r].f_lo;
        hi += v * rows[r].f_hi;
      }
      store_vec(to_lo + c * L, lo);
      store_vec(to_hi + c * L, hi);
      index += 1;
    }
  }

  const Call<T>& call_;
  PixelRows<T>& pixels_;
  const Coefficients<T>& coefficients_;
  Modulation<T> modulation_;
  bool with_focal_;
  std::int64_t C;
  Buffer<T> exp_, lanes_;
  Buffer<double> targets_;
};

} // namespace
} // namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL
