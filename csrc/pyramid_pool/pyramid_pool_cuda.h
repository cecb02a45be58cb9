// What the two directions of the CUDA twin share (the CPU twin's plan: see pyramid_pool_cpu.cpp).
//
// Both axes are cut at the edges of all windows, and further where a segment is long, so that there
// is work for every multiprocessor. Row segment x column segment is an atom: all its pixels belong
// to the same cells. A pixel is read once, or written once.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "common/cuda_launch.h"
#include "common/cuda_vector.h"
#include "pyramid_pool/pyramid_pool.h"
#include "pyramid_pool/pyramid_pool_math.h"

namespace fastseg::pyramid_pool::cuda {

inline constexpr int kThreads = 256;
// Enough threads for the largest GPUs, each with several loads under way.
inline constexpr std::int64_t kWantedThreads = std::int64_t{1} << 17;
inline constexpr int kLongestColumns = 32;
inline constexpr int kFewestRows = 8; // of a segment, unless a window's edge makes it shorter
inline constexpr int kMaxPieces = 128;
inline constexpr int kMaxSegments = 2 * kMaxWindows + kMaxPieces;

// One axis: segment s is [edge[s], edge[s + 1]). Travels as a kernel argument.
struct Segments {
  int count;
  int edge[kMaxSegments + 1];
};
struct Grids {
  int count;
  int bins[kMaxWindows];
};

// Cut at the edges of all windows; segments longer than `longest` into equal parts.
inline Segments segments(std::int64_t in, const Bins& bins, std::int64_t longest) {
  std::vector<std::int64_t> edges;
  for (std::int64_t k = 0; k < bins.count; ++k)
    for (std::int64_t i = 0; i < bins.sizes[k]; ++i) {
      edges.push_back(window_begin(i, in, bins.sizes[k]));
      edges.push_back(window_end(i, in, bins.sizes[k]));
    }
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  longest = std::max(longest, ceil_div(in, kMaxPieces));
  Segments s{};
  for (std::size_t e = 0; e + 1 < edges.size(); ++e) {
    const std::int64_t length = edges[e + 1] - edges[e], parts = ceil_div(length, longest);
    for (std::int64_t part = 0; part < parts; ++part)
      s.edge[s.count++] = static_cast<int>(edges[e] + part * length / parts);
  }
  s.edge[s.count] = static_cast<int>(in);
  return s;
}

// A map is `images` x height x width x `inner` values: images are planes and inner is 1 in NCHW;
// inner is the channels in NHWC.
struct Plan {
  std::int64_t images, inner;
  int height, width;
  Segments rows, columns;
};
// How many threads have a pixel column segment each: `items` values per thread.
inline Plan plan(const Shape& s, const Bins& bins, std::int64_t items) {
  std::int64_t windows = 0;
  for (std::int64_t k = 0; k < bins.count; ++k) windows += bins.sizes[k];
  if (windows > kMaxWindows || std::max(s.in_h, s.in_w) > kMaxAxis)
    throw std::invalid_argument("fastseg: pyramid_pool: too many windows, or an axis too long");
  Plan p{};
  p.images = s.channels_last ? s.batch : s.batch * s.channels;
  p.inner = s.channels_last ? s.channels : 1;
  p.height = static_cast<int>(s.in_h);
  p.width = static_cast<int>(s.in_w);
  p.columns = segments(s.in_w, bins, kLongestColumns);
  const std::int64_t columns = items > 1 ? p.columns.count : s.in_w;
  const std::int64_t threads = std::max<std::int64_t>(p.images * columns * (p.inner / items), 1);
  const std::int64_t rows = s.in_h * threads / kWantedThreads;
  p.rows = segments(s.in_h, bins, std::max<std::int64_t>(rows, kFewestRows));
  return p;
}
inline Grids grids(const Bins& bins) {
  Grids g{};
  g.count = static_cast<int>(bins.count);
  for (int k = 0; k < g.count; ++k) g.bins[k] = static_cast<int>(bins.sizes[k]);
  return g;
}

// Whether a thread can have 16 bytes of neighbouring channels.
template <class Storage> bool has_packs(const Shape& s, const void* map) {
  return s.channels_last && s.channels % kPack<Storage> == 0 && is_aligned_16(map);
}
// Values of a thread of the path that takes such packs, and 1 without.
template <class Storage> std::int64_t items_of(const Shape& s, const void* map) {
  return has_packs<Storage>(s, map) ? kPack<Storage> : 1;
}

// The path without packs, for any layout: a block has some images x some column segments x some
// lanes of inner, all of it in shared memory at once.
struct Tiles {
  std::int64_t image_tiles, lane_tiles, column_tiles; // blocks: the product x row segments
  int images, lanes, segments, columns;               // of a tile, at most
};
inline constexpr int kTileItems = 4; // per thread
inline constexpr int kTileCapacity = kTileItems * kThreads;

inline Tiles tiles(const Plan& p) {
  const int few_lanes = static_cast<int>(std::min<std::int64_t>(p.inner, 32));
  Tiles t{};
  for (t.segments = p.columns.count;; t.segments = (t.segments + 1) / 2) {
    t.columns = 0;
    for (int s = 0; s < p.columns.count; s += t.segments)
      t.columns = std::max(t.columns, p.columns.edge[std::min(s + t.segments, p.columns.count)] -
                                          p.columns.edge[s]);
    if (t.columns * few_lanes <= kTileCapacity || t.segments == 1) break;
  }
  t.lanes = static_cast<int>(std::min<std::int64_t>(p.inner, kTileCapacity / t.columns));
  t.images = p.inner == 1 ? kTileCapacity / t.columns : 1;
  t.image_tiles = ceil_div(p.images, t.images);
  t.lane_tiles = ceil_div(p.inner, t.lanes);
  t.column_tiles = ceil_div(p.columns.count, t.segments);
  return t;
}

// A block's tile. Lane tiles of one place run side by side, then columns, then rows.
struct Tile {
  std::int64_t image, lane;
  int row_segment, segment, segments, column, columns, images, lanes;
};
FASTSEG_DEVICE Tile tile_at(const Plan& p, const Tiles& t, std::int64_t block) {
  Tile tile;
  Division at = divide(block, t.lane_tiles);
  tile.lane = at.remainder * t.lanes;
  at = divide(at.quotient, t.column_tiles);
  tile.segment = static_cast<int>(at.remainder) * t.segments;
  at = divide(at.quotient, p.rows.count);
  tile.row_segment = static_cast<int>(at.remainder);
  tile.image = at.quotient * t.images;
  tile.segments = min(t.segments, p.columns.count - tile.segment);
  tile.column = p.columns.edge[tile.segment];
  tile.columns = p.columns.edge[tile.segment + tile.segments] - tile.column;
  tile.images = static_cast<int>(min(std::int64_t(t.images), p.images - tile.image));
  tile.lanes = static_cast<int>(min(std::int64_t(t.lanes), p.inner - tile.lane));
  return tile;
}

// Item i of a tile is image, column and lane of it, lanes fastest.
struct TileItem {
  int image, column, lane;
  FASTSEG_DEVICE TileItem(const Tiles& t, int item) {
    lane = item % t.lanes;
    column = item / t.lanes % t.columns;
    image = item / t.lanes / t.columns;
  }
  FASTSEG_DEVICE bool inside(const Tile& tile) const {
    return image < tile.images && column < tile.columns && lane < tile.lanes;
  }
};

} // namespace fastseg::pyramid_pool::cuda
