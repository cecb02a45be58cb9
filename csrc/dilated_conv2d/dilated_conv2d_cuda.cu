// Entry points of the CUDA twin (see dilated_conv2d_cuda.h), and the second stage of the gradients
// of weight and bias: a sum of the blocks' partial sums in a fixed order.
#include "dilated_conv2d/dilated_conv2d_cuda.h"

namespace fastseg::dilated_conv2d::cuda {
namespace {

constexpr int kColumns = 32, kSlices = kThreads / kColumns, kAtOnce = 4;

// partials [count, taps + 1, C] to grad_weight [C, taps] and grad_bias [C]; either may be null.
template <class Storage>
__global__ void __launch_bounds__(kThreads)
    dilated_conv2d_bwd_reduce_kernel(const compute_t<Storage>* partials, std::int64_t count,
                                     std::int64_t taps, std::int64_t channels, Storage* grad_weight,
                                     Storage* grad_bias) {
  using T = compute_t<Storage>;
  FASTSEG_SHARED(sums, T[kThreads]);
  const std::int64_t size = (taps + 1) * channels;
  const std::int64_t index = std::int64_t(blockIdx.x) * kColumns + threadIdx.x % kColumns;
  T sum = 0;
  if (index < size)
    for (std::int64_t i = threadIdx.x / kColumns; i < count; i += kSlices * kAtOnce) {
      T values[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
        values[k] =
            i + k * kSlices < count ? load(partials + (i + k * kSlices) * size + index) : T(0);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) sum += values[k];
    }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= kColumns || index >= size) return;
  for (int slice = 1; slice < kSlices; ++slice) sum += sums[slice * kColumns + threadIdx.x];
  const Division at = divide(index, channels);
  if (at.quotient < taps) {
    if (grad_weight != nullptr) from_compute(sum, grad_weight[at.remainder * taps + at.quotient]);
  } else if (grad_bias != nullptr) {
    from_compute(sum, grad_bias[at.remainder]);
  }
}

void check_sizes(const Shape& s) {
  if (std::max({s.in_h, s.in_w, s.out_h, s.out_w, s.kernel_h * s.kernel_w}) > 0x7fffffff)
    throw std::invalid_argument("fastseg: dilated_conv2d: an axis of 2^31 or more elements");
}

template <class Storage>
void run(const Sweep<Storage>& p, const Shape& s, Direction direction, int items,
         std::uintptr_t stream) {
  marches(s) ? march(p, s, direction, items, stream) : visit_taps(p, direction, items, stream);
}

// Channels of a thread for these maps.
template <class Storage, bool kWeight>
int items_of(const Shape& s, std::initializer_list<const void*> maps) {
  constexpr int kItems = kVectorItems<Storage, kWeight>;
  if (!s.channels_last || s.channels % kItems != 0) return 1;
  for (const void* map : maps)
    if (!is_aligned(map, kItems * sizeof(Storage))) return 1;
  return kItems;
}

// The sweep that has the weights' gradients, and the partial sums of each channel.
template <class Storage> std::int64_t partials_of(const Shape& s, int items) {
  return s.batch * plan<Storage>(s, Direction::backward, items).parts;
}

template <class Storage>
void forward_typed(const Storage* x, const Storage* weight, const Storage* bias, Storage* out,
                   const Shape& s, std::uintptr_t stream) {
  const int items = items_of<Storage, false>(s, {x, out});
  Sweep<Storage> p = plan<Storage>(s, Direction::forward, items);
  p.source = x;
  p.weight = weight;
  p.bias = bias;
  p.target = out;
  run(p, s, Direction::forward, items, stream);
}

template <class Storage>
void backward_typed(const Storage* grad_out, const Storage* x, const Storage* weight,
                    Storage* grad_x, Storage* grad_weight, Storage* grad_bias,
                    compute_t<Storage>* partials, const Shape& s, std::uintptr_t stream) {
  const bool alone = grad_weight == nullptr && grad_bias == nullptr;
  const int items = alone ? items_of<Storage, false>(s, {grad_out, grad_x})
                          : items_of<Storage, true>(s, {grad_out, grad_x, x});
  Sweep<Storage> p = plan<Storage>(s, Direction::backward, items);
  p.source = grad_out;
  p.weight = weight;
  p.target = grad_x;
  p.partner = x;
  p.partials = alone ? nullptr : partials;
  p.sum_sources = grad_bias != nullptr;
  run(p, s, Direction::backward, items, stream);
  if (alone) return;
  const std::int64_t taps = s.kernel_h * s.kernel_w;
  launch("dilated_conv2d backward, sums", dilated_conv2d_bwd_reduce_kernel<Storage>,
         ceil_div((taps + 1) * s.channels, kColumns), kThreads, 0, stream,
         static_cast<const compute_t<Storage>*>(partials), partials_of<Storage>(s, items), taps,
         s.channels, grad_weight, grad_bias);
}

} // namespace

std::int64_t workspace_bytes(DType dtype, const Shape& s) {
  std::int64_t bytes = 0;
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    // Which path runs also depends on addresses: room for either.
    for (const int items : {1, items_of<Storage, true>(s, {})})
      bytes = std::max<std::int64_t>(bytes, partials_of<Storage>(s, items) *
                                                (s.kernel_h * s.kernel_w + 1) * s.channels *
                                                sizeof(compute_t<Storage>));
  });
  return bytes;
}

void forward(DType dtype, const void* x, const void* weight, const void* bias, void* out,
             const Shape& s, std::uintptr_t stream) {
  check_sizes(s);
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    forward_typed(static_cast<const Storage*>(x), static_cast<const Storage*>(weight),
                  static_cast<const Storage*>(bias), static_cast<Storage*>(out), s, stream);
  });
}

void backward(DType dtype, const void* grad_out, const void* x, const void* weight, void* grad_x,
              void* grad_weight, void* grad_bias, void* workspace, const Shape& s,
              std::uintptr_t stream) {
  check_sizes(s);
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    backward_typed(static_cast<const Storage*>(grad_out), static_cast<const Storage*>(x),
                   static_cast<const Storage*>(weight), static_cast<Storage*>(grad_x),
                   static_cast<Storage*>(grad_weight), static_cast<Storage*>(grad_bias),
                   static_cast<compute_t<Storage>*>(workspace), s, stream);
  });
}

} // namespace fastseg::dilated_conv2d::cuda
