// Sigmoid: the classes are independent. One class after another goes over the columns of a group
// of rows, so that its targets are read in the order of memory and its sums stay in registers.
#pragma once

#include "upsample_class_sums/upsample_class_sums_cpu.h"

namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL {
namespace {

// Columns after which the float sums of a lane go to double.
constexpr std::int64_t kSumBlocks = 32;

template <class T> class Sigmoid {
  using V = vec<T>;
  using IV = ivec<T>;
  static constexpr int L = kLanes<T>;

public:
  Sigmoid(const Call<T>& call, PixelRows<T>& pixels, const Coefficients<T>& coefficients)
      : call_(call), pixels_(pixels), coefficients_(coefficients), modulation_(call.s),
        with_loss_(call.wants(kLoss) || call.wants(kNegativeLoss)),
        with_focal_(call.wants(kFocal) || call.wants(kNegativeFocal) || call.wants(kFocalWeight) ||
                    call.wants(kNegativeFocalWeight)),
        general_(call.a.pixel_weight != nullptr || with_focal_ || call.wants(kSquare) ||
                 call.wants(kMinimum) || call.wants(kEveryLoss) || call.wants(kNegativeEveryLoss)) {
  }

  void forward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
               std::int64_t row) {
    read(n, group);
    for (std::int64_t c = 0; c < call_.s.classes; ++c) {
      read(n, c, group);
      const Partials<T> partials(call_, n, row);
      for (std::int64_t b = 0; b < call_.columns.blocks(); b += kSumBlocks)
        general_ ? sum<true>(n, c, group, lo, hi, b, partials)
                 : sum<false>(n, c, group, lo, hi, b, partials);
    }
  }

  void backward(std::int64_t n, const RowGroup<T>& group, const T* lo, const T* hi,
                GradientRows<T>& gradient) {
    read(n, group);
    for (std::int64_t c = 0; c < call_.s.classes; ++c) {
      read(n, c, group);
      general_ ? differentiate<true>(n, c, group, lo, hi, gradient)
               : differentiate<false>(n, c, group, lo, hi, gradient);
    }
  }

private:
  bool has_labels() const { return call_.a.target_kind == TargetKind::labels; }
  void read(std::int64_t n, const RowGroup<T>& group) {
    if (has_labels()) pixels_.read_labels(n, group);
  }
  void read(std::int64_t n, std::int64_t c, const RowGroup<T>& group) {
    if (!has_labels()) pixels_.read_values(n, c, group);
  }

  struct Pixel {
    IV counts;
    V y; // 0 where it does not count
  };
  // `own`: the label of the class.
  Pixel pixel(bool labels, int r, std::int64_t b, lane_int<T> own, V ignored) const {
    if (labels) {
      const IV label = pixels_.labels(r, b);
      return {label >= 0, label == isplat<T>(own) ? splat<T>(T(1)) : V{}};
    }
    const V y = pixels_.values(r, b);
    const IV counts = pixels_.inside(b) & (y != ignored);
    return {counts, counts ? y : V{}};
  }
  lane_int<T> own_label(std::int64_t c) const {
    return static_cast<lane_int<T>>(call_.s.classes == 1 ? 1 : c);
  }
  V ignored() const { return splat<T>(static_cast<T>(call_.s.ignore_index)); }

  // The sigmoid of z, and what comes with it, each without cancellation.
  struct Activation {
    V p, rest;      // rest = 1 - p
    V exp, inverse; // e^-|z| and 1 / (1 + e^-|z|)
    explicit Activation(V z) {
      const IV negative = z < V{};
      exp = exp_nonpositive(negative ? z : -z);
      inverse = T(1) / (T(1) + exp);
      const V small = exp * inverse;
      p = negative ? small : inverse;
      rest = negative ? inverse : small;
    }
  };

  template <bool General>
  void sum(std::int64_t n, std::int64_t c, const RowGroup<T>& group, const T* lo, const T* hi,
           std::int64_t first, const Partials<T>& partials) const {
    const std::int64_t C = call_.s.classes,
                       end = std::min(first + kSumBlocks, call_.columns.blocks());
    const bool labels = has_labels(), with_loss = with_loss_;
    const lane_int<T> own = own_label(c);
    const V not_counted = ignored();
    V probability{}, overlap{}, target{}, count{}, loss{}, negative_loss{};
    V square{}, minimum{}, every{}, negative_every{}, focal[4] = {};
    for (std::int64_t b = first; b < end; ++b) {
      const V z_lo = load_vec(lo + (b * C + c) * L), z_hi = load_vec(hi + (b * C + c) * L);
      for (int r = 0; r < group.count; ++r) {
        const Pixel pixel = this->pixel(labels, r, b, own, not_counted);
        const V z = z_lo * group.w_lo[r] + z_hi * group.w_hi[r];
        const Activation at(z);
        V v = pixel.counts ? splat<T>(T(1)) : V{};
        if constexpr (General) v = pixels_.weights(n, group.y + r, b, pixel.counts);
        // Selected, not multiplied: a pixel that does not count may hold NaN.
        V p = pixel.counts ? at.p : V{};
        const V y = General ? pixel.y * v : pixel.y;
        if constexpr (General) {
          square += p * p * v;
          minimum += vmin(pixel.y, p) * v;
        }
        overlap += p * y;
        probability += General ? p * v : p;
        target += y;
        count += v;
        if (with_loss || General) {
          const V log_sum = log1p_unit(at.exp);
          const V negative = vmax(z, V{}) + log_sum, positive = vmax(-z, V{}) + log_sum;
          loss += pixel.counts ? positive * y : V{};
          negative_loss += pixel.counts ? negative * (v - y) : V{};
          if constexpr (General) {
            every += pixel.counts ? positive * v : V{};
            negative_every += pixel.counts ? negative * v : V{};
            if (with_focal_) {
              const V own_weight = modulation_(at.p, at.rest).weight;
              const V other_weight = modulation_(at.rest, at.p).weight;
              focal[0] += pixel.counts ? own_weight * positive * y : V{};
              focal[1] += pixel.counts ? other_weight * negative * (v - y) : V{};
              focal[2] += pixel.counts ? own_weight * y : V{};
              focal[3] += pixel.counts ? other_weight * (v - y) : V{};
            }
          }
        }
      }
    }
    partials.add(kProbability, c, probability);
    partials.add(kOverlap, c, overlap);
    partials.add(kTarget, c, target);
    partials.add(kCount, c, count);
    partials.add(kLoss, c, loss);
    partials.add(kNegativeLoss, c, negative_loss);
    if constexpr (!General) return;
    partials.add(kSquare, c, square);
    partials.add(kMinimum, c, minimum);
    partials.add(kEveryLoss, c, every);
    partials.add(kNegativeEveryLoss, c, negative_every);
    for (int k = 0; k < 4; ++k) partials.add(static_cast<Sum>(kFocal + k), c, focal[k]);
  }

  template <bool General>
  void differentiate(std::int64_t n, std::int64_t c, const RowGroup<T>& group, const T* lo,
                     const T* hi, GradientRows<T>& gradient) const {
    const std::int64_t C = call_.s.classes, blocks = call_.columns.blocks();
    const bool labels = has_labels();
    const lane_int<T> own = own_label(c);
    const V not_counted = ignored();
    const auto of = [&](Sum sum) { return splat<T>(coefficients_.of(sum)[c]); };
    const V d_probability = of(kProbability), d_overlap = of(kOverlap);
    const V d_loss = of(kLoss), d_negative = of(kNegativeLoss);
    for (std::int64_t b = 0; b < blocks; ++b) {
      const V z_lo = load_vec(lo + (b * C + c) * L), z_hi = load_vec(hi + (b * C + c) * L);
      T* const to_lo = gradient.lo(b) + c * L;
      T* const to_hi = gradient.hi(b) + c * L;
      V g_lo = load_vec(to_lo), g_hi = load_vec(to_hi);
      for (int r = 0; r < group.count; ++r) {
        const Pixel pixel = this->pixel(labels, r, b, own, not_counted);
        const V y = pixel.y, none = T(1) - y;
        const V z = z_lo * group.w_lo[r] + z_hi * group.w_hi[r];
        const Activation at(z);
        const V slope = at.exp * at.inverse * at.inverse; // p (1 - p)
        V d = d_probability + y * d_overlap;
        if constexpr (General) {
          d += at.p * of(kSquare) * T(2);
          // Halves where they are equal, as |p - y| has.
          const V below = at.p < y ? splat<T>(T(1)) : V{};
          d += (at.p == y ? splat<T>(T(0.5)) : below) * of(kMinimum);
        }
        d = slope * d - y * at.rest * d_loss + none * at.p * d_negative;
        if constexpr (General) {
          d += at.p * of(kNegativeEveryLoss) - at.rest * of(kEveryLoss);
          if (with_focal_) d += focal(y, none, z, at, slope, of);
          d *= pixels_.weights(n, group.y + r, b, pixel.counts);
        }
        d = pixel.counts ? d : V{};
        g_lo += d * group.w_lo[r];
        g_hi += d * group.w_hi[r];
      }
      store_vec(to_lo, g_lo);
      store_vec(to_hi, g_hi);
    }
  }

  template <class Of> V focal(V y, V none, V z, const Activation& at, V slope, const Of& of) const {
    const V log_sum = log1p_unit(at.exp);
    const V negative = vmax(z, V{}) + log_sum, positive = vmax(-z, V{}) + log_sum;
    const auto own = modulation_(at.p, at.rest), other = modulation_(at.rest, at.p);
    return y * (of(kFocal) * (own.slope * slope * positive - own.weight * at.rest) +
                of(kFocalWeight) * own.slope * slope) +
           none * (of(kNegativeFocal) * (other.weight * at.p - other.slope * slope * negative) -
                   of(kNegativeFocalWeight) * other.slope * slope);
  }

  const Call<T>& call_;
  PixelRows<T>& pixels_;
  const Coefficients<T>& coefficients_;
  Modulation<T> modulation_;
  bool with_loss_, with_focal_, general_;
};

} // namespace
} // namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL
