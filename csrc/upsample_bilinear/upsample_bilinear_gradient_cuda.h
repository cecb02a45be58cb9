// How the threads of the backward read the gradient of the large map, and what a launch says.
#pragma once

#include <algorithm>
#include <type_traits>

#include "common/divider.h"
#include "common/shifted_vectors_cuda.h"
#include "upsample_bilinear/upsample_bilinear_cuda.h"

namespace fastseg::upsample_bilinear::cuda {

template <class Storage> struct Backward {
  const Storage* grad_out;
  const Storage* end; // of grad_out
  Storage* grad_x;
  ResizeAxis rows, columns;
  std::int64_t lanes;
  std::int64_t lane_tiles, column_tiles, row_chunks; // blocks = images * the product
  int lanes_per_tile, columns_per_tile, rows_per_chunk;
  int window;       // output columns at a time; a block with more makes several passes
  Divider by_inner; // what a block writes, in NHWC: by the pieces of a pixel; in NCHW: of a row
};
inline constexpr int kTileColumns = 256; // most source columns of a tile
// Enough to fill the largest GPUs; each chunk of rows reads one more.
inline constexpr std::int64_t kWantedBlocks = 1024;

// One idle word in 33 keeps columns that lie a power of two apart out of each other's banks.
FASTSEG_DEVICE int padded(int i) { return i + (i >> 5); }
template <int n> inline constexpr int kPadded = n + n / 32 + 1;

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
template <class Read> inline constexpr bool kIsVector = !std::is_same_v<Read, Scalars>;

// Output rows that a thread has on their way, while it adds those before them (more spill), and
// output rows whose taps are in shared memory at a time.
template <class Read, bool kChannelsLast>
inline constexpr int kRowsAhead = std::is_same_v<Read, Vectors> && !kChannelsLast ? 3 : 2;
template <class Read, bool kChannelsLast>
inline constexpr int kRowBatch = 20 * kRowsAhead<Read, kChannelsLast>;

// Neighbouring columns of a thread that have the same left source are a run. The source's columns
// [x, end) are in runs that end with a thread's columns, and the last at `end`.
template <int kItems> FASTSEG_DEVICE int run_end(int x, int end) {
  return min(x / kItems * kItems + kItems, end) - 1;
}

// A thread's columns added up run by run: `weights` to the right source, the rest to the left. Bit
// k of `ends`: column k ends a run. A run's sums lie where its last column would, those to the
// right `kRight` further.
template <int kRight, class T, int kItems, int kQuad>
FASTSEG_DEVICE void put_runs(const T (&values)[kItems], unsigned ends,
                             const Items<T, kQuad>* weights, T* slots) {
  T left = 0, right = 0;
  Items<T, kQuad> weight;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    if (k % kQuad == 0) weight = weights[k / kQuad];
    left += values[k] * (T(1) - weight.v[k % kQuad]);
    right += values[k] * weight.v[k % kQuad];
    const bool ends_here = (ends >> k & 1) != 0;
    if (ends_here) slots[k] = left;
    if (ends_here) slots[kRight + k] = right;
    left = ends_here ? T(0) : left;
    right = ends_here ? T(0) : right;
  }
}

// A source column that a thread writes in every row: where two runs each to its right and its left
// are in shared memory, 16 bits for each, and the column's distance from the row's first value.
struct KeptColumn {
  unsigned right = 0, left = 0;
  int offset = -1;
};
inline constexpr int kKeptColumns = 2;

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

// Most output columns that touch `count` source columns of a tile: inside, and at the two ends,
// where outputs beyond the centres of the border pixels come on top.
inline std::int64_t touching(const ResizeAxis& axis, std::int64_t count) {
  const double inside = static_cast<double>(count + 1) / axis.scale + 2;
  const std::int64_t last = axis.out - first_output(axis, (axis.in - 1) / count * count - 1);
  const std::int64_t most = std::max(first_output(axis, count), last) + 1; // + 1: rounding
  return inside < axis.out ? std::min(std::max<std::int64_t>(inside, most), axis.out) : axis.out;
}

inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

} // namespace fastseg::upsample_bilinear::cuda
