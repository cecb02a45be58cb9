// Backward of the CUDA twin (see upsample_class_sums_cuda.h): a thread per source cell and class,
// in the order of the gradient's memory.
#include "upsample_class_sums/upsample_class_sums_cuda.h"

namespace fastseg::upsample_class_sums::cuda {
namespace {

// The weight that an output has on source i.
template <class T> FASTSEG_DEVICE T weight_on(const Tap<T>& tap, int i) {
  return (tap.lo == i ? T(1) - tap.w : T(0)) + (tap.lo + tap.step == i ? tap.w : T(0));
}

template <class Storage>
__global__ void __launch_bounds__(kThreads, sizeof(compute_t<Storage>) == 8 ? 1 : 2)
    upsample_class_sums_bwd_kernel(const Problem<Storage> p) {
  using T = compute_t<Storage>;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t cells = p.s.in_h * p.s.in_w, each = p.s.classes * cells;
  if (i >= p.s.batch * each) return;
  const Division image = divide(i, each);
  const std::int64_t inner = p.a.grad_channels_last ? p.s.classes : cells;
  const Division place = divide(image.remainder, inner);
  const int c = static_cast<int>(p.a.grad_channels_last ? place.remainder : place.quotient);
  const int cell = static_cast<int>(p.a.grad_channels_last ? place.quotient : place.remainder);
  const int row = cell / static_cast<int>(p.s.in_w), column = cell % static_cast<int>(p.s.in_w);
  const T* coefficients =
      static_cast<const T*>(p.a.coefficients) + image.quotient * p.a.kept * p.s.classes + c;
  T gradient = 0;
  for (int y = p.w.row_ends[row]; y < p.w.row_ends[row + 2]; ++y) {
    const T w_row = weight_on(p.w.rows[y], row);
    T along = 0;
    for (int x = p.w.column_ends[column]; x < p.w.column_ends[column + 2]; ++x) {
      const Pixel<T> pixel = pixel_at(p, image.quotient, y, x);
      if (pixel.label < 0) continue;
      const Element<T> e = element(p, pixel, c);
      if (!e.counts || e.bad) continue;
      const Slopes<T> s = slopes(p, e, coefficients, p.s.classes);
      const T d =
          p.s.sigmoid ? s.by_log_p * e.q + s.by_logit : s.by_log_p - e.p * p.w.common[pixel.at];
      along += d * pixel.weight * weight_on(pixel.column, column);
    }
    gradient += along * w_row;
  }
  from_compute(gradient, static_cast<Storage*>(p.a.grad_logits)[i]);
}

} // namespace

void backward(DType dtype, const Arguments& a, const Shape& s, void* workspace,
              std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const Problem<Storage> p = problem<Storage>(a, s, workspace, nullptr);
    prepare(p, stream);
    launch("upsample_class_sums backward", upsample_class_sums_bwd_kernel<Storage>,
           ceil_div(s.batch * s.classes * s.in_h * s.in_w, kThreads), kThreads, 0, stream, p);
  });
}

} // namespace fastseg::upsample_class_sums::cuda
