// The forward of a depthwise convolution on a channels_last map, in place: neighbouring channels
// are a vector as they lie, so nothing is staged. Included only by *_cpu.cpp files; lives in the
// level's namespace.
#pragma once

#include <algorithm>

#include "common/parallel_cpu.h"
#include "common/simd_cpu.h"
#include "dilated_conv2d/dilated_conv2d_plan_cpu.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

// Channels are taken in groups whose source rows stay in the L2 cache from one tap to the next.
inline constexpr std::int64_t kDirectBytes = 384 << 10;

template <class Storage> struct DirectTap {
  const Storage* source;            // what the first target reads, at channel 0
  const compute_t<Storage>* weight; // of channel 0
};

// kPixels neighbouring targets with the same taps, channels [begin, end); begin + kLanes <= end.
template <int kPixels, class Storage, class T = compute_t<Storage>>
void direct_pixels(const DirectTap<Storage>* taps, std::int64_t count, std::int64_t source_step,
                   const T* bias, Storage* target, std::int64_t target_step, std::int64_t begin,
                   std::int64_t end) {
  for (std::int64_t i = begin; i < end; i += kLanes<T>) {
    const std::int64_t c = std::min(i, end - kLanes<T>); // the last vector overlaps the one before
    vec<T> sum[kPixels];
    for (int p = 0; p < kPixels; ++p) sum[p] = load_vec(bias + c);
    for (std::int64_t k = 0; k < count; ++k) {
      const vec<T> weight = load_vec(taps[k].weight + c);
      const Storage* source = taps[k].source + c;
      for (int p = 0; p < kPixels; ++p) sum[p] += load(source + p * source_step) * weight;
    }
    for (int p = 0; p < kPixels; ++p) store(target + p * target_step + c, sum[p]);
  }
}

// weight: [kernel_h * kernel_w, C] and bias: [C], in compute precision; C >= kLanes.
template <class Storage, class T = compute_t<Storage>>
void direct_forward(const Storage* x, const T* weight, const T* bias, Storage* out,
                    std::int64_t batch, std::int64_t C, const AxisPlan& rows,
                    const AxisPlan& columns, std::int64_t kernel_w, int threads) {
  const std::int64_t in_row = columns.sources() * C, out_row = columns.targets() * C;
  const std::int64_t channel_bytes =
      std::min(rows.sources(), rows.reach(1)) * columns.sources() * std::int64_t(sizeof(Storage));
  const std::int64_t line = 64 / std::int64_t(sizeof(Storage)); // whole cache lines of channels
  const std::int64_t group =
      std::max(std::max<std::int64_t>(kDirectBytes / channel_bytes / line, 1) * line,
               std::int64_t(kLanes<T>));
  // The last group takes the rest, which may be less than a vector.
  const std::int64_t groups = std::max<std::int64_t>(C / group, 1);
  const std::int64_t wanted = ceil_div(4 * threads, std::max<std::int64_t>(batch * groups, 1));
  const std::int64_t chunk = ceil_div(rows.targets(), std::min(wanted, rows.targets()));
  const std::int64_t chunks = ceil_div(rows.targets(), chunk);
  parallel_for(batch * groups * chunks, threads, [&](std::int64_t task) {
    const std::int64_t n = task / (groups * chunks), g = task / chunks % groups;
    const std::int64_t first = task % chunks * chunk;
    const std::int64_t last = std::min(first + chunk, rows.targets());
    const std::int64_t begin = g * group, end = g + 1 == groups ? C : begin + group;
    const Storage* source = x + n * rows.sources() * in_row;
    Storage* target = out + n * rows.targets() * out_row;
    Buffer<DirectTap<Storage>> taps(rows.most_taps() * columns.most_taps());
    for (std::int64_t i = 0; i < rows.spans(); ++i) {
      const Span& row = rows.span(i);
      for (std::int64_t y = std::max(first, row.first); y < std::min(last, row.first + row.count);
           ++y)
        for (std::int64_t j = 0; j < columns.spans(); ++j) {
          const Span& column = columns.span(j);
          std::int64_t count = 0;
          for (std::int64_t a = row.tap_begin; a < row.tap_end; ++a) {
            const std::int64_t from = rows.tap(a).source + (y - row.first) * rows.source_step();
            for (std::int64_t b = column.tap_begin; b < column.tap_end; ++b)
              taps[count++] = {source + from * in_row + columns.tap(b).source * C,
                               weight + (rows.tap(a).index * kernel_w + columns.tap(b).index) * C};
          }
          const std::int64_t step = columns.source_step() * C;
          Storage* to = target + y * out_row + column.first * C;
          std::int64_t done = 0;
          const auto advance = [&](std::int64_t pixels) {
            for (std::int64_t k = 0; k < count; ++k) taps[k].source += pixels * step;
            to += pixels * C;
            done += pixels;
          };
          for (; done + 8 <= column.count; advance(8))
            direct_pixels<8>(taps.get(), count, step, bias, to, C, begin, end);
          for (; done + 4 <= column.count; advance(4))
            direct_pixels<4>(taps.get(), count, step, bias, to, C, begin, end);
          for (; done < column.count; advance(1))
            direct_pixels<1>(taps.get(), count, step, bias, to, C, begin, end);
        }
    }
  });
}

} // namespace fastseg::FASTSEG_CPU_LEVEL
