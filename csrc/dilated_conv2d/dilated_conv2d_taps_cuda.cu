// Any kernel size and stride (see dilated_conv2d_cuda.h): a thread has one target pixel at a time
// and visits its taps, kTaps of them with their loads under way together.
#include "dilated_conv2d/dilated_conv2d_cuda.h"

namespace fastseg::dilated_conv2d::cuda {
namespace {

// Weights beyond this are read from global memory. Shared memory is 48 KB, write_partials has 20.
constexpr std::size_t kStagedBytes = 27 * 1024;

// The source that a target reads through `tap`, -1 if there is none.
template <Direction kDirection>
FASTSEG_DEVICE std::int64_t source_index(const ConvAxis& axis, std::int64_t target,
                                         std::int64_t tap) {
  if constexpr (kDirection == Direction::forward) {
    const std::int64_t in = input_index(axis, target, tap);
    return in < axis.in ? in : -1;
  } else if (axis.stride == 1) {
    const std::int64_t out = target + axis.padding - tap * axis.dilation;
    return out < axis.out ? out : -1;
  } else {
    std::int64_t out = 0;
    return output_index(axis, target, tap, &out) && out < axis.out ? out : -1;
  }
}

template <class Storage, int kItems, Direction kDirection, bool kWeight>
__global__ void __launch_bounds__(kThreads, 2)
    dilated_conv2d_fwd_bwd_taps_kernel(const Sweep<Storage> p, bool is_staged) {
  using T = compute_t<Storage>;
  constexpr bool kForward = kDirection == Direction::forward;
  T* staged = dynamic_shared<T>();
  const Place<Storage, kItems> place(p);
  const int kernel_w = static_cast<int>(p.columns.kernel);
  const int taps = static_cast<int>(p.rows.kernel) * kernel_w;
  if (is_staged) stage_weights(p, place, taps, false, staged);
  __syncthreads();
  const std::int64_t target_h = kForward ? p.rows.out : p.rows.in;
  const std::int64_t target_w = kForward ? p.columns.out : p.columns.in;
  const std::int64_t source_h = kForward ? p.rows.in : p.rows.out;
  const std::int64_t source_w = kForward ? p.columns.in : p.columns.out;
  const Storage* source = p.source + place.offset(source_h * source_w);
  const Storage* partner = kWeight ? p.partner + place.offset(target_h * target_w) : nullptr;
  Storage* target = p.target == nullptr ? nullptr : p.target + place.offset(target_h * target_w);
  const std::int64_t end = place.active ? place.end(p) : 0;
  T start[kItems] = {};
  if (!kWeight && p.bias != nullptr && place.active)
#pragma unroll
    for (int k = 0; k < kItems; ++k) start[k] = to_compute(load(p.bias + place.channel + k));

  // The first pass computes the targets, and each one the sums of its own kTaps taps.
  const int passes = kWeight ? (taps + kTaps - 1) / kTaps : 1;
  for (int pass = 0; pass < passes; ++pass) {
    T sums[kWeight ? kSums : 1][kItems] = {};
    for (std::int64_t work = place.begin(p); work < end; work += place.workers) {
      const Division at = divide(work, target_w);
      T sum[kItems], own[kWeight ? kItems : 1] = {};
#pragma unroll
      for (int k = 0; k < kItems; ++k) sum[k] = start[k];
      if constexpr (kWeight) {
        const Items<Storage, kItems> v = load_items<kItems>(partner + work * place.step);
#pragma unroll
        for (int k = 0; k < kItems; ++k) own[k] = to_compute(v.v[k]);
      }
      const int first = pass * kTaps, last = pass == 0 ? taps : min(first + kTaps, taps);
      int tap_row = first / kernel_w, tap_column = first % kernel_w;
      std::int64_t row = source_index<kDirection>(p.rows, at.quotient, tap_row);
      for (int tap = first; tap < last; tap += kTaps) {
        RawItems<Storage, kItems> values[kTaps] = {};
        unsigned inside = 0;
#pragma unroll
        for (int i = 0; i < kTaps; ++i) {
          if (tap + i < last) {
            const std::int64_t column =
                source_index<kDirection>(p.columns, at.remainder, tap_column);
            if (row >= 0 && column >= 0) {
              values[i].read(source + (row * source_w + column) * place.step);
              inside |= 1u << i;
            }
            if (++tap_column == kernel_w) {
              tap_column = 0;
              row = source_index<kDirection>(p.rows, at.quotient, ++tap_row);
            }
          }
        }
#pragma unroll
        for (int i = 0; i < kTaps; ++i) {
          if ((inside >> i & 1) == 0) continue;
#pragma unroll
          for (int k = 0; k < kItems; ++k) {
            const T value = values[i].value(k);
            const int channel = place.lane * kItems + k;
            if (pass == 0)
              sum[k] +=
                  value * (is_staged
                               ? staged[(tap + i) * kTileChannels<kItems> + channel]
                               : to_compute(load(p.weight + (place.channel + k) * taps + tap + i)));
            if (kWeight && tap == first) sums[kWeight ? i : 0][k] += value * own[kWeight ? k : 0];
          }
        }
      }
      if (pass == 0 && target != nullptr) store_items<kItems>(target + work * place.step, sum);
    }
    if constexpr (kWeight) {
      if (pass == 0 && p.sum_sources && place.active)
        sum_sources(p, place, source_h * source_w, sums[kTaps]);
      write_partials(p, place, taps, sums, [&](int s) {
        if (s == kTaps) return pass == 0 ? taps : -1;
        return pass * kTaps + s < taps ? pass * kTaps + s : -1;
      });
    }
  }
}

template <class Storage, int kItems, Direction kDirection, bool kWeight>
void launch_taps(const Sweep<Storage>& p, std::uintptr_t stream) {
  const std::size_t bytes =
      static_cast<std::size_t>(p.rows.kernel * p.columns.kernel * kTileChannels<kItems>) *
      sizeof(compute_t<Storage>);
  const bool is_staged = bytes <= kStagedBytes;
  launch(kWeight ? "dilated_conv2d, with weights" : "dilated_conv2d",
         dilated_conv2d_fwd_bwd_taps_kernel<Storage, kItems, kDirection, kWeight>, blocks(p),
         p.threads, is_staged ? bytes : 0, stream, p, is_staged);
}

template <class Storage>
void visit_typed(const Sweep<Storage>& p, Direction direction, int items, std::uintptr_t stream) {
  constexpr int kAlone = kVectorItems<Storage, false>, kBoth = kVectorItems<Storage, true>;
  if (p.partials != nullptr)
    items > 1 ? launch_taps<Storage, kBoth, Direction::backward, true>(p, stream)
              : launch_taps<Storage, 1, Direction::backward, true>(p, stream);
  else if (direction == Direction::backward)
    items > 1 ? launch_taps<Storage, kAlone, Direction::backward, false>(p, stream)
              : launch_taps<Storage, 1, Direction::backward, false>(p, stream);
  else
    items > 1 ? launch_taps<Storage, kAlone, Direction::forward, false>(p, stream)
              : launch_taps<Storage, 1, Direction::forward, false>(p, stream);
}

} // namespace

void visit_taps(const Sweep<float>& p, Direction direction, int items, std::uintptr_t stream) {
  visit_typed(p, direction, items, stream);
}
void visit_taps(const Sweep<double>& p, Direction direction, int items, std::uintptr_t stream) {
  visit_typed(p, direction, items, stream);
}
void visit_taps(const Sweep<bfloat16_t>& p, Direction direction, int items, std::uintptr_t stream) {
  visit_typed(p, direction, items, stream);
}
void visit_taps(const Sweep<float16_t>& p, Direction direction, int items, std::uintptr_t stream) {
  visit_typed(p, direction, items, stream);
}

} // namespace fastseg::dilated_conv2d::cuda
