// The tables of both axes, and the softmax's numbers per pixel (see upsample_class_sums_cuda.h).
#include "upsample_class_sums/upsample_class_sums_cuda.h"

namespace fastseg::upsample_class_sums::cuda {
namespace {

template <class T>
FASTSEG_DEVICE void fill_taps(Tap<T>* table, const ResizeAxis& axis, std::int64_t i) {
  const Taps<T> t = taps<T>(axis, i);
  table[i] = {static_cast<int>(t.lo), static_cast<int>(t.hi - t.lo), t.w_hi};
}

template <class Storage>
__global__ void __launch_bounds__(kThreads)
    upsample_class_sums_fwd_bwd_tables_kernel(const Problem<Storage> p) {
  const Shape& s = p.s;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const ResizeAxis rows = resize_axis(s.in_h, s.out_h, s.align_corners, 0.0);
  const ResizeAxis columns = resize_axis(s.in_w, s.out_w, s.align_corners, 0.0);
  if (i < s.out_h) fill_taps(p.w.rows, rows, i);
  if (i < s.out_w) fill_taps(p.w.columns, columns, i);
  if (i < s.in_h + 2) p.w.row_ends[i] = static_cast<int>(first_output(rows, i - 1));
  if (i < s.in_w + 2) p.w.column_ends[i] = static_cast<int>(first_output(columns, i - 1));
  if (p.a.target_kind != TargetKind::logits) return;
  if (i < s.out_h)
    fill_taps(p.w.teacher_rows, resize_axis(s.teacher_h, s.out_h, s.align_corners, 0.0), i);
  if (i < s.out_w)
    fill_taps(p.w.teacher_columns, resize_axis(s.teacher_w, s.out_w, s.align_corners, 0.0), i);
}

// The largest of z(c), and the sum of e^(z(c) - largest).
template <class T, class Logit>
FASTSEG_DEVICE void normalise(int classes, const Logit& z, T& largest, T& sum) {
  largest = z(0);
  for (int c = 1; c < classes; ++c) {
    const T v = z(c);
    largest = v > largest ? v : largest;
  }
  sum = 0;
  for (int c = 0; c < classes; ++c) sum += exp(z(c) - largest);
}

template <class Storage>
__global__ void __launch_bounds__(kThreads)
    upsample_class_sums_fwd_bwd_pixels_kernel(const Problem<Storage> p) {
  using T = compute_t<Storage>;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t plane = p.s.out_h * p.s.out_w;
  if (i >= p.s.batch * plane) return;
  const Division image = divide(i, plane), row = divide(image.remainder, p.s.out_w);
  const int classes = static_cast<int>(p.s.classes);
  const Pixel<T> pixel =
      pixel_at(p, image.quotient, static_cast<int>(row.quotient), static_cast<int>(row.remainder));
  normalise(classes, [&](int c) { return logit(p, pixel, c); }, p.w.largest[i], p.w.sum[i]);
  if (p.a.target_kind == TargetKind::logits)
    normalise(
        classes, [&](int c) { return teacher_logit(p, pixel, c); }, p.w.teacher_largest[i],
        p.w.teacher_sum[i]);
  if (p.a.grad_logits == nullptr) return;
  const T* coefficients =
      static_cast<const T*>(p.a.coefficients) + pixel.n * p.a.kept * p.s.classes;
  T common = 0;
  for (int c = 0; c < classes; ++c)
    common += slopes(p, element(p, pixel, c), coefficients + c, p.s.classes).by_log_p;
  p.w.common[i] = common;
}

} // namespace

template <class Storage> void prepare(const Problem<Storage>& p, std::uintptr_t stream) {
  const Shape& s = p.s;
  const std::int64_t longest = std::max({s.out_h, s.out_w, s.in_h + 2, s.in_w + 2});
  launch("upsample_class_sums tables", upsample_class_sums_fwd_bwd_tables_kernel<Storage>,
         ceil_div(longest, kThreads), kThreads, 0, stream, p);
  if (s.sigmoid) return;
  launch("upsample_class_sums pixels", upsample_class_sums_fwd_bwd_pixels_kernel<Storage>,
         ceil_div(s.batch * s.out_h * s.out_w, kThreads), kThreads, 0, stream, p);
}
template void prepare(const Problem<float>&, std::uintptr_t);
template void prepare(const Problem<double>&, std::uintptr_t);
template void prepare(const Problem<bfloat16_t>&, std::uintptr_t);
template void prepare(const Problem<float16_t>&, std::uintptr_t);

std::int64_t workspace_bytes(DType dtype, const Arguments& a, const Shape& s) {
  std::int64_t bytes = 0;
  dispatch_dtype(dtype, [&](auto tag) {
    Workspace<compute_t<typename decltype(tag)::type>> w{};
    bytes = divide_memory(a, s, nullptr, w);
  });
  return bytes;
}

} // namespace fastseg::upsample_class_sums::cuda
