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

// The classes of a block's targets, of the lanes that count; class 0 in the others. Neighbours
// mostly have the same class: then it is one load, where mixed ones need a gather.
template <class T> struct Targets {
  static constexpr int L = kLanes<T>;
  ivec<T> classes;
  std::int64_t one; // the class of all, or -1

  Targets(ivec<T> label, ivec<T> counts) : classes(label & counts) {
    int lane = 0;
    while (label[lane] < 0) ++lane; // one counts
    one = label[lane];
    if (any<T>((label != isplat<T>(label[lane])) & counts)) one = -1;
  }
  // Of values [C][L].
  vec<T> of(const T* values) const {
    return one >= 0 ? load_vec(values + one * L) : gather(values, classes * L + iota<T>());
  }
  vec<T> of(const Blend<T>& z) const {
    return one >= 0 ? z(one) : of(z.lo) * z.w_lo + of(z.hi) * z.w_hi;
  }
  // Of numbers [C].
  vec<T> number(const T* values) const {
    return one >= 0 ? splat<T>(values[one]) : gather(values, classes);
  }
  // Adds a lane of `v` each to values [C][L]; lanes that do not count must be 0.
  void add(T* values, vec<T> v) const {
    if (one >= 0) return store_vec(values + one * L, load_vec(values + one * L) + v);
    for (int k = 0; k < L; ++k) values[classes[k] * L + k] += v[k];
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
        exp_(kRows * C * L), lanes_(kSumsOfLanes * C * L) {}

  void forward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
               std::int64_t row) {
    pixels_.read_labels(n, group);
    zero_row(lanes_.get(), kSumsOfLanes * C * L);
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
        const Targets<T> target(label, counts);
        const Blend<T> z{lo + b * C * L, hi + b * C * L, group.w_lo[r], group.w_hi[r]};
        const Normaliser<T> normaliser(z, C, o.e);
        const V v = pixels_.weights(n, group.y + r, b, counts);
        const V inverse = counts ? T(1) / normaliser.sum : V{};
        o.inverse = inverse;
        o.weight = v;
        const V p = target.of(o.e) * inverse;
        V loss = normaliser.loss(target.of(z));
        loss = counts ? loss : V{}; // not a product: an ignored pixel may hold NaN
        add_target(target, v, counts ? p : V{}, loss);
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
    if (C == 1) return of_one_class(group, lo, hi, gradient);
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
        o.target = Targets<T>(label, counts);
        const Blend<T> z{lo + b * C * L, hi + b * C * L, group.w_lo[r], group.w_hi[r]};
        const Normaliser<T> normaliser(z, C, o.e, d_probability);
        const V v = pixels_.weights(n, group.y + r, b, counts);
        const V inverse = counts ? T(1) / normaliser.sum : V{};
        const V p = o.target.of(o.e) * inverse;
        V d_own = o.target.number(coefficients_.of(kLoss));
        if (with_focal_) d_own += focal(normaliser, z, p, o.target);
        const V at_target = p * o.target.number(coefficients_.of(kOverlap));
        V mean = normaliser.weighted * inverse + at_target;
        if (squares) mean += T(2) * weighted_squares(o.e, d_square) * inverse * inverse;
        // d / d z_c = v * (p_c * (d_probability_c + 2 p_c d_square_c + common) + [c == target] *
        // (at_target - d_own))
        o.common = d_own - mean;
        if (every) o.common += every_sum;
        o.off_target = counts ? (at_target - d_own) * v : V{};
        o.w_lo = group.w_lo[r];
        o.w_hi = group.w_hi[r];
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
  // The sums of a group: of every class, and of the targets' classes.
  enum {
    kLanesProbability,
    kLanesSquare,
    kLanesEvery,
    kAtOverlap,
    kAtTarget,
    kAtLoss,
    kAtFocal,
    kAtFocalWeight,
    kSumsOfLanes
  };
  T* lanes(int sum) { return lanes_.get() + sum * C * L; }

  // A block of one output row: powers of two of its logits, and what they are multiplied with.
  struct Row {
    T* e;
    Targets<T> target{IV{}, IV{}};
    V inverse, weight;
    V common, off_target, f_lo, f_hi;
    T w_lo, w_hi;
  };

  void add_target(const Targets<T>& target, V v, V p, V loss) {
    target.add(lanes(kAtOverlap), p * v);
    target.add(lanes(kAtTarget), v);
    target.add(lanes(kAtLoss), loss * v);
    if (!with_focal_) return;
    const V weight = modulation_(p, T(1) - p).weight * v;
    target.add(lanes(kAtFocal), weight * loss);
    target.add(lanes(kAtFocalWeight), weight);
  }

  void add_every(const Blend<T>& z, const Normaliser<T>& normaliser, IV counts, V v) {
    T* const to = lanes(kLanesEvery);
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

  void flush(const Partials<T>& partials) {
    const Sum sums[kSumsOfLanes] = {kProbability, kSquare, kEveryLoss, kOverlap,
                                    kTarget,      kLoss,   kFocal,     kFocalWeight};
    for (int k = 0; k < kSumsOfLanes; ++k)
      for (std::int64_t c = 0; c < C && call_.wants(sums[k]); ++c)
        partials.add(sums[k], c, load_vec(lanes(k) + c * L));
    if (!call_.wants(kCount)) return;
    V count{};
    for (std::int64_t c = 0; c < C; ++c) count += load_vec(lanes(kAtTarget) + c * L);
    for (std::int64_t c = 0; c < C; ++c) partials.add(kCount, c, count);
  }

  // The probability of a single class is 1: its gradient is 0, without rounding. NaN stays NaN.
  void of_one_class(const RowGroup<T>& group, const T* lo, const T* hi,
                    GradientRows<T>& gradient) const {
    for (std::int64_t b = 0; b < call_.columns.blocks(); ++b)
      for (int r = 0; r < group.count; ++r) {
        const V z = load_vec(lo + b * L) * group.w_lo[r] + load_vec(hi + b * L) * group.w_hi[r];
        const V zero = pixels_.labels(r, b) >= 0 ? z - z : V{};
        store_vec(gradient.lo(b), load_vec(gradient.lo(b)) + zero);
        store_vec(gradient.hi(b), load_vec(gradient.hi(b)) + zero);
      }
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
  V focal(const Normaliser<T>& normaliser, const Blend<T>& z, V p, const Targets<T>& target) const {
    const V loss = normaliser.loss(target.of(z));
    const auto at = modulation_(p, T(1) - p);
    return target.number(coefficients_.of(kFocal)) * (at.weight - p * at.slope * loss) -
           target.number(coefficients_.of(kFocalWeight)) * p * at.slope;
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
    for (std::int64_t c = 0; c < classes; ++c) {
      V lo = load_vec(to_lo + c * L), hi = load_vec(to_hi + c * L);
      const V every_row = splat<T>(d_probability[c]);
      for (int r = 0; r < R; ++r) {
        const V e = load_vec(rows[r].e + c * L);
        V factor = every_row + rows[r].common;
        if constexpr (Squares) factor += e * rows[r].inverse * d_square[c];
        const V v = e * factor;
        lo += v * rows[r].f_lo;
        hi += v * rows[r].f_hi;
      }
      store_vec(to_lo + c * L, lo);
      store_vec(to_hi + c * L, hi);
    }
    for (int r = 0; r < R; ++r) {
      rows[r].target.add(to_lo, rows[r].off_target * rows[r].w_lo);
      rows[r].target.add(to_hi, rows[r].off_target * rows[r].w_hi);
    }
  }

  const Call<T>& call_;
  PixelRows<T>& pixels_;
  const Coefficients<T>& coefficients_;
  Modulation<T> modulation_;
  bool with_focal_;
  std::int64_t C;
  Buffer<T> exp_, lanes_;
};

} // namespace
} // namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL
