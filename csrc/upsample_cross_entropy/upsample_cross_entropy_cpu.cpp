// CPU twin. A task owns a band of source rows. Between two source rows the logits of kLanes output
// columns lie in two arrays of vectors (LogitRows); every output row there is one blend, one exp2
// and one sum per class. The gradient goes back the same way: first into two arrays of vectors,
// then once per source row through the horizontal adjoint.
//
// Softmax without a pass for the maximum: each source row is shifted by its own maximum over the
// classes, so a blend of two of them is <= 0. Where that bound is too far above the true maximum
// (the sum would underflow), the maximum is searched after all.
#include "upsample_cross_entropy/upsample_cross_entropy.h"

#include <algorithm>

#include "common/bands.h"
#include "common/logit_rows.h"
#include "common/parallel.h"
#include "common/rows.h"
#include "common/vec_math.h"

namespace fastseg::upsample_cross_entropy::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

constexpr double kLn2 = 0.693147180559945309417;

// What one block (kLanes columns of one output row) is asked for, per lane. Lanes that do not count
// (ignored, beyond the last column, or with a bad target) have target 0 and zeros elsewhere.
template <class T> struct Pixels {
  ivec<T> target;
  ivec<T> counts; // mask
  vec<T> weight;  // of the target's class
  vec<T> scale;   // pixel_scale
};

template <class Storage> class Task {
  using T = compute_t<Storage>;
  using V = vec<T>;
  using Wide = wide_ivec<T>;
  static constexpr int L = kLanes<T>;

public:
  Task(const Arguments& a, const Shape& s, LabelType target_type, const ResizeAxis& rows,
       const ResizeColumns<T>& columns, double* row_sums)
      : a_(a), s_(s), target_type_(target_type), rows_(rows), columns_(columns),
        row_sums_(row_sums), class_weight_(static_cast<const T*>(a.class_weight)),
        with_grad_(a.grad_logits != nullptr), smoothing_(static_cast<T>(s.label_smoothing)),
        per_class_(static_cast<T>(s.label_smoothing / static_cast<double>(s.classes))),
        row_size_(columns.blocks() * s.classes * L), padded_classes_((s.classes + L - 1) / L * L),
        exp_(s.classes * L), above_(with_grad_ ? row_size_ : 0), below_(with_grad_ ? row_size_ : 0),
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
    // Local copies here and below: a vector store may alias any member.
    const auto block =
        with_grad_ ? (smoothing_ > T(0) ? &Task::block<true, true> : &Task::block<true, false>)
                   : (smoothing_ > T(0) ? &Task::block<false, true> : &Task::block<false, false>);
    std::int64_t row = with_grad_ ? std::max<std::int64_t>(first - 1, 0) : first;
    if (with_grad_) {
      zero_row(grad_lo_, row_size_);
      zero_row(grad_hi_, row_size_);
    }
    const std::int64_t last = first_output(rows_, end);
    for (std::int64_t y = first_output(rows_, row); y < last; ++y) {
      Taps<T> t = taps<T>(rows_, y);
      if (t.hi == t.lo) t.w_lo = T(1), t.w_hi = T(0);
      for (; row < t.lo; ++row) finish_row(n, row, row >= first);
      logits.move_to(t.lo, t.hi, [&](T* values) { normalise(values); });
      const bool owned = t.lo >= first;
      V loss_sum{}, weight_sum{};
      for (std::int64_t b = 0; b < columns_.blocks(); ++b) {
        const Pixels<T> p = read_pixels(n, y, b, owned);
        V loss{};
        if (any<T>(p.counts)) loss = (this->*block)(logits.lo(b), logits.hi(b), t, p, b);
        loss_sum += loss;
        weight_sum += p.weight;
        if (owned && a_.pixel_loss != nullptr) {
          const std::int64_t at = (n * s_.out_h + y) * s_.out_w + b * L;
          store_partial(static_cast<T*>(a_.pixel_loss) + at, loss, lanes_in(b));
        }
      }
      if (owned) {
        double* sums = row_sums_ + 2 * (n * s_.out_h + y);
        for (int k = 0; k < L; ++k) sums[0] += loss_sum[k], sums[1] += weight_sum[k];
      }
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

  // The target in 64 bits, before it is known to be a class; ignore_index beyond the last column.
  template <class Label> Wide read_target(const Label* target, std::int64_t count) const {
    typedef Label Labels __attribute__((vector_size(L * sizeof(Label))));
    if (count == L) {
      Labels labels;
      std::memcpy(&labels, target, sizeof(labels));
      return __builtin_convertvector(labels, Wide);
    }
    Wide wide = Wide{} + s_.ignore_index;
    for (std::int64_t k = 0; k < count; ++k) wide[k] = static_cast<std::int64_t>(target[k]);
    return wide;
  }

  Pixels<T> read_pixels(std::int64_t n, std::int64_t y, std::int64_t b, bool owned) {
    const std::int64_t at = (n * s_.out_h + y) * s_.out_w + b * L, count = lanes_in(b);
    Wide target;
    dispatch_label(target_type_, [&](auto tag) {
      target = read_target(static_cast<const typename decltype(tag)::type*>(a_.target) + at, count);
    });
    const Wide other = target != s_.ignore_index;
    const Wide valid = (target >= 0) & (target < s_.classes);
    Pixels<T> p{};
    p.counts = __builtin_convertvector(valid & other, ivec<T>);
    p.target = __builtin_convertvector(valid & other & target, ivec<T>);
    if (owned && bad_target_ < 0 && any<T>(__builtin_convertvector(other & ~valid, ivec<T>)))
      for (int k = L - 1; k >= 0; --k)
        if (other[k] != 0 && valid[k] == 0) bad_target_ = at + k;
    const V one = splat<T>(T(1));
    p.weight = class_weight_ != nullptr ? gather(class_weight_, p.target) : one;
    p.scale = a_.pixel_scale != nullptr
                  ? load_partial(static_cast<const T*>(a_.pixel_scale) + at, count)
                  : one;
    p.weight = p.counts ? p.weight : V{};
    p.scale = p.counts ? p.scale : V{};
    return p;
  }

  // One block of one output row: returns the pixel losses, adds to the gradients of its columns.
  template <bool Grad, bool Smoothing>
  V block(const T* lo, const T* hi, const Taps<T>& t, const Pixels<T>& p, std::int64_t b) {
    const T w_lo = t.w_lo, w_hi = t.w_hi;
    const std::int64_t C = s_.classes;
    T* const e = exp_.get();
    V sum{}, shift{}, weighted{}; // weighted: sum of class weight * logit, for the smoothed part
    for (std::int64_t c = 0; c < C; ++c) {
      const V z = load_vec(lo + c * L) * w_lo + load_vec(hi + c * L) * w_hi;
      if constexpr (Smoothing) weighted += z * weight_of(c);
      const V v = exp2_nonpositive(z);
      if constexpr (Grad) store_vec(e + c * L, v);
      sum += v;
    }
    if (any<T>(sum < T(0x1p-40))) sum = shifted_exp<Grad>(lo, hi, w_lo, w_hi, shift);
    const ivec<T> own_logit = p.target * L + iota<T>();
    const V logit = gather(lo, own_logit) * w_lo + gather(hi, own_logit) * w_hi;
    const V log_sum = log_positive(sum) + shift * T(kLn2);
    V loss = (log_sum - logit * T(kLn2)) * p.weight;
    if constexpr (Smoothing)
      loss = loss * (T(1) - smoothing_) + (log_sum * weight_sum_ - weighted * T(kLn2)) * per_class_;
    if constexpr (Grad) {
      // d loss / d logit_c = own * (p_c - [c == target]) + per_class * (weight_sum * p_c -
      // weight_c)
      if constexpr (Smoothing) {
        const V own = p.weight * p.scale * (T(1) - smoothing_), each = p.scale * per_class_;
        add_softmax(b, p, (own + each * weight_sum_) / sum, V{}, w_lo, w_hi);
        subtract_smoothed(b, p, own, each, w_lo, w_hi);
      } else {
        // Taking the whole sum off the target's share makes it p - 1.
        add_softmax(b, p, p.weight * p.scale / sum, sum, w_lo, w_hi);
      }
    }
    return p.counts ? loss : V{}; // not a product: an ignored pixel may hold NaN
  }

  // The softmax with its true maximum, for the lanes' own good: sum of 2^(z - shift), shift = max
  // z.
  template <bool Grad> V shifted_exp(const T* lo, const T* hi, T w_lo, T w_hi, V& shift) {
    const std::int64_t C = s_.classes;
    shift = load_vec(lo) * w_lo + load_vec(hi) * w_hi;
    for (std::int64_t c = 1; c < C; ++c)
      shift = vmax(load_vec(lo + c * L) * w_lo + load_vec(hi + c * L) * w_hi, shift);
    V sum{};
    for (std::int64_t c = 0; c < C; ++c) {
      const V v =
          exp2_nonpositive(load_vec(lo + c * L) * w_lo + load_vec(hi + c * L) * w_hi - shift);
      if constexpr (Grad) store_vec(exp_.get() + c * L, v);
      sum += v;
    }
    return sum;
  }

  // Adds factor * (exp_ - [class == target] * off_target).
  void add_softmax(std::int64_t b, const Pixels<T>& p, V factor, V off_target, T w_lo, T w_hi) {
    const V f_lo = factor * w_lo, f_hi = factor * w_hi;
    const std::int64_t C = s_.classes;
    const T* const exp = exp_.get();
    T* const to_lo = grad_lo_ + b * C * L;
    T* const to_hi = grad_hi_ + b * C * L;
    for (std::int64_t c = 0; c < C; ++c) {
      const V e = load_vec(exp + c * L);
      const V v = e - (p.target == static_cast<lane_int<T>>(c) ? off_target : V{});
      store_vec(to_lo + c * L, load_vec(to_lo + c * L) + v * f_lo);
      store_vec(to_hi + c * L, load_vec(to_hi + c * L) + v * f_hi);
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
        for (std::int64_t k = 0; k < count; ++k) {
          T* left = sums + columns_.lo(b * L + k) * padded_classes_ + c;
          T* right = sums + columns_.hi(b * L + k) * padded_classes_ + c;
          store_vec(left, load_vec(left) + tile[k] * columns_.w_lo(b * L + k));
          store_vec(right, load_vec(right) + tile[k] * columns_.w_hi(b * L + k));
        }
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
  // exp_: 2^z of one block. above_, below_: gradients of the two source rows at hand, before the
  // horizontal adjoint; grad_lo_ and grad_hi_ point to them in turn. grad_row_: after it.
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
