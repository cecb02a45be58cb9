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
__global__ void __launch_bounds__(kThreads, kResidentBlocks<compute_t<Storage>, true>)
    upsample_bilinear_bwd_kernel(const Backward<Storage> p) {
  using T = compute_t<Storage>;
  constexpr bool kVector = kIsVector<Read>;
  constexpr bool kRuns = kVector && !kChannelsLast;
  constexpr int kItems = kVector ? kPack<Storage> : kScalarItems;
  constexpr int kCapacity = kItems * kThreads;
  // Channels that a thread writes at a time.
  constexpr int kWidth = kVector && kChannelsLast ? 16 / static_cast<int>(sizeof(T)) : 1;
  // One source row, before the columns' sum; of runs what goes to the left source, and to the
  // right; behind them one that stays 0.
  constexpr int kSums = kPadded<kCapacity>, kNothing = 2 * kSums;
  FASTSEG_SHARED(sum_items, Items<T, kWidth>[(kRuns ? 2 : 1) * kSums / kWidth + 1]);
  constexpr int kQuad = 16 / static_cast<int>(sizeof(T));
  FASTSEG_SHARED(weight_items,
                 Items<T, kQuad>[kCapacity / kQuad]); // of columns to the right source
  FASTSEG_SHARED(begin, int[kTileColumns + 2]); // [c]: first output column with lo >= i0 - 1 + c
  FASTSEG_SHARED(starts, bool[kRuns ? kCapacity : 1]); // [x]: column x has another lo than x - 1
  constexpr int kBatch = kRowBatch<Read, kChannelsLast>;
  FASTSEG_SHARED(rows, Row<T>[kBatch]);
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
    for (int x = thread; x < count; x += kThreads) {
      const Taps<T> t = taps<T>(p.columns, x_first + x);
      weights[x] = t.hi == t.lo ? T(0) : t.w_hi;
      // Source columns i in (before, lo] begin here.
      const int before = x == 0 ? -1 : static_cast<int>(taps<T>(p.columns, x_first + x - 1).lo);
      if constexpr (kRuns) starts[x] = before != t.lo;
      const int last = min(static_cast<int>(t.lo), i0 + width);
      for (int i = max(before + 1, i0 - 1); i <= last; ++i) begin[i - (i0 - 1)] = x;
    }
    if (kRuns && thread == 0) sums[kNothing] = 0;

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
    const bool has_items = source[0] != nullptr;
    // Threads without items read a vector that is there again and again, for no branch.
    const int step = kVector && has_items ? static_cast<int>(out.row) : 0;
    if (kVector && !has_items) source[0] = p.grad_out;
    struct Ahead { // an output row that is being loaded
      Loaded<Storage, Read> loaded;
      Storage single[kVector ? 1 : kItems];
    };
    const auto read_row = [&](Ahead& ahead) {
      if constexpr (kVector) {
        ahead.loaded.read(p, source[0]);
        source[0] += step;
      } else {
#pragma unroll
        for (int k = 0; k < kItems; ++k) {
          if (source[k] == nullptr) continue;
          ahead.single[k] = load(source[k]);
          source[k] += out.row;
        }
      }
    };

    T current[kItems] = {}, next[kItems] = {}; // sums of source rows `row` and `row` + 1
    int row = j0 - 1;
    Storage* written = grad_x + row * in.row;
    __syncthreads(); // tables are complete
    // Where the thread's first column is in the window; bit k: column k of the thread ends a run.
    const int column = kRuns ? thread * kItems % p.window : 0;
    unsigned ends = 1u << (kItems - 1);
    if constexpr (kRuns) {
#pragma unroll
      for (int k = 0; k < kItems - 1; ++k)
        if (column + k + 1 >= count || starts[column + k + 1]) ends |= 1u << k;
    }
    const auto put_sums = [&] {
      if constexpr (kRuns) {
        if (!has_items) return;
        T* slots = sums + padded(thread * kItems); // a thread's are in one row of 32
        put_runs<kSums>(current, ends, weight_items + column / kQuad, slots);
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
        const auto add = [&](const T* of, int first, int end) {
#pragma unroll 1
          for (int x = first; x < end; x = x / kItems * kItems + kItems)
            sum[0] += of[padded(lane * p.window + run_end<kItems>(x, end))];
        };
        if (kept == 0) add(sums + kSums, begin[c], begin[c + 1]);
        add(sums, begin[c + 1], begin[c + 2]);
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
    // Of a row of the tile: [lane][column] in NCHW, [column][lane] in NHWC.
    const int inner = kChannelsLast ? p.lanes_per_tile / kWidth : p.columns_per_tile;
    const int pieces = inner * (kChannelsLast ? width : lanes);
    const auto place_of = [&](int piece, int& lane, int& c) {
      const int outer = p.by_inner.quotient(piece), rest = p.by_inner.remainder(piece, outer);
      lane = kChannelsLast ? rest * kWidth : outer;
      c = kChannelsLast ? outer : rest;
      return lane < lanes && c < width;
    };
    // Where the sums of a thread's source columns lie is the same in every row. It is kept for a
    // few that have few runs, which is all of them at scales of 4 and 8.
    constexpr int kKept = kRuns ? kKeptColumns : 1;
    KeptColumn kept_columns[kKept];
    bool all_kept = kRuns && pieces <= kKept * kThreads && p.lanes_per_tile * in.lane <= 0x7fffffff;
    if constexpr (kRuns) {
#pragma unroll
      for (int n = 0; n < kKept; ++n) {
        int lane, c;
        if (!all_kept || !place_of(thread + n * kThreads, lane, c)) continue;
        const int row_of_lane = lane * p.window;
        const auto two = [&](unsigned base, int first, int end) {
          const int second = first / kItems * kItems + kItems;
          if (second + kItems < end) all_kept = false; // a third
          const unsigned low =
              first < end ? base + padded(row_of_lane + run_end<kItems>(first, end)) : kNothing;
          const unsigned high =
              second < end ? base + padded(row_of_lane + run_end<kItems>(second, end)) : kNothing;
          return low | high << 16;
        };
        kept_columns[n].right =
            kept == 0 ? two(kSums, begin[c], begin[c + 1]) : kNothing * 0x10001u;
        kept_columns[n].left = two(0, begin[c + 1], begin[c + 2]);
        kept_columns[n].offset = static_cast<int>(lane * in.lane) + c;
      }
    }
    const auto finish_row = [&] {
      if (row >= j0) {
        __syncthreads(); // sums are free
        put_sums();
        __syncthreads();
        if (all_kept) {
#pragma unroll
          for (int n = 0; n < kKept; ++n) {
            if (kept_columns[n].offset < 0) continue;
            const unsigned right = kept_columns[n].right, left = kept_columns[n].left;
            T sum[1] = {sums[right & 0xffff]};
            sum[0] += sums[right >> 16];
            sum[0] += sums[left & 0xffff];
            sum[0] += sums[left >> 16];
            store_items<1>(written + kept_columns[n].offset, sum);
          }
        } else {
          for (int s = thread; s < pieces; s += kThreads) {
            int lane, c;
            if (!place_of(s, lane, c)) continue;
            T sum[kWidth];
            sum_column(lane, c, sum);
            if (!kRuns && passes > 1) {
              T* total = totals + ((row - j0) * pieces + s) * kWidth;
#pragma unroll
              for (int k = 0; k < kWidth; ++k) {
                if (pass > 0) sum[k] += total[k];
                total[k] = sum[k];
              }
            }
            if (kRuns || pass == passes - 1)
              store_items<kWidth>(written + lane * in.lane + c * in.column, sum);
          }
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

    constexpr int kAhead = kRowsAhead<Read, kChannelsLast>;
    Ahead ahead[kAhead] = {};
#pragma unroll
    for (int n = 0; n < kAhead; ++n)
      if (y0 + n < y1) read_row(ahead[n]);
    for (int y = y0; row < j1; y += kAhead) {
      const int slot = (y - y0) % kBatch;
      if (slot == 0) {
        __syncthreads();
        // Behind the last row is one that lets the rest be written.
        for (int r = thread; r < kBatch; r += kThreads)
          rows[r] = y + r < y1 ? row_at<T>(p.rows, y + r) : Row<T>{j1, j1, T(0), T(0)};
        __syncthreads();
      }
#pragma unroll
      for (int n = 0; n < kAhead; ++n) {
        const Row<T> t = rows[slot + n];
        while (row < t.lo) finish_row();
        const auto values = [&](int k) {
          if constexpr (kVector)
            return ahead[n].loaded.values().value(k);
          else
            return to_compute(ahead[n].single[k]);
        };
        const T w_current = t.hi == t.lo ? t.w_lo + t.w_hi : t.w_lo;
#pragma unroll
        for (int k = 0; k < kItems; ++k) current[k] += values(k) * w_current;
        if (t.hi != t.lo) {
#pragma unroll
          for (int k = 0; k < kItems; ++k) next[k] += values(k) * t.w_hi;
        }
        if (y + n + kAhead < y1) read_row(ahead[n]); // used when the rows before it are added
      }
    }
  }
}

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
  const bool steps_fit = (s.channels_last ? s.channels : 1) * s.out_w <= 0x7fffffff;
  if (s.channels_last && aligned && steps_fit && s.channels % kPack<Storage> == 0)
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
