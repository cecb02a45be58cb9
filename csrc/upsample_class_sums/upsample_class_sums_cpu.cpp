// CPU twin. A task owns a band of source rows and visits the output rows between them in groups
// (RowGroup). Between two source rows the logits of kLanes output columns lie in two arrays of
// vectors (LogitRows), and so do their gradients (GradientRows). Sums are float within a group and
// double from there on, one partial sum per source row: the bits do not depend on the bands.
#include "upsample_class_sums/upsample_class_sums.h"

#include "common/bands_cpu.h"
#include "common/parallel_cpu.h"
#include "upsample_class_sums/upsample_class_sums_sigmoid_cpu.h"
#include "upsample_class_sums/upsample_class_sums_soft_cpu.h"

namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL {
namespace {

// Visits bands of source rows: calls forward(n, group, lo, hi, row) or backward(n, group, lo, hi,
// gradient) of a visitor, one of Sigmoid, Softmax and SoftTargets.
template <class Storage> class Task {
  using T = compute_t<Storage>;

public:
  explicit Task(const Call<T>& call)
      : call_(call), backward_(call.a.grad_logits != nullptr), coefficients_(call, backward_),
        pixels_(call) {}

  // Source rows [first, end) of image n. Returns the first bad label of the output rows it owns,
  // those whose upper source row it has; for the gradient it also visits the ones above.
  std::int64_t run(std::int64_t n, std::int64_t first, std::int64_t end) {
    if (backward_) coefficients_.read(n);
    const bool labels = call_.a.target_kind == TargetKind::labels;
    if (call_.s.sigmoid)
      visit_rows(Sigmoid<T>(call_, pixels_, coefficients_), n, first, end);
    else if (labels)
      visit_rows(Softmax<T>(call_, pixels_, coefficients_), n, first, end);
    else
      visit_rows(SoftTargets<T>(call_, pixels_, coefficients_), n, first, end);
    return pixels_.bad();
  }

private:
  template <class Visitor>
  void visit_rows(Visitor&& visitor, std::int64_t n, std::int64_t first, std::int64_t end) {
    constexpr bool soft = std::is_same_v<std::remove_reference_t<Visitor>, SoftTargets<T>>;
    const Shape& s = call_.s;
    LogitRows<Storage> logits(static_cast<const Storage*>(call_.a.logits) + n * s.stride_n,
                              {s.stride_n, s.stride_c, s.stride_h, s.stride_w}, s.classes,
                              call_.columns);
    const bool has_teacher = soft && call_.teacher_rows != nullptr;
    const std::int64_t plane = s.teacher_h * s.teacher_w;
    LogitRows<T> teacher(static_cast<const T*>(call_.a.target) + n * s.classes * plane,
                         {s.classes * plane, plane, s.teacher_w, 1}, has_teacher ? s.classes : 0,
                         has_teacher ? *call_.teacher_columns : call_.columns);
    GradientRows<T> gradient(call_.columns, s.classes, backward_);
    const auto prepare = [&](T* values) {
      if (!s.sigmoid) normalise(values, s.classes);
    };
    std::int64_t row = backward_ ? std::max<std::int64_t>(first - 1, 0) : first;
    const std::int64_t last = first_output(call_.rows, end);
    for (std::int64_t y = first_output(call_.rows, row); y < last;) {
      const Taps<T> t = taps<T>(call_.rows, y);
      RowGroup<T> group = row_group(call_.rows, t, y, last, t.lo >= first);
      for (; backward_ && row < t.lo; ++row) finish_row(gradient, n, row, row >= first);
      logits.move_to(t.lo, t.hi, prepare);
      const T *lo = logits.lo(0), *hi = logits.hi(0);
      if constexpr (soft) {
        const LogitRows<T>* from = nullptr;
        if (has_teacher) {
          // All rows of the group read the same two source rows of the teacher, too.
          const Taps<T> at = taps<T>(*call_.teacher_rows, y);
          group.count =
              std::min(group.count, row_group(*call_.teacher_rows, at, y, last, group.owned).count);
          teacher.move_to(at.lo, at.hi, prepare);
          from = &teacher;
        }
        if (backward_)
          visitor.backward(n, group, lo, hi, gradient, from);
        else
          visitor.forward(n, group, lo, hi, t.lo, from);
      } else {
        if (backward_)
          visitor.backward(n, group, lo, hi, gradient);
        else
          visitor.forward(n, group, lo, hi, t.lo);
      }
      y += group.count;
    }
    for (; backward_ && row < end; ++row) finish_row(gradient, n, row, row >= first);
  }

  // All output rows below source row `row` have been visited: its gradient is complete.
  void finish_row(GradientRows<T>& gradient, std::int64_t n, std::int64_t row, bool owned) {
    const Shape& s = call_.s;
    const bool last = call_.a.grad_channels_last;
    T* const to = static_cast<T*>(call_.a.grad_logits) + n * s.classes * s.in_h * s.in_w +
                  row * s.in_w * (last ? s.classes : 1);
    if (owned) gradient.write(to, last ? 1 : s.in_h * s.in_w, last ? s.classes : 1);
    gradient.next();
  }

  const Call<T>& call_;
  bool backward_;
  Coefficients<T> coefficients_;
  PixelRows<T> pixels_;
};

template <class Storage> std::int64_t run_typed(const Arguments& a, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const ResizeAxis rows = resize_axis(s.in_h, s.out_h, s.align_corners, 0.0);
  const ResizeColumns<T> columns(resize_axis(s.in_w, s.out_w, s.align_corners, 0.0));
  const bool teacher = a.target_kind == TargetKind::logits;
  const ResizeAxis teacher_rows =
      resize_axis(teacher ? s.teacher_h : s.in_h, s.out_h, s.align_corners, 0.0);
  const ResizeColumns<T> teacher_columns(
      resize_axis(teacher ? s.teacher_w : s.in_w, s.out_w, s.align_corners, 0.0));
  const Bands bands(s.batch, s.in_h, threads);
  const std::int64_t tasks = s.batch * bands.per_image, each = a.kept * s.classes;
  Buffer<double> partials(a.sums != nullptr ? s.batch * s.in_h * each : 0);
  if (a.sums != nullptr) zero_row(partials.get(), s.batch * s.in_h * each);
  const Call<T> call{a,
                     s,
                     rows,
                     columns,
                     teacher ? &teacher_rows : nullptr,
                     teacher ? &teacher_columns : nullptr,
                     partials.get()};
  Buffer<std::int64_t> bad(tasks);
  parallel_for(tasks, threads, [&](std::int64_t i) {
    bad[i] = Task<Storage>(call).run(bands.image(i), bands.first(i), bands.end(i));
  });
  if (a.sums != nullptr) {
    zero_row(a.sums, s.batch * each);
    for (std::int64_t n = 0; n < s.batch; ++n)
      for (std::int64_t y = 0; y < s.in_h; ++y)
        add_scaled_row(a.sums + n * each, partials.get() + (n * s.in_h + y) * each, 1.0, each);
  }
  std::int64_t first = -1; // of masks, a later band may have an earlier one
  for (std::int64_t i = 0; i < tasks; ++i)
    if (bad[i] >= 0 && (first < 0 || bad[i] < first)) first = bad[i];
  return first;
}

std::int64_t run(DType dtype, const Arguments& a, const Shape& s, int threads) {
  std::int64_t bad = -1;
  dispatch_dtype(dtype,
                 [&](auto tag) { bad = run_typed<typename decltype(tag)::type>(a, s, threads); });
  return bad;
}

} // namespace

const CpuKernels kernels{run};

} // namespace fastseg::upsample_class_sums::FASTSEG_CPU_LEVEL
