// CPU twin. A task owns a band of source rows. Between two source rows the logits of kLanes output
// columns lie in two arrays of vectors (LogitRows); every output row there is one blend, one exp2
// and one sum per class. The gradient goes back the same way: first into two arrays of vectors,
// then once per source row through the horizontal adjoint. All output rows between two source rows
// visit a block of columns before the next one is touched: its arrays stay in the first-level
// cache.
//
// Softmax without a pass for the maximum: each source row is shifted by its own maximum over the
// classes, so a blend of two of them is <= 0. Where that bound is too far above the true maximum
// (the sum would underflow), the maximum is searched after all.
#include "upsample_cross_entropy/upsample_cross_entropy.h"

#include <algorithm>

#include "common/bands_cpu.h"
#include "common/label_lanes_cpu.h"
#include "common/logit_rows_cpu.h"
#include "common/parallel_cpu.h"
#include "common/rows_cpu.h"
#include "common/vec_math_cpu.h"

namespace fastseg::upsample_cross_entropy::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

constexpr double kLn2 = 0.693147180559945309417;

// Output rows that are handled together: neighbours between the same two source rows.
constexpr int kRows = 8;

// What one block (kLanes columns of one output row) is asked for, per lane. Lanes that do not count
// (ignored, beyond the last column, or with a bad target) have target 0 and zeros elsewhere.
template <class T> struct Pixels {
  ivec<T> target;
  ivec<T> counts; // mask
  vec<T> weight;  // of the target's class
  vec<T> scale;   // pixel_scale
};

// Output rows [y, y + count) and the weights of their two source rows.
template <class T> struct RowGroup {
  std::int64_t y;
  int count;
  bool owned;
  T w_lo[kRows], w_hi[kRows];
};

template <class Storage> class Task {
  using T = compute_t<Storage>;
  using V = vec<T>;
  using Label = lane_int<T>;
  static constexpr int L = kLanes<T>;

public:
  Task(const Arguments& a, const Shape& s, LabelType target_type, const ResizeAxis& rows,
       const ResizeColumns<T>& columns, double* row_sums)
      : a_(a), s_(s), target_type_(target_type), rows_(rows), columns_(columns),
        row_sums_(row_sums), class_weight_(static_cast<const T*>(a.class_weight)),
        with_grad_(a.grad_logits != nullptr), smoothing_(static_cast<T>(s.label_smoothing)),
        per_class_(static_cast<T>(s.label_smoothing / static_cast<double>(s.classes))),
        row_size_(columns.blocks() * s.classes * L), padded_classes_((s.classes + L - 1) / L * L),
        labels_(kRows * columns.blocks() * L), exp_(kRows * s.classes * L),
        above_(with_grad_ ? row_size_ : 0), below_(with_grad_ ? row_size_ : 0),
        grad_row_(with_grad_ ? s.in_w * padded_classes_ : 0), grad_lo_(above_.get()),
        grad_hi_(below_.get()) {
    for (std::int64_t c = 0; c < s.classes; ++c) weight_sum_ += weight_of(c);
  }

  // Source rows [first, end) of image n. Returns the first bad target of the output rows it owns,
  // those whose upper source row it has; for the gradient it also visits the ones above.
  std::int64_t run(std::int64_t n, std::int64_t first, std::int64_t end) {
    LogitRows<Storage> logits(static_cast<const Storage*>(a_.logits) + n * s_.stride_n,
                              {s_.stride_n, s_.stride_c, s_.stride_h, s_.stride_w}, s_.classes,
                              columns_);
    const auto visit =
        with_grad_ ? (smoothing_ > T(0) ? &Task::visit<true, true> : &Task::visit<true, false>)
                   : (smoothing_ > T(0) ? &Task::visit<false, true> : &Task::visit<false, false>);
    std::int64_t row = with_grad_ ? std::max<std::int64_t>(first - 1, 0) : first;
    if (with_grad_) {
      zero_row(grad_lo_, row_size_);
      zero_row(grad_hi_, row_size_);
    }
    const std::int64_t last = first_output(rows_, end);
    for (std::int64_t y = first_output(rows_, row); y < last;) {
      const Taps<T> t = taps<T>(rows_, y);
      const RowGroup<T> group = row_group(t, y, last, t.lo >= first);
      for (; row < t.lo; ++row) finish_row(n, row, row >= first);
      logits.move_to(t.lo, t.hi, [&](T* values) { normalise(values); });
      (this->*visit)(n, group, logits);
      y += group.count;
    }
    for (; row < end; ++row) finish_row(n, row, row >= first);
    return bad_target_;
  }

private:
  std::int64_t lanes_in(std::int64_t b) const {
    return std::min<std::int64_t>(L, s_.out_w - b * L);
  }
  T weight_of(std::int64_t c) const { return class_weight_ != nullptr ? class_weight_[c] : T(1); }

  // Shifts by the maximum over the classes and turns to powers of two: exp(x - max) == 2^result.
  void normalise(T* values) const {
    V maximum = load_vec(values);
    for (std::int64_t c = 1; c < s_.classes; ++c) maximum = vmax(maximum, load_vec(values + c * L));
    for (std::int64_t c = 0; c < s_.classes; ++c)
      store_vec(values + c * L, (load_vec(values + c * L) - maximum) * T(1.0 / kLn2));
  }

  // The output rows from y on, not beyond last, that read the same source rows as `t`. Groups do
  // not depend on the bands: sums have the same order at any thread count.
  RowGroup<T> row_group(const Taps<T>& t, std::int64_t y, std::int64_t last, bool owned) const {
    RowGroup<T> group{y, 0, owned, {}, {}};
    for (Taps<T> next = t; next.lo == t.lo && next.hi == t.hi;) {
      group.w_lo[group.count] = next.hi == next.lo ? T(1) : next.w_lo;
      group.w_hi[group.count] = next.hi == next.lo ? T(0) : next.w_hi;
      if (++group.count == kRows || y + group.count == last) break;
      next = taps<T>(rows_, y + group.count);
    }
    return group;
  }

  // One row of targets, -1 where they do not count and beyond the last column.
  void read_labels(std::int64_t at, bool owned, Label* labels) {
    dispatch_label(target_type_, [&](auto tag) {
      using Target = typename decltype(tag)::type;
      const Target* target = static_cast<const Target*>(a_.target) + at;
      const bool bad = narrow_labels(target, labels, s_.out_w, s_.classes, s_.ignore_index);
      if (!bad || !owned || bad_target_ >= 0) return;
      for (std::int64_t x = s_.out_w - 1; x >= 0; --x) {
        const std::int64_t t = static_cast<std::int64_t>(target[x]);
        if (t != s_.ignore_index && (t < 0 || t >= s_.classes)) bad_target_ = at + x;
      }
    });
    for (std::int64_t x = s_.out_w; x < columns_.blocks() * L; ++x) labels[x] = -1;
  }

  Pixels<T> read_pixels(const Label* labels, std::int64_t at, std::int64_t count) const {
    ivec<T> label;
    std::memcpy(&label, labels, sizeof(label));
    Pixels<T> p{};
    p.counts = label >= 0;
    p.target = label & p.counts;
    const V one = splat<T>(T(1));
    p.weight = class_weight_ != nullptr ? gather(class_weight_, p.target) : one;
    p.scale = a_.pixel_scale != nullptr
                  ? load_partial(static_cast<const T*>(a_.pixel_scale) + at, count)
                  : one;
    p.weight = p.counts ? p.weight : V{};
    p.scale = p.counts ? p.scale : V{};
    return p;
  }

  // The output rows of a group: their losses, and the gradients of their columns.
  template <bool Grad, bool Smoothing>
  void visit(std::int64_t n, const RowGroup<T>& group, const LogitRows<Storage>& logits) {
    const std::int64_t width = columns_.blocks() * L, first = (n * s_.out_h + group.y) * s_.out_w;
    for (int r = 0; r < group.count; ++r)
      read_labels(first + r * s_.out_w, group.owned, labels_.get() + r * width);
    V losses[kRows] = {}, weights[kRows] = {};
    for (std::int64_t b = 0; b < columns_.blocks(); ++b) {
      GradRow rows[kRows];
      int visited = 0; // rows with a pixel that counts
      for (int r = 0; r < group.count; ++r) {
        const std::int64_t at = first + r * s_.out_w + b * L;
        const Pixels<T> p = read_pixels(labels_.get() + r * width + b * L, at, lanes_in(b));
        V loss{};
        if (any<T>(p.counts)) {
          GradRow& row = rows[visited];
          row.exp = exp_.get() + visited * s_.classes * L;
          loss = block<Grad, Smoothing>(logits.lo(b), logits.hi(b), group.w_lo[r], group.w_hi[r], p,
                                        row, b);
          ++visited;
        }
        losses[r] += loss;
        weights[r] += p.weight;
        if (group.owned && a_.pixel_loss != nullptr)
          store_partial(static_cast<T*>(a_.pixel_loss) + at, loss, lanes_in(b));
      }
      if constexpr (Grad) {
        int r = 0;
        for (; r + 4 <= visited; r += 4) add_softmax<4>(b, rows + r);
        for (; r < visited; ++r) add_softmax<1>(b, rows + r);
      }
    }
    if (!group.owned) return;
    for (int r = 0; r < group.count; ++r) {
      double* sums = row_sums_ + 2 * (n * s_.out_h + group.y + r);
      for (int k = 0; k < L; ++k) sums[0] += losses[r][k], sums[1] += weights[r][k];
    }
  }

  // What one output row adds to the gradients: (exp - [class == target] * off_target) * f.
  struct GradRow {
    T* exp;
    ivec<T> target;
    V off_target, f_lo, f_hi;
  };

  // One block of one output row: returns the pixel losses, prepares their gradient.
  template <bool Grad, bool Smoothing>
  V block(const T* lo, const T* hi, T w_lo, T w_hi, const Pixels<T>& p, GradRow& row,
          std::int64_t b) {
    const std::int64_t C = s_.classes;
    T* const e = row.exp;
    V sum{}, shift{}, weighted{}; // weighted: sum of class weight * logit, for the smoothed part
    for (std::int64_t c = 0; c < C; ++c) {
      const V z = load_vec(lo + c * L) * w_lo + load_vec(hi + c * L) * w_hi;
      if constexpr (Smoothing) weighted += z * weight_of(c);
      const V v = exp2_nonpositive(z);
      if constexpr (Grad) store_vec(e + c * L, v);
      sum += v;
    }
    if (any<T>(sum < T(0x1p-40))) sum = shifted_exp<Grad>(lo, hi, w_lo, w_hi, e, shift);
    const ivec<T> own_logit = p.target * L + iota<T>();
    const V logit = gather(lo, own_logit) * w_lo + gather(hi, own_logit) * w_hi;
    const V log_sum = log_positive(sum) + shift * T(kLn2);
    V loss = (log_sum - logit * T(kLn2)) * p.weight;
    if constexpr (Smoothing)
      loss = loss * (T(1) - smoothing_) + (log_sum * weight_sum_ - weighted * T(kLn2)) * per_class_;
    if constexpr (Grad) {
      // d / d logit_c = own * (p_c - [c == target]) + per_class * (weight_sum * p_c - weight_c)
      V factor;
      if constexpr (Smoothing) {
        const V own = p.weight * p.scale * (T(1) - smoothing_), each = p.scale * per_class_;
        factor = (own + each * weight_sum_) / sum;
        row.off_target = V{};
        subtract_smoothed(b, p, own, each, w_lo, w_hi);
      } else {
        factor = p.weight * p.scale / sum;
        row.off_target = sum; // taking the whole sum off the target's share makes it p - 1
      }
      row.target = p.target;
      row.f_lo = factor * w_lo;
      row.f_hi = factor * w_hi;
    }
    return p.counts ? loss : V{}; // not a product: an ignored pixel may hold NaN
  }

  // The softmax with its true maximum: sum of 2^(z - shift), shift = max z.
  template <bool Grad>
  V shifted_exp(const T* lo, const T* hi, T w_lo, T w_hi, T* e, V& shift) const {
    const std::int64_t C = s_.classes;
    shift = load_vec(lo) * w_lo + load_vec(hi) * w_hi;
    for (std::int64_t c = 1; c < C; ++c)
      shift = vmax(load_vec(lo + c * L) * w_lo + load_vec(hi + c * L) * w_hi, shift);
    V sum{};
    for (std::int64_t c = 0; c < C; ++c) {
      const V v =
          exp2_nonpositive(load_vec(lo + c * L) * w_lo + load_vec(hi + c * L) * w_hi - shift);
      if constexpr (Grad) store_vec(e + c * L, v);
      sum += v;
    }
    return sum;
  }

  // Adds the gradients of R output rows to those of the two source rows, one visit for all.
  template <int R> void add_softmax(std::int64_t b, const GradRow* rows) {
    // Local copies: a vector store may alias any member.
    const std::int64_t C = s_.classes;
    T* const to_lo = grad_lo_ + b * C * L;
    T* const to_hi = grad_hi_ + b * C * L;
    ivec<T> index{};
    for (std::int64_t c = 0; c < C; ++c) {
      V lo = load_vec(to_lo + c * L), hi = load_vec(to_hi + c * L);
      for (int r = 0; r < R; ++r) {
        const V v =
            load_vec(rows[r].exp + c * L) - (rows[r].target == index ? rows[r].off_target : V{});
        lo += v * rows[r].f_lo;
        hi += v * rows[r].f_hi;
      }
      store_vec(to_lo + c * L, lo);
      store_vec(to_hi + c * L, hi);
      index += 1;
    }
  }

  void subtract_smoothed(std::int64_t b, const Pixels<T>& p, V own, V each, T w_lo, T w_hi) {
    const std::int64_t C = s_.classes;
    T* const to_lo = grad_lo_ + b * C * L;
    T* const to_hi = grad_hi_ + b * C * L;
    for (std::int64_t c = 0; c < C; ++c) {
      const V g = each * weight_of(c);
      store_vec(to_lo + c * L, load_vec(to_lo + c * L) - g * w_lo);
      store_vec(to_hi + c * L, load_vec(to_hi + c * L) - g * w_hi);
    }
    for (int k = 0; k < L; ++k) {
      const std::int64_t i = p.target[k] * std::int64_t(L) + k;
      to_lo[i] -= own[k] * w_lo;
      to_hi[i] -= own[k] * w_hi;
    }
  }

  // All output rows below source row `row` have been visited: its gradient is complete.
  void finish_row(std::int64_t n, std::int64_t row, bool owned) {
    if (!with_grad_) return;
    if (owned) write_gradient(n, row);
    std::swap(grad_lo_, grad_hi_);
    zero_row(grad_hi_, row_size_);
  }

  // The horizontal adjoint of grad_lo_, kLanes classes at a time, then the row in its layout.
  void write_gradient(std::int64_t n, std::int64_t row) {
    const std::int64_t C = s_.classes;
    T* sums = grad_row_.get(); // [in_w, padded classes]
    zero_row(sums, s_.in_w * padded_classes_);
    for (std::int64_t b = 0; b < columns_.blocks(); ++b) {
      const std::int64_t count = lanes_in(b);
      for (std::int64_t c = 0; c < C; c += L) {
        V tile[L];
        for (int k = 0; k < L; ++k)
          tile[k] = c + k < C ? load_vec(grad_lo_ + (b * C + c + k) * L) : V{};
        transpose<T>(tile);
        // Neighbours mostly read the same two sources: their shares stay in registers until then.
        std::int32_t lo = columns_.lo(b * L), hi = columns_.hi(b * L);
        V left{}, right{};
        const auto flush = [&] {
          T* to_left = sums + lo * padded_classes_ + c;
          T* to_right = sums + hi * padded_classes_ + c;
          store_vec(to_left, load_vec(to_left) + left);
          store_vec(to_right, load_vec(to_right) + right);
        };
        for (std::int64_t k = 0; k < count; ++k) {
          if (columns_.lo(b * L + k) != lo) {
            flush();
            lo = columns_.lo(b * L + k), hi = columns_.hi(b * L + k);
            left = V{}, right = V{};
          }
          left += tile[k] * columns_.w_lo(b * L + k);
          right += tile[k] * columns_.w_hi(b * L + k);
        }
        flush();
      }
    }
    T* grad = static_cast<T*>(a_.grad_logits) + n * C * s_.in_h * s_.in_w;
    const std::int64_t step_c = a_.grad_channels_last ? 1 : s_.in_h * s_.in_w;
    const std::int64_t step_w = a_.grad_channels_last ? C : 1;
    grad += row * (a_.grad_channels_last ? s_.in_w * C : s_.in_w);
    for (std::int64_t c = 0; c < C; ++c)
      for (std::int64_t i = 0; i < s_.in_w; ++i)
        grad[c * step_c + i * step_w] = sums[i * padded_classes_ + c];
  }

  const Arguments& a_;
  const Shape& s_;
  LabelType target_type_;
  const ResizeAxis& rows_;
  const ResizeColumns<T>& columns_;
  double* row_sums_;
  const T* class_weight_;
  bool with_grad_;
  T smoothing_, per_class_, weight_sum_ = T(0);
  std::int64_t row_size_, padded_classes_, bad_target_ = -1;
  // labels_: of a group of rows. exp_: 2^z of one block of each. above_, below_: gradients of the
  // two source rows at hand, before the horizontal adjoint; grad_lo_ and grad_hi_ point to them in
  // turn. grad_row_: after it.
  Buffer<Label> labels_;
  Buffer<T> exp_, above_, below_, grad_row_;
  T *grad_lo_, *grad_hi_;
};

template <class Storage>
std::int64_t run_typed(const Arguments& a, const Shape& s, LabelType target_type, int threads) {
  using T = compute_t<Storage>;
  const ResizeAxis rows = resize_axis(s.in_h, s.out_h, s.align_corners, 0.0);
  const ResizeColumns<T> columns(resize_axis(s.in_w, s.out_w, s.align_corners, 0.0));
  const Bands bands(s.batch, s.in_h, threads);
  Buffer<double> row_sums(2 * s.batch * s.out_h);
  zero_row(row_sums.get(), 2 * s.batch * s.out_h);
  Buffer<std::int64_t> bad(s.batch * bands.per_image);
  parallel_for(s.batch * bands.per_image, threads, [&](std::int64_t i) {
    Task<Storage> task(a, s, target_type, rows, columns, row_sums.get());
    bad[i] = task.run(bands.image(i), bands.first(i), bands.end(i));
  });
  a.loss_sum[0] = a.loss_sum[1] = 0.0;
  for (std::int64_t i = 0; i < s.batch * s.out_h; ++i) {
    a.loss_sum[0] += row_sums[2 * i];
    a.loss_sum[1] += row_sums[2 * i + 1];
  }
  for (std::int64_t i = 0; i < s.batch * bands.per_image; ++i)
    if (bad[i] >= 0) return bad[i];
  return -1;
}

std::int64_t run(DType dtype, LabelType target_type, const Arguments& a, const Shape& s,
                 int threads) {
  std::int64_t bad = -1;
  dispatch_dtype(dtype, [&](auto tag) {
    bad = run_typed<typename decltype(tag)::type>(a, s, target_type, threads);
  });
  return bad;
}

} // namespace

const CpuKernels kernels{run};

} // namespace fastseg::upsample_cross_entropy::FASTSEG_CPU_LEVEL
