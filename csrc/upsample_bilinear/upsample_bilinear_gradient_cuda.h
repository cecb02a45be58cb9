// How the threads of the backward read the gradient of the large map, and what a launch says.
#pragma once

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
inline constexpr int kRowBatch = 64;     // output rows whose taps are in shared memory at a time
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

// A thread's neighbouring columns that have the same left source, all of them or those of a source
// that spans several threads. Of the source's runs `first` is the place among the sums of all, the
// others begin at the next threads'.
struct Runs {
  std::uint16_t first, count;
};

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

} // namespace fastseg::upsample_bilinear::cuda
