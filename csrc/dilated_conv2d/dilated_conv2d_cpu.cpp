// CPU twin: depthwise convolution and its derivatives in one sweep over the tiles.
//
// The forward and the gradient to x are the same sum over taps, with other indices (AxisPlan); the
// gradient to the weight needs the same pairs of pixels as the gradient to x, so both come from one
// pass. A tile stages its sources as vectors of planes, then computes its targets in bands of rows
// that stay in the L1 cache. Partial sums of the weight gradient are kept per plane and chunk of
// rows and added in that order at the end.
#include "dilated_conv2d/dilated_conv2d.h"

#include "common/parallel_cpu.h"
#include "dilated_conv2d/dilated_conv2d_direct_cpu.h"
#include "dilated_conv2d/dilated_conv2d_tiles_cpu.h"

namespace fastseg::dilated_conv2d::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

constexpr int kRegionTaps = 9;             // per pass over a region: the weights of a 3x3 kernel
constexpr std::int64_t kSummedPixels = 32; // sums of sums round less than one long sum

// A rectangle of targets that use the same taps. Steps are in elements of T.
template <class T> struct Region {
  std::int64_t rows, columns;
  std::int64_t target_row_step, target_column_step, source_row_step, source_column_step;
  T* target;
  bool fresh;       // the sums begin with `start`, not with what target holds
  const T* start;   // kLanes numbers
  const T* partner; // same positions: what the sources are multiplied with for the weight gradient
  int taps;
  const T* source[kRegionTaps]; // what the first target reads
  const T* weight[kRegionTaps];
  T* grad_weight[kRegionTaps];
};

template <class T, int kTaps, bool kTarget, bool kWeight> void region_kernel(const Region<T>& r) {
  const std::int64_t begin_row_step = r.fresh ? 0 : r.target_row_step;
  const std::int64_t begin_column_step = r.fresh ? 0 : r.target_column_step;
  vec<T> weight[kTaps], grad_weight[kTaps];
  const T* source[kTaps];
  for (int k = 0; k < kTaps; ++k) {
    if (kTarget) weight[k] = load_vec(r.weight[k]);
    if (kWeight) grad_weight[k] = vec<T>{};
    source[k] = r.source[k];
  }
  std::int64_t summed = 0;
  for (std::int64_t row = 0; row < r.rows; ++row) {
    T* target = r.target + (kTarget ? row * r.target_row_step : 0);
    const T* partner = r.partner + (kWeight ? row * r.target_row_step : 0);
    const T* begin = (r.fresh ? r.start : r.target) + (kTarget ? row * begin_row_step : 0);
    std::int64_t at = 0, from = 0;
    for (std::int64_t column = 0; column < r.columns; ++column) {
      vec<T> sum{}, factor{};
      if (kTarget) {
        sum = load_vec(begin);
        begin += begin_column_step;
      }
      if (kWeight) factor = load_vec(partner + at);
#pragma GCC unroll 9
      for (int k = 0; k < kTaps; ++k) {
        const vec<T> value = load_vec(source[k] + from);
        if (kTarget) sum += value * weight[k];
        if (kWeight) grad_weight[k] += value * factor;
      }
      if (kTarget) store_vec(target + at, sum);
      at += r.target_column_step;
      from += r.source_column_step;
    }
    for (int k = 0; k < kTaps; ++k) source[k] += r.source_row_step;
    summed += r.columns;
    if (kWeight && (summed >= kSummedPixels || row + 1 == r.rows)) {
      for (int k = 0; k < kTaps; ++k) {
        store_vec(r.grad_weight[k], load_vec(r.grad_weight[k]) + grad_weight[k]);
        grad_weight[k] = vec<T>{};
      }
      summed = 0;
    }
  }
}

template <class T, bool kTarget, bool kWeight> void run_region(const Region<T>& r) {
  switch (r.taps) {
  case 0: // in the padding
    return region_kernel<T, 0, kTarget, false>(r);
  case 1:
    return region_kernel<T, 1, kTarget, kWeight>(r);
  case 2:
    return region_kernel<T, 2, kTarget, kWeight>(r);
  case 3:
    return region_kernel<T, 3, kTarget, kWeight>(r);
  case 4:
    return region_kernel<T, 4, kTarget, kWeight>(r);
  case 5:
    return region_kernel<T, 5, kTarget, kWeight>(r);
  case 6:
    return region_kernel<T, 6, kTarget, kWeight>(r);
  case 7:
    return region_kernel<T, 7, kTarget, kWeight>(r);
  case 8:
    return region_kernel<T, 8, kTarget, kWeight>(r);
  case 9:
    return region_kernel<T, 9, kTarget, kWeight>(r);
  }
}

// One vector of planes, one band of target rows.
template <class T> struct Band {
  std::int64_t begin, end; // target rows
  T* target;
  const T* start; // what its sums begin with: kLanes numbers
  const T* partner;
  const T* ring; // source rows: row i at slot i % ring_rows
  std::int64_t ring_rows;
  const T* weight; // kLanes numbers per tap
  T* grad_weight;
};

template <class T, bool kTarget, bool kWeight>
void run_band(const Band<T>& band, const AxisPlan& rows, const AxisPlan& columns,
              std::int64_t kernel_w) {
  const std::int64_t target_width = columns.targets() * kLanes<T>;
  const std::int64_t source_width = columns.sources() * kLanes<T>;
  Region<T> region{};
  region.start = band.start;
  region.target_row_step = rows.target_step() * target_width;
  region.target_column_step = columns.target_step() * kLanes<T>;
  region.source_row_step = rows.source_step() * source_width;
  region.source_column_step = columns.source_step() * kLanes<T>;
  for (std::int64_t i = 0; i < rows.spans(); ++i) {
    const Span& row = rows.span(i);
    std::int64_t from =
        std::max<std::int64_t>(0, ceil_div(band.begin - row.first, rows.target_step()));
    const std::int64_t to = std::min(row.count, ceil_div(band.end - row.first, rows.target_step()));
    for (; from < to; from += region.rows) {
      const auto slot = [&](const Tap& tap) {
        return (tap.source + from * rows.source_step()) % band.ring_rows;
      };
      region.rows = to - from;
      for (std::int64_t a = row.tap_begin; a < row.tap_end; ++a) // until a tap's rows wrap
        region.rows =
            std::min(region.rows, ceil_div(band.ring_rows - slot(rows.tap(a)), rows.source_step()));
      const std::int64_t first_row = row.first + from * rows.target_step() - band.begin;
      for (std::int64_t j = 0; j < columns.spans(); ++j) {
        const Span& column = columns.span(j);
        region.columns = column.count;
        const std::int64_t first = first_row * target_width + column.first * kLanes<T>;
        region.target = kTarget ? band.target + first : nullptr;
        region.partner = kWeight ? band.partner + first : nullptr;
        region.taps = 0;
        region.fresh = true;
        for (std::int64_t a = row.tap_begin; a < row.tap_end; ++a) {
          const T* source_row = band.ring + slot(rows.tap(a)) * source_width;
          for (std::int64_t b = column.tap_begin; b < column.tap_end; ++b) {
            const std::int64_t tap =
                (rows.tap(a).index * kernel_w + columns.tap(b).index) * kLanes<T>;
            region.source[region.taps] = source_row + columns.tap(b).source * kLanes<T>;
            region.weight[region.taps] = kTarget ? band.weight + tap : nullptr;
            region.grad_weight[region.taps] = kWeight ? band.grad_weight + tap : nullptr;
            if (++region.taps == kRegionTaps) {
              run_region<T, kTarget, kWeight>(region);
              region.taps = 0;
              region.fresh = false;
            }
          }
        }
        if (region.taps > 0 || region.fresh) run_region<T, kTarget, kWeight>(region);
      }
    }
  }
}

// forward: source x, target out. backward: source grad_out, target grad_x, partner x.
// Null target, partials: not computed.
template <class Storage> struct Sweep {
  using T = compute_t<Storage>;
  Direction direction;
  const Storage* source;
  const Storage* weight;
  const Storage* bias;
  Storage* target;
  const Storage* partner;
  T* weight_partials; // [chunks, planes, taps]
  T* bias_partials;   // [chunks, planes]
};

struct Plans {
  AxisPlan rows, columns;
  Plans(const Shape& s, Direction direction)
      : rows({s.in_h, s.out_h, s.kernel_h, s.stride_h, s.padding_h, s.dilation_h}, direction),
        columns({s.in_w, s.out_w, s.kernel_w, s.stride_w, s.padding_w, s.dilation_w}, direction) {}
};

// dst[tap * kLanes + lane] = weight of plane `plane + lane`, for the lanes that have a plane.
template <class Storage, class T = compute_t<Storage>>
void spread_weights(const Storage* weight, std::int64_t taps, std::int64_t channels,
                    std::int64_t plane, std::int64_t planes, T* dst) {
  for (std::int64_t lane = 0; lane < std::min<std::int64_t>(planes, kLanes<T>); ++lane) {
    const Storage* own = weight + (plane + lane) % channels * taps;
    for (std::int64_t tap = 0; tap < taps; ++tap)
      dst[tap * kLanes<T> + lane] = to_compute(own[tap]);
  }
}

// The sum of staged pixels, in four interleaved chains.
template <class T> vec<T> sum_pixels(const T* staged, std::int64_t count) {
  vec<T> sums[4]{};
  for (std::int64_t i = 0; i < count; ++i) sums[i % 4] += load_vec(staged + i * kLanes<T>);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class Storage> void run_sweep(const Sweep<Storage>& job, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const Plans plans(s, job.direction);
  const AxisPlan &rows = plans.rows, &columns = plans.columns;
  const Tiling<Storage> tiling(s.batch, s.channels, s.channels_last, rows, columns);
  const std::int64_t target_width = columns.targets(), source_width = columns.sources();
  const MapLayout target_map{s.channels, rows.targets() * target_width, s.channels_last};
  const MapLayout source_map{s.channels, rows.sources() * source_width, s.channels_last};
  const std::int64_t vectors = tiling.vectors(), taps = s.kernel_h * s.kernel_w;
  const std::int64_t band_rows = tiling.band_rows(), ring_rows = tiling.ring_rows();
  const bool target = job.target != nullptr, grad_weight = job.weight_partials != nullptr;
  const auto band_kernel = target
                               ? (grad_weight ? run_band<T, true, true> : run_band<T, true, false>)
                               : run_band<T, false, true>;

  const std::int64_t ring_pitch = ring_rows * source_width * kLanes<T>;
  const std::int64_t band_pitch = band_rows * target_width * kLanes<T>;
  const std::int64_t taps_pitch = taps * kLanes<T>;
  // Ring of sources, band of targets, band of partners, weights and bias, sums of their gradients.
  const std::int64_t scratch_size =
      vectors * (ring_pitch + 2 * band_pitch + 2 * (taps_pitch + kLanes<T>));
  Buffer<T> scratch(threads * scratch_size);

  parallel_for(tiling.tasks(), threads, [&](std::int64_t task) {
    const Tile tile = tiling.tile(task);
    const std::int64_t used = ceil_div(tile.planes, kLanes<T>);
    T* ring = scratch.get() + thread_index() * scratch_size;
    T* target_band = ring + vectors * ring_pitch;
    T* partner_band = target_band + vectors * band_pitch;
    T* weight = partner_band + vectors * band_pitch;
    T* bias = weight + vectors * taps_pitch;
    T* weight_sums = bias + vectors * kLanes<T>;
    T* bias_sums = weight_sums + vectors * taps_pitch;
    std::fill(weight, bias_sums + vectors * kLanes<T>, T(0));
    for (std::int64_t v = 0; v < used; ++v) {
      const std::int64_t plane = tile.plane + v * kLanes<T>, planes = tile.planes - v * kLanes<T>;
      if (target)
        spread_weights(job.weight, taps, s.channels, plane, planes, weight + v * taps_pitch);
      if (job.bias != nullptr)
        spread_weights(job.bias, 1, s.channels, plane, planes, bias + v * kLanes<T>);
    }

    std::int64_t staged = tile.source_begin; // rows before this one are in the ring, or were
    const auto stage_until = [&](std::int64_t end) {
      while (staged < end) {
        const std::int64_t slot = staged % ring_rows;
        const std::int64_t count = std::min(end - staged, ring_rows - slot);
        T* pixels = ring + slot * source_width * kLanes<T>;
        stage(job.source, source_map, tile, staged * source_width, count * source_width, pixels,
              ring_pitch);
        const std::int64_t own = std::min(count, tile.source_end - staged);
        for (std::int64_t row = 0; job.bias_partials != nullptr && row < own; ++row)
          for (std::int64_t v = 0; v < used; ++v) {
            T* sum = bias_sums + v * kLanes<T>;
            const T* begin = pixels + v * ring_pitch + row * source_width * kLanes<T>;
            store_vec(sum, load_vec(sum) + sum_pixels(begin, source_width));
          }
        staged += count;
      }
    };

    for (std::int64_t begin = tile.begin; begin < tile.end && (target || grad_weight);
         begin += band_rows) {
      const std::int64_t end = std::min(begin + band_rows, tile.end);
      const std::int64_t first = begin * target_width, count = (end - begin) * target_width;
      if (job.bias_partials == nullptr) staged = std::max(staged, rows.source_begin(begin));
      stage_until(rows.source_end(end));
      if (grad_weight) stage(job.partner, target_map, tile, first, count, partner_band, band_pitch);
      for (std::int64_t v = 0; v < used; ++v) {
        band_kernel({begin, end, target_band + v * band_pitch, bias + v * kLanes<T>,
                     partner_band + v * band_pitch, ring + v * ring_pitch, ring_rows,
                     weight + v * taps_pitch, weight_sums + v * taps_pitch},
                    rows, columns, s.kernel_w);
      }
      if (target) unstage(target_band, band_pitch, target_map, tile, first, count, job.target);
    }
    if (job.bias_partials != nullptr) stage_until(tile.source_end);

    const std::int64_t partial = tile.chunk * tiling.planes() + tile.plane;
    for (std::int64_t i = 0; i < tile.planes; ++i) {
      const T* own = weight_sums + i / kLanes<T> * taps_pitch + i % kLanes<T>;
      if (job.bias_partials != nullptr) job.bias_partials[partial + i] = bias_sums[i];
      for (std::int64_t tap = 0; grad_weight && tap < taps; ++tap)
        job.weight_partials[(partial + i) * taps + tap] = own[tap * kLanes<T>];
    }
  });
}

// out[i] = sum of partials[k * size + i] over k, in that order.
template <class Storage, class T = compute_t<Storage>>
void reduce_partials(const T* partials, std::int64_t count, std::int64_t size, Storage* out) {
  for (std::int64_t i = 0; i < size; ++i) {
    T sum(0);
    for (std::int64_t k = 0; k < count; ++k) sum += partials[k * size + i];
    out[i] = from_compute<Storage>(sum);
  }
}

// channels_last, in place.
template <class Storage>
void run_direct(const Storage* x, const Storage* weight, const Storage* bias, Storage* out,
                const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const Plans plans(s, Direction::forward);
  const std::int64_t taps = s.kernel_h * s.kernel_w, C = s.channels;
  Buffer<T> by_tap(taps * C), start(C);
  for (std::int64_t c = 0; c < C; ++c) {
    start[c] = bias != nullptr ? to_compute(bias[c]) : T(0);
    for (std::int64_t tap = 0; tap < taps; ++tap)
      by_tap[tap * C + c] = to_compute(weight[c * taps + tap]);
  }
  direct_forward(x, by_tap.get(), start.get(), out, s.batch, C, plans.rows, plans.columns,
                 s.kernel_w, threads);
}

// Partial sums per chunk of rows and image.
template <class Storage> std::int64_t partials_of(const Shape& s) {
  const Plans plans(s, Direction::backward);
  const Tiling<Storage> tiling(s.batch, s.channels, s.channels_last, plans.rows, plans.columns);
  return tiling.chunks() * s.batch;
}

std::int64_t workspace_bytes(DType dtype, const Shape& s) {
  std::int64_t bytes = 0;
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const std::int64_t per_channel = s.kernel_h * s.kernel_w + 1;
    bytes = partials_of<Storage>(s) * s.channels * per_channel * sizeof(compute_t<Storage>);
  });
  return bytes;
}

void forward(DType dtype, const void* x, const void* weight, const void* bias, void* out,
             const Shape& s, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    if (s.channels_last && s.channels >= kLanes<compute_t<Storage>>)
      return run_direct(static_cast<const Storage*>(x), static_cast<const Storage*>(weight),
                        static_cast<const Storage*>(bias), static_cast<Storage*>(out), s, threads);
    Sweep<Storage> job{};
    job.direction = Direction::forward;
    job.source = static_cast<const Storage*>(x);
    job.weight = static_cast<const Storage*>(weight);
    job.bias = static_cast<const Storage*>(bias);
    job.target = static_cast<Storage*>(out);
    run_sweep(job, s, threads);
  });
}

void backward(DType dtype, const void* grad_out, const void* x, const void* weight, void* grad_x,
              void* grad_weight, void* grad_bias, void* workspace, const Shape& s, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    using T = compute_t<Storage>;
    const std::int64_t partials = partials_of<Storage>(s);
    const std::int64_t weights = s.channels * s.kernel_h * s.kernel_w;
    T* bias_partials = static_cast<T*>(workspace);
    T* weight_partials = bias_partials + partials * s.channels;
    Sweep<Storage> job{};
    job.direction = Direction::backward;
    job.source = static_cast<const Storage*>(grad_out);
    job.weight = static_cast<const Storage*>(weight);
    job.target = static_cast<Storage*>(grad_x);
    job.partner = static_cast<const Storage*>(x);
    job.weight_partials = grad_weight != nullptr ? weight_partials : nullptr;
    job.bias_partials = grad_bias != nullptr ? bias_partials : nullptr;
    run_sweep(job, s, threads);
    if (grad_weight != nullptr)
      reduce_partials(weight_partials, partials, weights, static_cast<Storage*>(grad_weight));
    if (grad_bias != nullptr)
      reduce_partials(bias_partials, partials, s.channels, static_cast<Storage*>(grad_bias));
  });
}

} // namespace

const CpuKernels kernels{workspace_bytes, forward, backward};

} // namespace fastseg::dilated_conv2d::FASTSEG_CPU_LEVEL
