// How the maps of a depthwise convolution are cut into tasks, and how they are brought into the one
// form that its kernels work on: kLanes planes (one image and channel each) side by side, so that a
// pixel is a vector and every tap a plain offset, whatever the layout and storage type of the map.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>

#include "common/simd_cpu.h"
#include "dilated_conv2d/dilated_conv2d_plan_cpu.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

// A dense map [N, C, pixels].
struct MapLayout {
  std::int64_t channels, pixels;
  bool channels_last;
};

// What one task computes: some target rows of some planes. Planes are counted n * C + c.
struct Tile {
  std::int64_t plane, planes;
  std::int64_t chunk;
  std::int64_t begin, end;               // target rows
  std::int64_t source_begin, source_end; // its own source rows: each row belongs to one chunk
};

// Depends on shapes only, never on the thread count: neither do the sums of each tile.
template <class Storage> class Tiling {
  using T = compute_t<Storage>;

public:
  Tiling(std::int64_t batch, std::int64_t channels, bool channels_last, const AxisPlan& rows,
         const AxisPlan& columns)
      : rows_(rows), channels_(channels), channels_last_(channels_last), planes_(batch * channels) {
    const std::int64_t row_bytes = columns.sources() * kLanes<T> * std::int64_t(sizeof(T));
    band_rows_ = std::clamp<std::int64_t>(
        kBandBytes / (columns.targets() * kLanes<T> * std::int64_t(sizeof(T))), 1, rows.targets());
    const std::int64_t ring_bytes = row_bytes * ring_rows();
    if (channels_last) {
      // Pixels lie far apart: read a cache line of each, and more while the ring stays in the L2
      // cache, because each is also a page of its own.
      const std::int64_t line = std::max<std::int64_t>(1, 64 / (kLanes<T> * sizeof(Storage)));
      vectors_ = std::clamp(kRingBytes / ring_bytes, line, std::max<std::int64_t>(line, 8));
      vectors_ = std::min(vectors_, ceil_div(channels, kLanes<T>));
    }
    const std::int64_t group = vectors_ * kLanes<T>;
    groups_ = channels_last ? batch * ceil_div(channels, group) : ceil_div(planes_, group);
    // Few tasks: cut rows too. Chunks both stage the rows that they share, so they are long.
    const std::int64_t least = std::max<std::int64_t>(8, 4 * rows.overlap());
    const std::int64_t spread = ceil_div(rows.targets() * groups_, kTasks);
    chunks_ = ceil_div(rows.targets(), std::max(least, spread));
    per_chunk_ = ceil_div(rows.targets(), chunks_);
  }

  std::int64_t tasks() const { return groups_ * chunks_; }
  std::int64_t chunks() const { return chunks_; }
  std::int64_t planes() const { return planes_; }
  std::int64_t vectors() const { return vectors_; }     // of planes per tile
  std::int64_t band_rows() const { return band_rows_; } // targets that are computed at once
  // Staged source rows that are kept: enough for any band.
  std::int64_t ring_rows() const { return std::min(rows_.sources(), rows_.reach(band_rows_)); }

  Tile tile(std::int64_t task) const {
    const std::int64_t chunk = task / groups_, group = task % groups_;
    const std::int64_t size = vectors_ * kLanes<T>;
    Tile t{};
    if (channels_last_) {
      const std::int64_t per_image = ceil_div(channels_, size), c = group % per_image * size;
      t.plane = group / per_image * channels_ + c;
      t.planes = std::min(size, channels_ - c);
    } else {
      t.plane = group * size;
      t.planes = std::min(size, planes_ - t.plane);
    }
    t.chunk = chunk;
    t.begin = std::min(chunk * per_chunk_, rows_.targets());
    t.end = std::min(t.begin + per_chunk_, rows_.targets());
    t.source_begin = source_begin(chunk);
    t.source_end = source_begin(chunk + 1);
    return t;
  }

private:
  static constexpr std::int64_t kBandBytes = 16 << 10;
  static constexpr std::int64_t kRingBytes = 320 << 10;
  static constexpr std::int64_t kTasks = 32;

  std::int64_t source_begin(std::int64_t chunk) const {
    if (chunk == 0) return 0;
    if (chunk >= chunks_) return rows_.sources();
    return rows_.source_begin(std::min(chunk * per_chunk_, rows_.targets()));
  }

  const AxisPlan& rows_;
  std::int64_t channels_;
  bool channels_last_;
  std::int64_t planes_;
  std::int64_t vectors_ = 1;
  std::int64_t band_rows_, groups_, chunks_, per_chunk_;
};

// Pixels of a channels_last map lie too far apart for the hardware's prefetchers (5 times slower).
inline constexpr std::int64_t kPrefetchPixels = 16;

// Asks for the cache lines of `bytes` bytes that will be read, or written.
template <bool kWrite> inline void prefetch(const void* p, std::int64_t bytes) {
  for (std::int64_t line = 0; line < bytes; line += 64)
    __builtin_prefetch(static_cast<const char*>(p) + line, kWrite ? 1 : 0);
}

// Pixels [first, first + count) of the tile's planes: vector v of pixel i, in compute precision, at
// out[v * pitch + i * kLanes]. Lanes without a plane are zero.
template <class Storage, class T = compute_t<Storage>>
void stage(const Storage* map, const MapLayout& layout, const Tile& tile, std::int64_t first,
           std::int64_t count, T* out, std::int64_t pitch) {
  if (layout.channels_last) {
    const std::int64_t C = layout.channels, n = tile.plane / C;
    const Storage* source = map + (n * layout.pixels + first) * C + tile.plane % C;
    const std::int64_t whole = tile.planes / kLanes<T>, rest = tile.planes % kLanes<T>;
    const std::int64_t bytes = tile.planes * sizeof(Storage);
    for (std::int64_t i = 0; i < count; ++i, source += C, out += kLanes<T>) {
      if (i + kPrefetchPixels < count) prefetch<false>(source + kPrefetchPixels * C, bytes);
      for (std::int64_t v = 0; v < whole; ++v)
        store_vec(out + v * pitch, load(source + v * kLanes<T>));
      if (rest > 0) store_vec(out + whole * pitch, load_partial(source + whole * kLanes<T>, rest));
    }
    return;
  }
  const Storage* source = map + tile.plane * layout.pixels + first;
  if (count < kLanes<T>) {
    for (std::int64_t i = 0; i < count * kLanes<T>; ++i) {
      const std::int64_t plane = i % kLanes<T>, pixel = i / kLanes<T>;
      out[i] = plane < tile.planes ? to_compute(source[plane * layout.pixels + pixel]) : T(0);
    }
    return;
  }
  for (std::int64_t i = 0; i < count; i += kLanes<T>) {
    i = std::min(i, count - kLanes<T>); // the last block overlaps the one before it
    vec<T> block[kLanes<T>];
    for (int k = 0; k < kLanes<T>; ++k)
      block[k] = k < tile.planes ? load(source + k * layout.pixels + i) : vec<T>{};
    transpose<T>(block);
    for (int k = 0; k < kLanes<T>; ++k) store_vec(out + (i + k) * kLanes<T>, block[k]);
  }
}

// The way back: `staged` holds pixels [first, first + count) of the tile's planes as stage() makes
// them.
template <class Storage, class T = compute_t<Storage>>
void unstage(const T* staged, std::int64_t pitch, const MapLayout& layout, const Tile& tile,
             std::int64_t first, std::int64_t count, Storage* map) {
  if (layout.channels_last) {
    const std::int64_t C = layout.channels, n = tile.plane / C;
    Storage* target = map + (n * layout.pixels + first) * C + tile.plane % C;
    const std::int64_t whole = tile.planes / kLanes<T>, rest = tile.planes % kLanes<T>;
    const std::int64_t bytes = tile.planes * sizeof(Storage);
    for (std::int64_t i = 0; i < count; ++i, target += C, staged += kLanes<T>) {
      if (i + kPrefetchPixels < count) prefetch<true>(target + kPrefetchPixels * C, bytes);
      for (std::int64_t v = 0; v < whole; ++v)
        store(target + v * kLanes<T>, load_vec(staged + v * pitch));
      if (rest > 0)
        store_partial(target + whole * kLanes<T>, load_vec(staged + whole * pitch), rest);
    }
    return;
  }
  Storage* target = map + tile.plane * layout.pixels + first;
  if (count < kLanes<T>) {
    for (std::int64_t plane = 0; plane < tile.planes; ++plane)
      for (std::int64_t i = 0; i < count; ++i)
        target[plane * layout.pixels + i] = from_compute<Storage>(staged[i * kLanes<T> + plane]);
    return;
  }
  for (std::int64_t i = 0; i < count; i += kLanes<T>) {
    i = std::min(i, count - kLanes<T>);
    vec<T> block[kLanes<T>];
    for (int k = 0; k < kLanes<T>; ++k) block[k] = load_vec(staged + (i + k) * kLanes<T>);
    transpose<T>(block);
    for (int k = 0; k < kLanes<T>; ++k)
      if (k < tile.planes) store(target + k * layout.pixels + i, block[k]);
  }
}

} // namespace fastseg::FASTSEG_CPU_LEVEL
