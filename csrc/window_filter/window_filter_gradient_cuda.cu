// The gradient to the features (see window_filter_cuda.h).
#include "window_filter/window_filter_cuda.h"

namespace fastseg::window_filter::cuda {
namespace {

// Blocks of a multiprocessor: six need 32 bytes of local memory on sm_80.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <class Storage> constexpr int kGradientBlocks = 4;
#else
template <class Storage> constexpr int kGradientBlocks = kBlocks<Storage>;
#endif

// With k the weight: grad_features_i = sum over j of k_ij (g_i . v_j + v_i . g_j) (f_j - f_i). The
// dot products of some labels give their share of the sum: labels come in groups.
template <class Storage>
__global__ void __launch_bounds__(kColumns, kGradientBlocks<Storage>)
    window_filter_bwd_features_kernel(const Map<Storage> grads, const Map<Storage> values,
                                      const Map<Storage> features, Storage* grad_features,
                                      const Tiling t) {
  using T = compute_t<Storage>;
  const Place at = place<T>(t);
  const int dims = static_cast<int>(t.shape.dims);
  const Storage* const own_features = features.data + at.image * features.strides.image;
  T* const own = dynamic_shared<T>();
  T* const there = own + dims * kRows<T> * kColumns;
  T* const their_values = there + dims * t.columns;
  T* const their_grads = their_values + t.group * t.columns;
  stage_own(own_features, features.strides, t, at, own);
  // Where a thread's pixels are in the maps. Those outside of the image have the numbers of others,
  // and are not written.
  const std::int64_t x = min(at.x, t.shape.width - 1);
  const int below = static_cast<int>(min(t.shape.height - 1 - at.y, std::int64_t(kRows<T> - 1)));

  T sum[kMaxDims][kRows<T>] = {};
  for (std::int64_t label = 0; label < t.shape.labels; label += t.group) {
    const int labels = static_cast<int>(min(t.shape.labels - label, std::int64_t(t.group)));
    const Storage* const label_values =
        values.data + at.image * values.strides.image + label * values.strides.plane;
    const Storage* const label_grads =
        grads.data + at.image * grads.strides.image + label * grads.strides.plane;
    for_each_row<T>(t, at, [&](std::int64_t row, int first, int last) {
      for (int begin = 0; begin < t.shifts; begin += t.strip) {
        const int shifts = min(t.strip, t.shifts - begin);
        const std::int64_t column = at.x - threadIdx.x - t.reach_columns + begin;
        __syncthreads();
        stage(own_features + row * features.strides.row, features.strides, dims, dims, column,
              t.columns, t.shape.width, there);
        stage(label_values + row * values.strides.row, values.strides, labels, labels, column,
              t.columns, t.shape.width, their_values);
        stage(label_grads + row * grads.strides.row, grads.strides, labels, labels, column,
              t.columns, t.shape.width, their_grads);
        __syncthreads();
        for (int shift = 0; shift < shifts; shift += kShifts) {
          const int place_there = threadIdx.x + shift;
          T product[kRows<T>][kShifts] = {};
          for (int l = 0; l < labels; ++l) {
            T value[kRows<T>], grad[kRows<T>];
            const Storage* const own_values =
                label_values + l * values.strides.plane + at.y * values.strides.row + x;
            const Storage* const own_grads =
                label_grads + l * grads.strides.plane + at.y * grads.strides.row + x;
#pragma unroll
            for (int r = 0; r < kRows<T>; ++r) {
              value[r] = to_compute(load(own_values + min(r, below) * values.strides.row));
              grad[r] = to_compute(load(own_grads + min(r, below) * grads.strides.row));
            }
#pragma unroll
            for (int s = 0; s < kShifts; ++s) {
              const T their_value = their_values[l * t.columns + place_there + s];
              const T their_grad = their_grads[l * t.columns + place_there + s];
#pragma unroll
              for (int r = 0; r < kRows<T>; ++r)
                product[r][s] += grad[r] * their_value + value[r] * their_grad;
            }
          }
          T weight[kRows<T>][kShifts];
          weigh(own + threadIdx.x, there + place_there, dims, t.columns, weight);
#pragma unroll
          for (int r = 0; r < kRows<T>; ++r)
#pragma unroll
            for (int s = 0; s < kShifts; ++s) product[r][s] *= weight[r][s];
#pragma unroll
          for (int d = 0; d < kMaxDims; ++d) {
            if (d >= dims) continue;
#pragma unroll
            for (int r = 0; r < kRows<T>; ++r) {
              if (r < first || r > last) continue;
              const T mine = own[(d * kRows<T> + r) * kColumns + threadIdx.x];
              T part(0);
#pragma unroll
              for (int s = 0; s < kShifts; ++s)
                if (shift + s < shifts)
                  part += product[r][s] * (there[d * t.columns + place_there + s] - mine);
              sum[d][r] += part;
            }
          }
        }
      }
    });
  }
  if (at.x >= t.shape.width) return;
  Storage* const to =
      grad_features + (at.image * t.shape.dims * t.shape.height + at.y) * t.shape.width + at.x;
#pragma unroll
  for (int d = 0; d < kMaxDims; ++d)
#pragma unroll
    for (int r = 0; r < kRows<T>; ++r)
      if (d < dims && at.y + r < t.shape.height)
        from_compute(sum[d][r], to[(d * t.shape.height + r) * t.shape.width]);
}

} // namespace

void feature_gradient(DType dtype, const Map<void>& grad_out, const Map<void>& values,
                      const Map<void>& features, void* grad_features, const Shape& shape,
                      std::uintptr_t stream) {
  check(shape);
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    using T = compute_t<Storage>;
    Tiling t = tiling<T>(shape);
    t.label_groups = 1; // a block goes through all of them
    launch("window_filter_feature_gradient", window_filter_bwd_features_kernel<Storage>,
           shape.batch * t.tile_rows * t.tile_columns, kColumns, shared_bytes<T>(t, 2 * t.group),
           stream, typed<Storage>(grad_out), typed<Storage>(values), typed<Storage>(features),
           static_cast<Storage*>(grad_features), t);
  });
}

} // namespace fastseg::window_filter::cuda
