// What the two activations of the CPU twin share: the call, the pixels' targets and weights, focal
// modulation. Included only by upsample_class_sums_cpu.cpp.
#pragma once

#include <algorithm>

#include "common/gradient_rows_cpu.h"
#include "common/label_lanes_cpu.h"
#include "common/logit_rows_cpu.h"
#include "common/row_group_cpu.h"
#include "common/rows_cpu.h"
#include "common/vec_math_cpu.h"
#include "upsample_class_sums/upsample_class_sums.h"

namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

constexpr double kLn2 = 0.693147180559945309417;

// One call, for all its tasks.
template <class T> struct Call {
  const Arguments& a;
  const Shape& s;
  const ResizeAxis& rows;
  const ResizeColumns<T>& columns;
  const ResizeAxis* teacher_rows; // null: no teacher
  const ResizeColumns<T>* teacher_columns;
  double* partials; // [N, in_h, kept, C]: sums of the output rows below each source row

  bool wants(Sum sum) const { return a.slots[sum] >= 0; }
  std::int64_t lanes_in(std::int64_t b) const {
    return std::min<std::int64_t>(kLanes<T>, s.out_w - b * kLanes<T>);
  }
  std::int64_t width() const { return columns.blocks() * kLanes<T>; }
};

// The coefficients of one image, zeros for the sums that are not kept: [kSums][C].
template <class T> class Coefficients {
public:
  Coefficients(const Call<T>& call, bool wanted)
      : call_(call), values_(wanted ? kSums * call.s.classes : 0) {}
  void read(std::int64_t n) {
    const std::int64_t C = call_.s.classes;
    const T* source = static_cast<const T*>(call_.a.coefficients) + n * call_.a.kept * C;
    zero_row(values_.get(), kSums * C);
    for (int k = 0; k < kSums; ++k)
      if (call_.a.slots[k] >= 0)
        std::copy(source + call_.a.slots[k] * C, source + (call_.a.slots[k] + 1) * C, of(Sum(k)));
  }
  T* of(Sum sum) { return values_.get() + sum * call_.s.classes; }
  const T* of(Sum sum) const { return values_.get() + sum * call_.s.classes; }

private:
  const Call<T>& call_;
  Buffer<T> values_;
};

// Weights w(t) of the focal loss, and dw/dt.
template <class T> struct Modulation {
  using V = vec<T>;
  T gamma, threshold, scale;

  explicit Modulation(const Shape& s)
      : gamma(static_cast<T>(s.gamma)), threshold(static_cast<T>(s.reduced_threshold)),
        scale(s.reduced_threshold > 0.0 ? static_cast<T>(std::pow(s.reduced_threshold, -s.gamma))
                                        : T(1)) {}

  struct Value {
    V weight, slope;
  };
  // `rest` = 1 - t, which its caller knows more exactly.
  Value operator()(V t, V rest) const {
    Value r;
    if (gamma == T(2)) {
      r.weight = rest * rest * scale;
      r.slope = rest * (T(-2) * scale);
    } else {
      rest = vmax(splat<T>(T(1e-37)), rest);
      const V power = log_positive(rest) * static_cast<T>(static_cast<double>(gamma) / kLn2);
      r.weight = exp2_nonpositive(vmin(V{}, power)) * scale;
      r.slope = r.weight / rest * -gamma;
    }
    if (threshold > T(0)) {
      const ivec<T> below = t < threshold;
      r.weight = below ? splat<T>(T(1)) : r.weight;
      r.slope = below ? V{} : r.slope;
    }
    return r;
  }
};

// Targets and weights of the rows of a group.
template <class T> class PixelRows {
  using Label = lane_int<T>;
  static constexpr int L = kLanes<T>;

public:
  explicit PixelRows(const Call<T>& call)
      : call_(call), labels_(call.a.target_type != TargetType::compute ? kRows * call.width() : 0),
        values_(call.a.target_kind == TargetKind::values ? kRows * call.width() : 0) {}

  // Labels, -1 where they do not count and beyond the last column.
  void read_labels(std::int64_t n, const RowGroup<T>& group) {
    read_integers(n * call_.s.out_h + group.y, group, call_.s.labels());
  }
  // The same of the masks of class c: 0 and 1.
  void read_masks(std::int64_t n, std::int64_t c, const RowGroup<T>& group) {
    read_integers((n * call_.s.classes + c) * call_.s.out_h + group.y, group, 2);
  }

  // Values of class c; the last one again beyond the last column.
  void read_values(std::int64_t n, std::int64_t c, const RowGroup<T>& group) {
    const Shape& s = call_.s;
    for (int r = 0; r < group.count; ++r) {
      T* out = values_.get() + r * call_.width();
      with_target([&](auto tag) {
        using Target = typename decltype(tag)::type;
        const Target* target = static_cast<const Target*>(call_.a.target) +
                               ((n * s.classes + c) * s.out_h + group.y + r) * s.out_w;
        for (std::int64_t x = 0; x < s.out_w; ++x) out[x] = static_cast<T>(target[x]);
      });
      for (std::int64_t x = s.out_w; x < call_.width(); ++x) out[x] = out[s.out_w - 1];
    }
  }

  ivec<T> labels(int r, std::int64_t b) const {
    ivec<T> v;
    std::memcpy(&v, labels_.get() + r * call_.width() + b * L, sizeof(v));
    return v;
  }
  vec<T> values(int r, std::int64_t b) const {
    return load_vec(values_.get() + r * call_.width() + b * L);
  }
  // Lanes before the last column.
  ivec<T> inside(std::int64_t b) const {
    return iota<T>() < isplat<T>(static_cast<Label>(call_.lanes_in(b)));
  }
  // Weights of the pixels that count; zeros for the others.
  vec<T> weights(std::int64_t n, std::int64_t y, std::int64_t b, ivec<T> counts) const {
    const T* weight = static_cast<const T*>(call_.a.pixel_weight);
    if (weight == nullptr) return counts ? splat<T>(T(1)) : vec<T>{};
    const std::int64_t at = (n * call_.s.out_h + y) * call_.s.out_w + b * L;
    const std::int64_t lanes = call_.lanes_in(b);
    const vec<T> v = lanes == L ? load_vec(weight + at) : load_partial(weight + at, lanes);
    return counts ? v : vec<T>{};
  }

  std::int64_t bad() const { return bad_; }

private:
  // `row`: of all rows of the target.
  void read_integers(std::int64_t row, const RowGroup<T>& group, std::int64_t labels) {
    const Shape& s = call_.s;
    for (int r = 0; r < group.count; ++r) {
      Label* out = labels_.get() + r * call_.width();
      const std::int64_t at = (row + r) * s.out_w;
      dispatch_label(static_cast<LabelType>(call_.a.target_type), [&](auto tag) {
        using Target = typename decltype(tag)::type;
        const Target* target = static_cast<const Target*>(call_.a.target) + at;
        const bool bad = narrow_labels(target, out, s.out_w, labels, s.ignore_index);
        if (!bad || !group.owned || (bad_ >= 0 && bad_ < at)) return;
        for (std::int64_t x = s.out_w - 1; x >= 0; --x) {
          const std::int64_t t = static_cast<std::int64_t>(target[x]);
          if (t != s.ignore_index && (t < 0 || t >= labels)) bad_ = at + x;
        }
      });
      for (std::int64_t x = s.out_w; x < call_.width(); ++x) out[x] = -1;
    }
  }

  template <class Fn> void with_target(const Fn& fn) const {
    if (call_.a.target_type == TargetType::compute) return fn(TypeTag<T>{});
    dispatch_label(static_cast<LabelType>(call_.a.target_type), fn);
  }

  const Call<T>& call_;
  Buffer<Label> labels_;
  Buffer<T> values_;
  std::int64_t bad_ = -1;
};

// Where a group's sums go: to the partials of its upper source row.
template <class T> struct Partials {
  double* at; // [kept, C]
  const Call<T>& call;
  Partials(const Call<T>& c, std::int64_t n, std::int64_t row)
      : at(c.partials + (n * c.s.in_h + row) * c.a.kept * c.s.classes), call(c) {}
  double* of(Sum sum) const {
    return call.wants(sum) ? at + call.a.slots[sum] * call.s.classes : nullptr;
  }
  void add(Sum sum, std::int64_t c, vec<T> lanes) const {
    double* const to = of(sum);
    if (to == nullptr) return;
    double wide[kLanes<T>];
    for (int k = 0; k < kLanes<T>; ++k) wide[k] = static_cast<double>(lanes[k]);
    for (int width = kLanes<T> / 2; width >= 1; width /= 2)
      for (int k = 0; k < width; ++k) wide[k] += wide[k + width];
    to[c] += wide[0];
  }
};

} // namespace
} // namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL
