// Backward of the CUDA twin (see upsample_bilinear_cuda.h): a gather, deterministic.
//
// A block owns a tile of the gradient: some source rows x source columns x lanes (planes in NCHW,
// channels of one image in NHWC). Its threads own output columns and add up output rows downwards
// (coalesced, each read once); whenever a source row is complete, the columns are added up through
// shared memory. A thread that has neighbouring columns first adds up its own runs of columns with
// the same sources, so that a source column is the sum of few runs. Every sum has a fixed order,
// wherever the maps begin in memory, so the result is the same bits each time.
#include "upsample_bilinear/upsample_bilinear.h"

#include <algorithm>
#include <type_traits>

#include "upsample_bilinear/upsample_bilinear_gradient_cuda.h"

namespace fastseg::upsample_bilinear::cuda {
namespace {

template <class Storage, bool kChannelsLast, class Read>
__global__ void __launch_bounds__(
    kThreads, kResidentBlocks<compute_t<Storage>, kChannelsLast || !std::is_same_v<Read, Vectors>>)
    upsample_bilinear_bwd_kernel(const Backward<Storage> p) {
  using T = compute_t<Storage>;
  constexpr bool kVector = kIsVector<Read>;
  constexpr bool kRuns = kVector && !kChannelsLast;
  constexpr int kItems = kVector ? kPack<Storage> : kScalarItems;
  constexpr int kCapacity = kItems * kThreads;
  // Channels that a thread writes at a time.
  constexpr int kWidth = kVector && kChannelsLast ? 16 / static_cast<int>(sizeof(T)) : 1;
  // One source row, before the columns' sum; of runs what goes to the left source, and to the
  // right.
  constexpr int kSums = kPadded<kCapacity>;
  FASTSEG_SHARED(sum_items, Items<T, kWidth>[(kRuns ? 2 : 1) * kSums / kWidth + 1]);
  constexpr int kQuad = 16 / static_cast<int>(sizeof(T));
  FASTSEG_SHARED(weight_items,
                 Items<T, kQuad>[kCapacity / kQuad]); // of columns to the right source
  FASTSEG_SHARED(begin, int[kTileColumns + 2]); // [c]: first output column with lo >= i0 - 1 + c
  FASTSEG_SHARED(ends,
                 unsigned char[kRuns ? kThreads : 1]); // bit k: column k of a thread ends a run
  FASTSEG_SHARED(runs, Runs[kRuns ? kTileColumns + 1 : 1]); // [c]: with lo == i0 - 1 + c
  FASTSEG_SHARED(rows, Row<T>[kRowBatch]);
  FASTSEG_SHARED(bounds, int[4]); // output rows and columns that touch the tile
  T* sums = sum_items[0].v;
  T* weights = weight_items[0].v;
  T* totals = dynamic_shared<T>(); // the tile; used where there are several passes
  const int thread = threadIdx.x;

  // The tile. In NCHW blocks that share halo rows run side by side, in NHWC those that share
  // pixels.
  Division at = divide(blockIdx.x, kChannelsLast ? p.lane_tiles : p.row_chunks);
  const std::int64_t inner_tile = at.remainder;
  at = divide(at.quotient, p.column_tiles);
  const int i0 = static_cast<int>(at.remainder) * p.columns_per_tile;
  at = divide(at.quotient, kChannelsLast ? p.row_chunks : p.lane_tiles);
  const std::int64_t outer_tile = at.remainder;
  const std::int64_t image = at.quotient;
  const std::int64_t lane0 = (kChannelsLast ? inner_tile : outer_tile) * p.lanes_per_tile;
  const int j0 = static_cast<int>(kChannelsLast ? outer_tile : inner_tile) * p.rows_per_chunk;
  const int lanes = static_cast<int>(min(std::int64_t(p.lanes_per_tile), p.lanes - lane0));
  const int width = min(p.columns_per_tile, static_cast<int>(p.columns.in) - i0);
  const int j1 = min(j0 + p.rows_per_chunk, static_cast<int>(p.rows.in));
  const Strides<kChannelsLast> in(p.lanes, p.rows.in, p.columns.in);
  const Strides<kChannelsLast> out(p.lanes, p.rows.out, p.columns.out);
  const Storage* grad_out = p.grad_out + image * out.image + lane0 * out.lane;
  Storage* grad_x = p.grad_x + image * in.image + lane0 * in.lane + i0 * in.column;

  if (thread < 4) { // one search per bound, all at once
    const bool vertical = thread < 2;
    const ResizeAxis axis{vertical ? p.rows.in : p.columns.in,
                          vertical ? p.rows.out : p.columns.out,
                          vertical ? p.rows.scale : p.columns.scale, p.rows.align_corners};
    const int source = thread == 0 ? j0 - 1 : thread == 1 ? j1 : thread == 2 ? i0 - 1 : i0 + width;
    bounds[thread] = static_cast<int>(first_output(axis, source));
  }
  __syncthreads();
  const int y0 = bounds[0], y1 = bounds[1], x1 = bounds[3];
  const int x0 = kVector && !kChannelsLast ? bounds[2] / kItems * kItems : bounds[2];
  const int passes = x1 - x0 > p.window ? (x1 - x0 + p.window - 1) / p.window : 1;
  const int kept = p.columns.in == p.columns.out ? 1 : 0; // nothing to the right of a column then

  for (int pass = 0; pass < passes; ++pass) {
    const int x_first = x0 + pass * p.window;
    const int count = min(p.window, x1 - x_first);
    __syncthreads(); // the previous pass has read its tables
    for (int c = thread; c < width + 2; c += kThreads) begin[c] = count;
    __syncthreads();
    // Columns of a thread one after the other, where it has neighbours.
    constexpr int kColumns = kRuns ? kItems : 1;
    for (int x = thread * kColumns; x < count; x += kThreads * kColumns) {
      int before = x == 0 ? -1 : static_cast<int>(taps<T>(p.columns, x_first + x - 1).lo);
      unsigned last_of_run = 1u << (kColumns - 1);
      for (int k = 0; k < min(kColumns, count - x); ++k) {
        const Taps<T> t = taps<T>(p.columns, x_first + x + k);
        weights[x + k] = t.hi == t.lo ? T(0) : t.w_hi;
        if (k > 0 && before != t.lo) last_of_run |= 1u << (k - 1);
        // Source columns i in (before, lo] begin here.
        const int last = min(static_cast<int>(t.lo), i0 + width);
        for (int i = max(before + 1, i0 - 1); i <= last; ++i) begin[i - (i0 - 1)] = x + k;
        before = static_cast<int>(t.lo);
      }
      if (kRuns && count - x < kColumns) last_of_run |= 1u << (count - x - 1);
      if constexpr (kRuns) ends[x / kColumns] = static_cast<unsigned char>(last_of_run);
    }
    if constexpr (kRuns) {
      __syncthreads();
      for (int c = thread; c <= width; c += kThreads) {
        const int first = begin[c], end = begin[c + 1], group = first / kItems;
        const unsigned earlier = first < end ? ends[group] & ((1u << first % kItems) - 1) : 0;
        runs[c].first = static_cast<std::uint16_t>(group * kItems + __popc(earlier));
        runs[c].count =
            static_cast<std::uint16_t>(first < end ? (end - 1) / kItems - group + 1 : 0);
      }
    }

    // The thread's items, as in sums: [lane][column] in NCHW, [column][lane] in NHWC.
    const Storage* source[kVector ? 1 : kItems];
#pragma unroll
    for (int k = 0; k < (kVector ? 1 : kItems); ++k) {
      const int item = kVector ? thread * kItems : thread + k * kThreads;
      const int stride = kChannelsLast ? p.lanes_per_tile : p.window;
      const int lane = kChannelsLast ? item % stride : item / stride;
      const int x = kChannelsLast ? item / stride : item % stride;
      source[k] = lane < lanes && x < count
                      ? grad_out + lane * out.lane + (x_first + x) * out.column + y0 * out.row
                      : nullptr;
    }
    const auto read_row = [&](Loaded<Storage, Read>& loaded, Storage(&single)[kItems]) {
      if constexpr (kVector) {
        if (source[0] == nullptr) return;
        loaded.read(p, source[0]);
        source[0] += out.row;
      } else {
#pragma unroll
        for (int k = 0; k < kItems; ++k) {
          if (source[k] == nullptr) continue;
          single[k] = load(source[k]);
          source[k] += out.row;
        }
      }
    };
    const auto value = [&](const RawPack<Storage>& pack, const Storage(&single)[kItems], int k) {
      if constexpr (kVector)
        return pack.value(k);
      else
        return to_compute(single[k]);
    };

    T current[kItems] = {}, next[kItems] = {}; // sums of source rows `row` and `row` + 1
    int row = j0 - 1;
    Storage* written = grad_x + row * in.row;
    // Where the thread's first column is in the window.
    const int column = kRuns ? thread * kItems % p.window : 0;
    const bool has_runs = kRuns && source[0] != nullptr;
    __syncthreads(); // tables are complete
    const auto put_sums = [&] {
      if constexpr (kRuns) {
        if (!has_runs) return;
        const unsigned last_of_run = ends[column / kItems];
        T* slot = sums + padded(thread * kItems);
        T left = 0, right = 0;
        Items<T, kQuad> weight;
#pragma unroll
        for (int k = 0; k < kItems; ++k) {
          if (k % kQuad == 0) weight = weight_items[(column + k) / kQuad];
          left += current[k] * (T(1) - weight.v[k % kQuad]);
          right += current[k] * weight.v[k % kQuad];
          const bool ends_here = (last_of_run >> k & 1) != 0;
          if (ends_here) slot[0] = left;
          if (ends_here) slot[kSums] = right;
          slot += ends_here ? 1 : 0;
          left = ends_here ? T(0) : left;
          right = ends_here ? T(0) : right;
        }
      } else if constexpr (kVector) {
#pragma unroll
        for (int k = 0; k < kItems; k += kWidth) {
          Items<T, kWidth> item;
#pragma unroll
          for (int i = 0; i < kWidth; ++i) item.v[i] = current[k + i];
          sum_items[(thread * kItems + k) / kWidth] = item;
        }
      } else {
#pragma unroll
        for (int k = 0; k < kItems; ++k) sums[padded(thread + k * kThreads)] = current[k];
      }
    };
    // One source column of a lane, or of kWidth neighbouring lanes.
    const auto sum_column = [&](int lane, int c, T(&sum)[kWidth]) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum[k] = 0;
      if constexpr (kRuns) {
        const int row_of_lane = lane * p.window;
        const auto add = [&](const T* of, Runs r) {
          int slot = row_of_lane + r.first;
#pragma unroll 1 // one or two
          for (int n = r.count; n > 0; --n) {
            sum[0] += of[padded(slot)];
            slot = (slot / kItems + 1) * kItems;
          }
        };
        if (kept == 0) add(sums + kSums, runs[c]);
        add(sums, runs[c + 1]);
      } else {
        const int start = kChannelsLast ? lane / kWidth : lane * p.window;
        const int step = kChannelsLast ? p.lanes_per_tile / kWidth : 1;
        const auto add = [&](int x, T weight) {
          const int at = start + x * step;
          const Items<T, kWidth> item = sum_items[kWidth > 1 ? at : padded(at)];
#pragma unroll
          for (int k = 0; k < kWidth; ++k) sum[k] += item.v[k] * weight;
        };
        const int middle = begin[c + 1], end = begin[c + 2];
#pragma unroll 4
        for (int x = begin[c + kept]; x < middle; ++x) add(x, weights[x]);
#pragma unroll 4
        for (int x = middle; x < end; ++x) add(x, T(1) - weights[x]);
      }
    };
    const auto finish_row = [&] {
      if (row >= j0) {
        __syncthreads(); // sums are free
        put_sums();
        __syncthreads();
        // Of a row of the tile: [lane][column] in NCHW, [column][lane] in NHWC.
        const int inner = kChannelsLast ? p.lanes_per_tile / kWidth : p.columns_per_tile;
        const int pieces = inner * (kChannelsLast ? width : lanes);
        for (int s = thread; s < pieces; s += kThreads) {
          const int outer = p.by_inner.quotient(s), rest = p.by_inner.remainder(s, outer);
          const int lane = kChannelsLast ? rest * kWidth : outer;
          const int c = kChannelsLast ? outer : rest;
          if (lane >= lanes || c >= width) continue;
          T sum[kWidth];
          sum_column(lane, c, sum);
          if (passes > 1) {
            T* total = totals + ((row - j0) * pieces + s) * kWidth;
#pragma unroll
            for (int k = 0; k < kWidth; ++k) {
              if (pass > 0) sum[k] += total[k];
              total[k] = sum[k];
            }
          }
          if (pass == passes - 1)
            store_items<kWidth>(written + lane * in.lane + c * in.column, sum);
        }
      }
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        current[k] = next[k];
        next[k] = 0;
      }
      ++row;
      written += in.row;
    };

    Loaded<Storage, Read> loaded;
    Storage single[kItems] = {}, next_single[kItems] = {};
    if (y0 < y1) read_row(loaded, next_single);
    for (int y = y0; y < y1; ++y) {
      const int slot = (y - y0) % kRowBatch;
      if (slot == 0) {
        __syncthreads();
        for (int r = thread; r < min(kRowBatch, y1 - y); r += kThreads)
          rows[r] = row_at<T>(p.rows, y + r);
        __syncthreads();
      }
      const Row<T> t = rows[slot];
      const RawPack<Storage> pack = loaded.values();
#pragma unroll
      for (int k = 0; k < kItems; ++k) single[k] = next_single[k];
      if (y + 1 < y1) read_row(loaded, next_single); // in flight while this row is added
      while (row < t.lo) finish_row();
      const T w_current = t.hi == t.lo ? t.w_lo + t.w_hi : t.w_lo;
#pragma unroll
      for (int k = 0; k < kItems; ++k) current[k] += value(pack, single, k) * w_current;
      if (t.hi != t.lo) {
#pragma unroll
        for (int k = 0; k < kItems; ++k) next[k] += value(pack, single, k) * t.w_hi;
      }
    }
    while (row < j1) finish_row();
  }
}

// Most output columns that touch `count` source columns of a tile: inside, and at the two ends,
// where outputs beyond the centres of the border pixels come on top.
std::int64_t touching(const ResizeAxis& axis, std::int64_t count) {
  const double inside = static_cast<double>(count + 1) / axis.scale + 2;
  const std::int64_t last = axis.out - first_output(axis, (axis.in - 1) / count * count - 1);
  const std::int64_t most = std::max(first_output(axis, count), last) + 1; // + 1: rounding
  return inside < axis.out ? std::min(std::max<std::int64_t>(inside, most), axis.out) : axis.out;
}

std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

template <class Storage, bool kChannelsLast, class Read>
void launch_backward(Backward<Storage> p, std::int64_t images, std::uintptr_t stream) {
  constexpr bool kVector = kIsVector<Read>;
  constexpr std::int64_t kCapacity = (kVector ? kPack<Storage> : kScalarItems) * kThreads;
  constexpr std::int64_t kLaneStep = kVector && kChannelsLast ? kPack<Storage> : 1;
  constexpr std::int64_t kColumnStep = kVector && !kChannelsLast ? kPack<Storage> : 1;
  std::int64_t lanes = 1;
  if (kChannelsLast) { // 64 bytes of channels, the tiles about equal
    const std::int64_t tiles = ceil_div(p.lanes * sizeof(Storage), 64);
    lanes = round_up(ceil_div(p.lanes, tiles), kLaneStep);
  }
  std::int64_t columns = std::min<std::int64_t>(p.columns.in, kTileColumns), window = 0;
  bool several_passes = false;
  // As few tiles of about the same width as the block's items allow.
  for (std::int64_t tiles = ceil_div(p.columns.in, columns);;
       tiles += std::max<std::int64_t>(tiles / 8, 1)) {
    columns = ceil_div(p.columns.in, tiles);
    window = touching(p.columns, columns);
    if (columns < p.columns.in) window += kColumnStep - 1; // a tile's first may be inside a vector
    window = round_up(window, kColumnStep);
    if (lanes * window <= kCapacity) break;
    if (columns > 4 || (columns > 1 && lanes == kLaneStep)) continue;
    if (lanes > kLaneStep) {
      lanes = round_up(lanes / 2, kLaneStep);
      continue;
    }
    if (columns > 1) continue;
    several_passes = true;
    window = kCapacity / lanes;
    break;
  }
  // Runs would end elsewhere than in other memory: a pass begins at any column.
  if constexpr (kVector && !kChannelsLast)
    if (several_passes) return launch_backward<Storage, false, Scalars>(p, images, stream);
  if (!kChannelsLast) lanes = std::min<std::int64_t>(p.lanes, kCapacity / window);
  p.window = static_cast<int>(window);
  p.lanes_per_tile = static_cast<int>(lanes);
  p.columns_per_tile = static_cast<int>(columns);
  p.lane_tiles = ceil_div(p.lanes, lanes);
  p.column_tiles = ceil_div(p.columns.in, columns);
  // A chunk also reads the output rows of the source row above it: few rows, much waste.
  const std::int64_t blocks = images * p.lane_tiles * p.column_tiles;
  const std::int64_t rows = p.rows.in / ceil_div(kWantedBlocks, blocks);
  p.rows_per_chunk = static_cast<int>(std::clamp<std::int64_t>(rows, 4, 64));
  p.row_chunks = ceil_div(p.rows.in, p.rows_per_chunk);
  constexpr std::int64_t kWidth = kVector && kChannelsLast ? 16 / sizeof(compute_t<Storage>) : 1;
  p.by_inner = Divider(kChannelsLast ? lanes / kWidth : columns);
  const std::size_t shared =
      several_passes ? lanes * columns * p.rows_per_chunk * sizeof(compute_t<Storage>) : 0;
  launch("upsample_bilinear backward", upsample_bilinear_bwd_kernel<Storage, kChannelsLast, Read>,
         blocks * p.row_chunks, kThreads, shared, stream, p);
}

template <class Storage>
void backward_typed(const Storage* grad_out, Storage* grad_x, const Shape& s,
                    std::uintptr_t stream) {
  Backward<Storage> p{};
  p.grad_out = grad_out;
  p.end = grad_out + s.batch * s.channels * s.out_h * s.out_w;
  p.grad_x = grad_x;
  p.rows = resize_axis(s.in_h, s.out_h, s.align_corners, s.scale_h);
  p.columns = resize_axis(s.in_w, s.out_w, s.align_corners, s.scale_w);
  p.lanes = s.channels_last ? s.channels : s.batch * s.channels;
  const bool aligned = is_aligned_16(grad_out);
  if (s.channels_last && aligned && s.channels % kPack<Storage> == 0)
    launch_backward<Storage, true, Vectors>(p, s.batch, stream);
  else if (s.channels_last)
    launch_backward<Storage, true, Scalars>(p, s.batch, stream);
  else if (!fills_vectors<Storage>(s.out_w)) // wherever it begins in memory: the same bits
    launch_backward<Storage, false, Scalars>(p, 1, stream);
  else if (aligned && s.out_w % kPack<Storage> == 0)
    launch_backward<Storage, false, Vectors>(p, 1, stream);
  else
    launch_backward<Storage, false, Ragged>(p, 1, stream);
}

} // namespace

void backward(DType dtype, const void* grad_out, void* grad_x, const Shape& s,
              std::uintptr_t stream) {
  check_sizes(s);
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    backward_typed(static_cast<const Storage*>(grad_out), static_cast<Storage*>(grad_x), s, stream);
  });
}

} // namespace fastseg::upsample_bilinear::cuda
