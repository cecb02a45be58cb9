// Backward of the CUDA twin (see upsample_bilinear_cuda.h): a gather, deterministic.
//
// A block owns a tile of the gradient: some source rows x source columns x lanes (planes in NCHW,
// channels of one image in NHWC). Its threads own output columns and add up output rows downwards
// (coalesced, each read once); whenever a source row is complete, the columns are added up through
// shared memory. Every sum has a fixed order, so the result is the same bits each time.
#include "upsample_bilinear/upsample_bilinear.h"

#include <algorithm>
#include <type_traits>

#include "common/shifted_vectors_cuda.h"
#include "upsample_bilinear/upsample_bilinear_cuda.h"

namespace fastseg::upsample_bilinear::cuda {
namespace {

template <class Storage> struct Backward {
  const Storage* grad_out;
  const Storage* end; // of grad_out
  Storage* grad_x;
  ResizeAxis rows, columns;
  std::int64_t lanes;
  std::int64_t lane_tiles, column_tiles, row_chunks; // blocks = images * the product
  int lanes_per_tile, columns_per_tile, rows_per_chunk;
  int window; // output columns at a time; a block with more makes several passes
};
constexpr int kTileColumns = 256; // most source columns of a tile
constexpr int kRowBatch = 64;     // output rows whose taps are in shared memory at a time

// One idle word in 33 keeps columns that lie a power of two apart out of each other's banks.
FASTSEG_DEVICE int padded(int i) { return i + (i >> 5); }
template <int n> constexpr int kPadded = n + n / 32 + 1;

// Distance of neighbours in a map of `width` columns.
template <bool kChannelsLast> struct Strides {
  std::int64_t lane, column, row, image;
  FASTSEG_DEVICE Strides(std::int64_t lanes, std::int64_t height, std::int64_t width)
      : lane(kChannelsLast ? 1 : height * width), column(kChannelsLast ? lanes : 1),
        row(kChannelsLast ? lanes * width : width), image(lanes * height * width) {}
};

// How a thread reads an output row: single values kThreads apart, 16 bytes at a 16-byte boundary,
// or 16 bytes that begin at any value (NCHW).
struct Scalars;
struct Vectors;
struct Ragged;
template <class Read> constexpr bool kIsVector = !std::is_same_v<Read, Scalars>;

// Neighbours of a row, as they were loaded.
template <class Storage> using RawPack = RawItems<Storage, kPack<Storage>>;
template <class Storage, class Read> struct Loaded {
  RawPack<Storage> pack{};
  FASTSEG_DEVICE void read(const Backward<Storage>&, const Storage* p) { pack.read(p); }
  FASTSEG_DEVICE RawPack<Storage> values() const { return pack; }
};
// The vectors before and after the boundary in or at the end of the 16 bytes; where that would read
// outside the map (its first and its last values), single values. What lies beyond the thread's row
// is read and not used.
template <class Storage> struct Loaded<Storage, Ragged> {
  Pack<Storage> before{}, after{};
  unsigned back = 0; // bytes before the boundary
  FASTSEG_DEVICE void read(const Backward<Storage>& map, const Storage* p) {
    back = -beyond_boundary(p) & 15;
    const Storage* boundary = p + back / sizeof(Storage);
    if (boundary - map.grad_out >= kPack<Storage> && map.end - boundary >= kPack<Storage>) {
      after = load_pack(boundary);
      if (back != 0) before = load_pack(boundary - kPack<Storage>);
    } else {
      back = 0;
#pragma unroll
      for (int k = 0; k < kPack<Storage>; ++k)
        if (k < map.end - p) after.v[k] = load(p + k);
    }
  }
  FASTSEG_DEVICE RawPack<Storage> values() const {
    RawPack<Storage> pack;
    const Words words = shifted<sizeof(Storage)>(words_of(before), words_of(after), back);
    memcpy(pack.words, &words, sizeof words);
    return pack;
  }
};

template <class Storage, bool kChannelsLast, class Read>
__global__ void __launch_bounds__(
    kThreads, kResidentBlocks<compute_t<Storage>, kChannelsLast || !std::is_same_v<Read, Vectors>>)
    upsample_bilinear_bwd_kernel(const Backward<Storage> p) {
  using T = compute_t<Storage>;
  constexpr bool kVector = kIsVector<Read>;
  constexpr int kItems = kVector ? kPack<Storage> : kScalarItems;
  constexpr int kCapacity = kItems * kThreads;
  FASTSEG_SHARED(sums, T[kPadded<kCapacity>]);    // one source row, before the columns' sum
  FASTSEG_SHARED(weights, T[kPadded<kCapacity>]); // of output columns to their right source
  FASTSEG_SHARED(begin, int[kTileColumns + 2]);   // [c]: first output column with lo >= i0 - 1 + c
  FASTSEG_SHARED(rows, Row<T>[kRowBatch]);
  FASTSEG_SHARED(bounds, int[4]);  // output rows and columns that touch the tile
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
      weights[padded(x)] = t.hi == t.lo ? T(0) : t.w_hi;
      const int before = x == 0 ? -1 : static_cast<int>(taps<T>(p.columns, x_first + x - 1).lo);
      // Source columns i in (before, lo] begin here.
      const int last = min(static_cast<int>(t.lo), i0 + width);
      for (int i = max(before + 1, i0 - 1); i <= last; ++i) begin[i - (i0 - 1)] = x;
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
    const auto finish_row = [&] {
      if (row >= j0) {
        __syncthreads(); // sums are free
#pragma unroll
        for (int k = 0; k < kItems; ++k)
          sums[padded(kVector ? thread * kItems + k : thread + k * kThreads)] = current[k];
        __syncthreads();
        for (int s = thread; s < p.lanes_per_tile * width; s += kThreads) {
          const int lane = kChannelsLast ? s % p.lanes_per_tile : s / width;
          const int c = kChannelsLast ? s / p.lanes_per_tile : s % width;
          if (lane >= lanes) continue;
          const int start = kChannelsLast ? lane : lane * p.window;
          const int step = kChannelsLast ? p.lanes_per_tile : 1;
          T sum = 0;
          for (int x = begin[c + kept]; x < begin[c + 1]; ++x)
            sum += sums[padded(start + x * step)] * weights[padded(x)];
          for (int x = begin[c + 1]; x < begin[c + 2]; ++x)
            sum += sums[padded(start + x * step)] * (T(1) - weights[padded(x)]);
          const int tile = (row - j0) * p.lanes_per_tile * width + s;
          if (pass > 0) sum += totals[tile];
          if (pass < passes - 1)
            totals[tile] = sum;
          else
            from_compute(sum, grad_x[row * in.row + lane * in.lane + c * in.column]);
        }
      }
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        current[k] = next[k];
        next[k] = 0;
      }
      ++row;
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
  for (;;) {
    columns = ceil_div(p.columns.in, ceil_div(p.columns.in, columns));
    window = round_up(touching(p.columns, columns) + kColumnStep - 1, kColumnStep);
    if (lanes * window <= kCapacity) break;
    if (columns > 4 || (columns > 1 && lanes == kLaneStep)) {
      columns = (columns + 1) / 2;
    } else if (lanes > kLaneStep) {
      lanes = round_up(lanes / 2, kLaneStep);
    } else {
      several_passes = true;
      window = kCapacity / lanes;
      break;
    }
  }
  // Partial sums would begin at other columns than those of the other kernels.
  if constexpr (std::is_same_v<Read, Ragged>)
    if (several_passes) return launch_backward<Storage, false, Scalars>(p, images, stream);
  if (!kChannelsLast) lanes = std::min<std::int64_t>(p.lanes, kCapacity / window);
  p.window = static_cast<int>(window);
  p.lanes_per_tile = static_cast<int>(lanes);
  p.columns_per_tile = static_cast<int>(columns);
  p.lane_tiles = ceil_div(p.lanes, lanes);
  p.column_tiles = ceil_div(p.columns.in, columns);
  // A chunk also reads the output rows of the source row above it: few rows, much waste.
  const std::int64_t blocks = images * p.lane_tiles * p.column_tiles;
  const std::int64_t rows = p.rows.in / ceil_div(kWantedThreads / kThreads, blocks);
  p.rows_per_chunk = static_cast<int>(std::clamp<std::int64_t>(rows, 4, 64));
  p.row_chunks = ceil_div(p.rows.in, p.rows_per_chunk);
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
  else if (aligned && s.out_w % kPack<Storage> == 0)
    launch_backward<Storage, false, Vectors>(p, 1, stream);
  else if (fills_vectors<Storage>(s.out_w))
    launch_backward<Storage, false, Ragged>(p, 1, stream);
  else
    launch_backward<Storage, false, Scalars>(p, 1, stream);
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
