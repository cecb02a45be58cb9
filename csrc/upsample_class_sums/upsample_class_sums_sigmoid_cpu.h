// Sigmoid: the classes are independent. One class after another goes over the columns of a group
// of rows, so that its targets are read in the order of memory and its sums stay in registers.
//
// With targets that are 0 or 1 and no pixel weights (Hard*), only one side of a loss counts: that
// of n, the logit times -1 where the target is 1. Softplus(n) is the cross-entropy, sigmoid(n) is
// 1 - p_t of the focal loss. Other targets have both sides (Soft).
#pragma once

#include "upsample_class_sums/upsample_class_sums_cpu.h"

namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL {
namespace {

// Columns after which the float sums of a lane go to double.
constexpr std::int64_t kSumBlocks = 32;
// Vectors of a step: its arrays fit in the first-level cache beside the targets.
constexpr int kStep = 64;

template <class T> class Sigmoid {
  using V = vec<T>;
  using IV = ivec<T>;
  static constexpr int L = kLanes<T>;

public:
  Sigmoid(const Call<T>& call, PixelRows<T>& pixels, const Coefficients<T>& coefficients)
      : call_(call), pixels_(pixels), coefficients_(coefficients), modulation_(call.s),
        kind_(kind(call)) {}

  void forward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
               std::int64_t row) {
    const Partials<T> partials(call_, n, row);
    visit(n, group, lo, hi, [&](const Lines& lines) {
      const std::int64_t blocks = call_.columns.blocks();
      const std::int64_t parts = (blocks + kSumBlocks - 1) / kSumBlocks;
      for (std::int64_t i = 0; i < parts; ++i)
        sum(lines, partials, blocks * i / parts, blocks * (i + 1) / parts);
    });
  }

  void backward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
                GradientRows<T>& gradient) {
    visit(n, group, lo, hi, [&](const Lines& lines) { differentiate(lines, gradient); });
  }

private:
  // `regions`: of hard targets, the sums that Dice and cross-entropy need; `focal`: the focal ones.
  struct Kind {
    bool hard, regions, focal, rare;
  };
  static Kind kind(const Call<T>& call) {
    const auto any_of = [&](std::initializer_list<Sum> sums) {
      return std::any_of(sums.begin(), sums.end(), [&](Sum sum) { return call.wants(sum); });
    };
    Kind k{};
    k.focal = any_of({kFocal, kNegativeFocal, kFocalWeight, kNegativeFocalWeight});
    k.rare = k.focal || any_of({kSquare, kMinimum, kEveryLoss, kNegativeEveryLoss});
    k.hard = call.a.pixel_weight == nullptr && call.a.target_type != TargetType::compute &&
             !any_of({kSquare, kMinimum, kEveryLoss, kNegativeEveryLoss});
    k.regions = any_of({kProbability, kOverlap, kLoss, kNegativeLoss}) || (!k.focal && k.hard);
    return k;
  }

  // The rows of a group, for one class.
  struct Lines {
    std::int64_t n, c;
    lane_int<T> own; // the label of the class
    const RowGroup<T>& group;
    const T *lo, *hi; // of this class
  };
  template <class Fn>
  void visit(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi, const Fn& fn) {
    const bool labels = call_.a.target_kind == TargetKind::labels;
    if (labels) pixels_.read_labels(n, group);
    for (std::int64_t c = 0; c < call_.s.classes; ++c) {
      if (!labels) integers() ? pixels_.read_masks(n, c, group) : pixels_.read_values(n, c, group);
      fn(Lines{n, c, own_label(c), group, lo + c * L, hi + c * L});
    }
  }
  bool integers() const { return call_.a.target_type != TargetType::compute; }
  lane_int<T> own_label(std::int64_t c) const {
    return static_cast<lane_int<T>>(
        call_.a.target_kind == TargetKind::values || call_.s.classes == 1 ? 1 : c);
  }
  static V masked(IV mask, V v) {
    return reinterpret_cast<V>(mask & reinterpret_cast<IV>(v)); // NaN where it does not count, too
  }
  static V select(IV mask, T yes, T no) { return mask ? splat<T>(yes) : splat<T>(no); }

  // A pixel's logit z, e^-|z|, 1 / (1 + e^-|z|), and log(1 + e^-|z|).
  struct Activation {
    V z, exp, inverse, log_sum;
    // Of z or -z, without cancellation.
    V sigmoid(V n) const { return n < V{} ? exp * inverse : inverse; }
    // log(1 + e^n) of the same.
    V softplus(V n) const { return vmax(n, V{}) + log_sum; }
    V slope() const { return exp * inverse * inverse; } // p (1 - p)
  };

  void sum(const Lines& lines, const Partials<T>& partials, std::int64_t first, std::int64_t end) {
    if (!kind_.hard) {
      kind_.rare ? sum_soft<true>(lines, partials, first, end)
                 : sum_soft<false>(lines, partials, first, end);
      return;
    }
    if (kind_.regions) sum_hard(lines, partials, first, end);
    if (kind_.focal) sum_hard_focal(lines, partials, first, end, !kind_.regions);
  }

  void differentiate(const Lines& lines, GradientRows<T>& gradient) {
    if (!kind_.hard) {
      kind_.rare ? differentiate_soft<true>(lines, gradient)
                 : differentiate_soft<false>(lines, gradient);
      return;
    }
    if (kind_.regions) differentiate_hard(lines, gradient);
    if (kind_.focal) differentiate_hard_focal(lines, gradient);
  }

  // Calls fn(Activation, row, block) for the blocks [first, end) of all rows, and after(block)
  // after the rows of each. In steps, each over many pixels: the chain of dependent operations of a
  // pixel is so long that a core cannot look ahead to the next one.
  template <bool Logs, class Fn, class After>
  void each(const Lines& lines, std::int64_t first, std::int64_t end, const Fn& fn,
            const After& after) {
    const std::int64_t step = call_.s.classes * L;
    const int rows = lines.group.count, blocks = kStep / rows;
    for (; first < end; first += blocks) {
      const std::int64_t stop = std::min<std::int64_t>(first + blocks, end);
      T *z = logits_, *e = exp_;
      for (std::int64_t b = first; b < stop; ++b) {
        const V lo = load_vec(lines.lo + b * step), hi = load_vec(lines.hi + b * step);
        for (int r = 0; r < rows; ++r, z += L, e += L) {
          const V v = lo * lines.group.w_lo[r] + hi * lines.group.w_hi[r];
          store_vec(z, v);
          store_vec(e, exp_nonpositive(v < V{} ? v : -v));
        }
      }
      const std::int64_t count = (stop - first) * rows * L;
      if constexpr (Logs)
        for (std::int64_t i = 0; i < count; i += L)
          store_vec(logs_ + i, log1p_unit(load_vec(exp_ + i)));
      std::int64_t i = 0;
      for (std::int64_t b = first; b < stop; ++b) {
        for (int r = 0; r < rows; ++r, i += L) {
          const V exp = load_vec(exp_ + i);
          fn(Activation{load_vec(logits_ + i), exp, T(1) / (T(1) + exp),
                        Logs ? load_vec(logs_ + i) : V{}},
             r, b);
        }
        after(b);
      }
    }
  }
  template <class Fn>
  void each(const Lines& lines, std::int64_t first, std::int64_t end, const Fn& fn) {
    each<true>(lines, first, end, fn, [](std::int64_t) {});
  }
  // Adds derivative(Activation, row, block), to the logits, to those of the source rows.
  template <bool Logs, class Fn>
  void add_gradient(const Lines& lines, GradientRows<T>& gradient, const Fn& derivative) {
    V lo{}, hi{};
    each<Logs>(
        lines, 0, call_.columns.blocks(),
        [&](const Activation& at, int r, std::int64_t b) {
          const V d = derivative(at, r, b);
          lo += d * lines.group.w_lo[r];
          hi += d * lines.group.w_hi[r];
        },
        [&](std::int64_t b) {
          T* const to_lo = gradient.lo(b) + lines.c * L;
          T* const to_hi = gradient.hi(b) + lines.c * L;
          store_vec(to_lo, load_vec(to_lo) + lo);
          store_vec(to_hi, load_vec(to_hi) + hi);
          lo = hi = V{};
        });
  }

  // Masks of a target that is 0 or 1, and the logit of the side that it is not on.
  struct Hard {
    IV counts, y;
    V n;
  };
  Hard hard_pixel(const Lines& lines, V z, int r, std::int64_t b) const {
    const IV label = pixels_.labels(r, b), y = label == isplat<T>(lines.own);
    return {label > -1, y, y ? -z : z};
  }

  void sum_hard(const Lines& lines, const Partials<T>& partials, std::int64_t first,
                std::int64_t end) {
    V probability{}, overlap{}, loss{}, negative_loss{};
    IV target{}, counted{};
    each(lines, first, end, [&](const Activation& at, int r, std::int64_t b) {
      const Hard pixel = hard_pixel(lines, at.z, r, b);
      const V p = at.sigmoid(at.z), softplus = at.softplus(pixel.n);
      probability += masked(pixel.counts, p);
      overlap += masked(pixel.y, p);
      loss += masked(pixel.y, softplus);
      negative_loss += masked(pixel.counts & ~pixel.y, softplus);
      target -= pixel.y;
      counted -= pixel.counts;
    });
    partials.add(kProbability, lines.c, probability);
    partials.add(kOverlap, lines.c, overlap);
    partials.add(kLoss, lines.c, loss);
    partials.add(kNegativeLoss, lines.c, negative_loss);
    partials.add(kTarget, lines.c, __builtin_convertvector(target, V));
    partials.add(kCount, lines.c, __builtin_convertvector(counted, V));
  }

  void differentiate_hard(const Lines& lines, GradientRows<T>& gradient) {
    const T probability = of(kProbability, lines), overlap = probability + of(kOverlap, lines);
    const T loss = -of(kLoss, lines), negative_loss = of(kNegativeLoss, lines);
    add_gradient<false>(lines, gradient, [&](const Activation& at, int r, std::int64_t b) {
      const Hard pixel = hard_pixel(lines, at.z, r, b);
      const V d = at.slope() * select(pixel.y, overlap, probability) +
                  at.sigmoid(pixel.n) * select(pixel.y, loss, negative_loss);
      return masked(pixel.counts, d);
    });
  }

  // Of the focal loss: its weight (1 - p_t)^gamma, scaled, and 1 where p_t is below the threshold;
  // the weight's derivative to n; the cross-entropy.
  struct Focal {
    V weight, slope, loss, q; // q = 1 - p_t
  };
  Focal focal(const Activation& at, V n) const {
    const V p = at.sigmoid(-n);
    Focal f{{}, {}, at.softplus(n), at.sigmoid(n)};
    f.weight = modulation_.gamma == T(2) ? f.q * f.q
                                         : exp_nonpositive(at.softplus(-n) * -modulation_.gamma);
    f.weight *= modulation_.scale;
    f.slope = f.weight * p * modulation_.gamma;
    if (modulation_.threshold > T(0)) {
      const IV below = p < modulation_.threshold;
      f.weight = below ? splat<T>(T(1)) : f.weight;
      f.slope = below ? V{} : f.slope;
    }
    return f;
  }

  void sum_hard_focal(const Lines& lines, const Partials<T>& partials, std::int64_t first,
                      std::int64_t end, bool counting) {
    V sums[4] = {};
    IV target{}, counted{};
    each(lines, first, end, [&](const Activation& at, int r, std::int64_t b) {
      const Hard pixel = hard_pixel(lines, at.z, r, b);
      const Focal f = focal(at, pixel.n);
      const V loss = f.weight * f.loss;
      const IV other = pixel.counts & ~pixel.y;
      sums[0] += masked(pixel.y, loss);
      sums[1] += masked(other, loss);
      sums[2] += masked(pixel.y, f.weight);
      sums[3] += masked(other, f.weight);
      target -= pixel.y;
      counted -= pixel.counts;
    });
    for (int k = 0; k < 4; ++k) partials.add(static_cast<Sum>(kFocal + k), lines.c, sums[k]);
    if (!counting) return;
    partials.add(kTarget, lines.c, __builtin_convertvector(target, V));
    partials.add(kCount, lines.c, __builtin_convertvector(counted, V));
  }

  void differentiate_hard_focal(const Lines& lines, GradientRows<T>& gradient) {
    const T positive = -of(kFocal, lines), negative = of(kNegativeFocal, lines);
    const T weight = -of(kFocalWeight, lines), negative_weight = of(kNegativeFocalWeight, lines);
    add_gradient<true>(lines, gradient, [&](const Activation& at, int r, std::int64_t b) {
      const Hard pixel = hard_pixel(lines, at.z, r, b);
      const Focal f = focal(at, pixel.n);
      const V d = (f.slope * f.loss + f.weight * f.q) * select(pixel.y, positive, negative) +
                  f.slope * select(pixel.y, weight, negative_weight);
      return masked(pixel.counts, d);
    });
  }

  // Targets y in [0, 1] with weights v, both 0 where a pixel does not count.
  struct Pixel {
    IV counts;
    V y, v;
  };
  Pixel soft_pixel(const Lines& lines, int r, std::int64_t b) const {
    Pixel pixel;
    if (integers()) {
      const IV label = pixels_.labels(r, b);
      pixel.counts = label > -1;
      pixel.y = select(label == isplat<T>(lines.own), T(1), T(0));
    } else {
      pixel.y = pixels_.values(r, b);
      pixel.counts = pixels_.inside(b) & (pixel.y != static_cast<T>(call_.s.ignore_index));
      pixel.y = masked(pixel.counts, pixel.y);
    }
    pixel.v = pixels_.weights(lines.n, lines.group.y + r, b, pixel.counts);
    return pixel;
  }

  template <bool Rare>
  void sum_soft(const Lines& lines, const Partials<T>& partials, std::int64_t first,
                std::int64_t end) {
    V probability{}, overlap{}, target{}, count{}, loss{}, negative_loss{};
    V square{}, minimum{}, every{}, negative_every{}, focal[4] = {};
    each(lines, first, end, [&](const Activation& at, int r, std::int64_t b) {
      const Pixel pixel = soft_pixel(lines, r, b);
      const V v = pixel.v, y = pixel.y * v;
      // Masked, not multiplied: a pixel that does not count may hold NaN.
      const V p = masked(pixel.counts, at.sigmoid(at.z));
      const V positive = masked(pixel.counts, at.softplus(-at.z));
      const V negative = masked(pixel.counts, at.softplus(at.z));
      probability += p * v;
      overlap += p * y;
      target += y;
      count += v;
      loss += positive * y;
      negative_loss += negative * (v - y);
      if constexpr (Rare) {
        square += p * p * v;
        minimum += vmin(pixel.y, p) * v;
        every += positive * v;
        negative_every += negative * v;
        if (!kind_.focal) return;
        const V rest = masked(pixel.counts, at.sigmoid(-at.z));
        const V own_weight = modulation_(p, rest).weight;
        const V other_weight = modulation_(rest, p).weight;
        focal[0] += own_weight * positive * y;
        focal[1] += other_weight * negative * (v - y);
        focal[2] += own_weight * y;
        focal[3] += other_weight * (v - y);
      }
    });
    partials.add(kProbability, lines.c, probability);
    partials.add(kOverlap, lines.c, overlap);
    partials.add(kTarget, lines.c, target);
    partials.add(kCount, lines.c, count);
    partials.add(kLoss, lines.c, loss);
    partials.add(kNegativeLoss, lines.c, negative_loss);
    if constexpr (!Rare) return;
    partials.add(kSquare, lines.c, square);
    partials.add(kMinimum, lines.c, minimum);
    partials.add(kEveryLoss, lines.c, every);
    partials.add(kNegativeEveryLoss, lines.c, negative_every);
    for (int k = 0; k < 4; ++k) partials.add(static_cast<Sum>(kFocal + k), lines.c, focal[k]);
  }

  template <bool Rare> void differentiate_soft(const Lines& lines, GradientRows<T>& gradient) {
    const T d_probability = of(kProbability, lines), d_overlap = of(kOverlap, lines);
    const T d_loss = of(kLoss, lines), d_negative = of(kNegativeLoss, lines);
    const T d_square = T(2) * of(kSquare, lines), d_minimum = of(kMinimum, lines);
    const T d_every = of(kEveryLoss, lines), d_negative_every = of(kNegativeEveryLoss, lines);
    add_gradient<Rare>(lines, gradient, [&](const Activation& at, int r, std::int64_t b) {
      const Pixel pixel = soft_pixel(lines, r, b);
      const V y = pixel.y, none = T(1) - y, p = at.sigmoid(at.z), rest = at.sigmoid(-at.z);
      V d = d_probability + y * d_overlap;
      if constexpr (Rare) {
        d += p * d_square;
        // Halves where they are equal, as |p - y| has.
        d += (p == y ? splat<T>(T(0.5)) : select(p < y, T(1), T(0))) * d_minimum;
      }
      d = at.slope() * d - y * rest * d_loss + none * p * d_negative;
      if constexpr (Rare) {
        d += p * d_negative_every - rest * d_every;
        if (kind_.focal) d += soft_focal(lines, y, at);
      }
      return masked(pixel.counts, d * pixel.v);
    });
  }

  V soft_focal(const Lines& lines, V y, const Activation& at) const {
    const V p = at.sigmoid(at.z), rest = at.sigmoid(-at.z), slope = at.slope();
    const V positive = at.softplus(-at.z), negative = at.softplus(at.z);
    const auto own = modulation_(p, rest), other = modulation_(rest, p);
    return y * (of(kFocal, lines) * (own.slope * slope * positive - own.weight * rest) +
                of(kFocalWeight, lines) * own.slope * slope) +
           (T(1) - y) *
               (of(kNegativeFocal, lines) * (other.weight * p - other.slope * slope * negative) -
                of(kNegativeFocalWeight, lines) * other.slope * slope);
  }

  T of(Sum sum, const Lines& lines) const { return coefficients_.of(sum)[lines.c]; }

  const Call<T>& call_;
  PixelRows<T>& pixels_;
  const Coefficients<T>& coefficients_;
  Modulation<T> modulation_;
  Kind kind_;
  alignas(64) T logits_[kStep * L], exp_[kStep * L], logs_[kStep * L];
};

} // namespace
} // namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL
