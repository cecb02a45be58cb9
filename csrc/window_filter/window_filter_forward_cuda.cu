// Sums of the neighbours' labels (see window_filter_cuda.h).
#include "window_filter/window_filter_cuda.h"

namespace fastseg::window_filter::cuda {
namespace {

template <class Storage, int kLabels>
__global__ void __launch_bounds__(kColumns, kBlocks<Storage>)
    window_filter_fwd_kernel(const Map<Storage> values, const Map<Storage> features, Storage* out,
                             const Tiling t) {
  using T = compute_t<Storage>;
  constexpr int kTogether = kLabels > 16 ? 2 : 4; // labels whose values are in registers
  const Place at = place<T>(t);
  const int dims = static_cast<int>(t.shape.dims);
  const std::int64_t label = at.group * t.group;
  const int labels = static_cast<int>(min(t.shape.labels - label, std::int64_t(t.group)));
  const Storage* const own_values =
      values.data + at.image * values.strides.image + label * values.strides.plane;
  const Storage* const own_features = features.data + at.image * features.strides.image;
  T* const own = dynamic_shared<T>();
  T* const there = own + dims * kRows<T> * kColumns;
  T* const their_values = there + dims * t.columns;
  stage_own(own_features, features.strides, t, at, own);
  T sum[kLabels][kRows<T>] = {};
  for_each_row<T>(t, at, [&](std::int64_t row, int first, int last) {
    for (int begin = 0; begin < t.shifts; begin += t.strip) {
      const int shifts = min(t.strip, t.shifts - begin);
      const std::int64_t column = at.x - threadIdx.x - t.reach_columns + begin;
      __syncthreads();
      stage(own_features + row * features.strides.row, features.strides, dims, dims, column,
            t.columns, t.shape.width, there);
      stage(own_values + row * values.strides.row, values.strides, kLabels, labels, column,
            t.columns, t.shape.width, their_values);
      __syncthreads();
      for (int shift = 0; shift < shifts; shift += kShifts) {
        T weight[kRows<T>][kShifts];
        weigh(own + threadIdx.x, there + threadIdx.x + shift, dims, t.columns, weight);
        // Of a pixel and itself it is 1, whatever its features are.
        const std::int64_t self_row = row - at.y, self = t.reach_columns - begin - shift;
        if (self_row >= 0 && self_row < kRows<T> && self >= 0 && self < kShifts) {
#pragma unroll
          for (int r = 0; r < kRows<T>; ++r)
#pragma unroll
            for (int s = 0; s < kShifts; ++s)
              if (r == self_row && s == self) weight[r][s] = T(1);
        }
        if (shift + kShifts > shifts) {
#pragma unroll
          for (int s = 0; s < kShifts; ++s)
#pragma unroll
            for (int r = 0; r < kRows<T>; ++r)
              if (shift + s >= shifts) weight[r][s] = T(0);
        }
#pragma unroll
        for (int l = 0; l < kLabels; l += kTogether) {
          T value[kTogether][kShifts];
#pragma unroll
          for (int i = 0; i < kTogether; ++i)
#pragma unroll
            for (int s = 0; s < kShifts; ++s)
              value[i][s] = shift + s < shifts
                                ? their_values[(l + i) * t.columns + threadIdx.x + shift + s]
                                : T(0);
          // A few shifts are summed first, which costs little and keeps long sums exact.
#pragma unroll
          for (int r = 0; r < kRows<T>; ++r) {
            if (r < first || r > last) continue;
#pragma unroll
            for (int i = 0; i < kTogether; ++i) {
              T part = weight[r][0] * value[i][0];
#pragma unroll
              for (int s = 1; s < kShifts; ++s) part += weight[r][s] * value[i][s];
              sum[l + i][r] += part;
            }
          }
        }
      }
    }
  });
  if (at.x >= t.shape.width) return;
  Storage* const to =
      out + ((at.image * t.shape.labels + label) * t.shape.height + at.y) * t.shape.width + at.x;
#pragma unroll
  for (int l = 0; l < kLabels; ++l)
#pragma unroll
    for (int r = 0; r < kRows<T>; ++r)
      if (l < labels && at.y + r < t.shape.height)
        from_compute(sum[l][r], to[(l * t.shape.height + r) * t.shape.width]);
}

// The fewest labels in registers that hold a group.
template <class Storage, int kLabels = 4>
void forward_typed(Map<Storage> values, Map<Storage> features, Storage* out, const Tiling& t,
                   std::uintptr_t stream) {
  using T = compute_t<Storage>;
  if constexpr (kLabels < kMostLabels<T>)
    if (t.group > kLabels)
      return forward_typed<Storage, kLabels == 4 ? 8 : kLabels + 8>(values, features, out, t,
                                                                    stream);
  launch("window_filter", window_filter_fwd_kernel<Storage, kLabels>,
         t.shape.batch * t.label_groups * t.tile_rows * t.tile_columns, kColumns,
         shared_bytes<T>(t, kLabels), stream, values, features, out, t);
}

} // namespace

void forward(DType dtype, const Map<void>& values, const Map<void>& features, void* out,
             const Shape& shape, std::uintptr_t stream) {
  check(shape);
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    forward_typed(typed<Storage>(values), typed<Storage>(features), static_cast<Storage*>(out),
                  tiling<compute_t<Storage>>(shape), stream);
  });
}

} // namespace fastseg::window_filter::cuda
