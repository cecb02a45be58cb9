// One axis of a map cut at the edges of all windows of all grids. A window is a run of whole
// segments, and all pixels of a segment are covered by the same cells: the forward sums each
// segment once for all grids, the backward computes one value per segment.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>

#include "common/buffer.h"
#include "pyramid_pool/pyramid_pool.h"
#include "pyramid_pool/pyramid_pool_math.h"

namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL {

using namespace fastseg::FASTSEG_CPU_LEVEL;

struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

inline std::int64_t windows_per_axis(const Bins& bins) {
  std::int64_t n = 0;
  for (std::int64_t k = 0; k < bins.count; ++k) n += bins.sizes[k];
  return n;
}
inline std::int64_t cells_per_map(const Bins& bins) {
  std::int64_t n = 0;
  for (std::int64_t k = 0; k < bins.count; ++k) n += bins.sizes[k] * bins.sizes[k];
  return n;
}

class Segments {
public:
  // No segment is longer than `longest`.
  Segments(std::int64_t in, const Bins& bins, std::int64_t longest)
      : edges_(in + 1), pixels_(windows_per_axis(bins)), segments_(windows_per_axis(bins)) {
    Buffer<std::int64_t> number(in + 1); // of the segment that starts at a pixel
    std::fill(number.get(), number.get() + in + 1, 0);
    for (std::int64_t pixel = 0; pixel < in; pixel += longest) number[pixel] = 1;
    number[in] = 1;
    std::int64_t w = 0;
    for (std::int64_t k = 0; k < bins.count; ++k)
      for (std::int64_t i = 0; i < bins.sizes[k]; ++i, ++w) {
        pixels_[w] = {window_begin(i, in, bins.sizes[k]), window_end(i, in, bins.sizes[k])};
        number[pixels_[w].begin] = number[pixels_[w].end] = 1;
      }
    std::int64_t edges = 0;
    for (std::int64_t pixel = 0; pixel <= in; ++pixel)
      if (number[pixel] != 0) {
        edges_[edges] = pixel;
        number[pixel] = edges++;
      }
    count_ = edges - 1;
    for (w = 0; w < windows_per_axis(bins); ++w)
      segments_[w] = {number[pixels_[w].begin], number[pixels_[w].end]};
  }

  std::int64_t count() const { return count_; }
  Range segment(std::int64_t s) const { return {edges_[s], edges_[s + 1]}; }
  // Windows are numbered grid after grid.
  Range pixels(std::int64_t window) const { return pixels_[window]; }
  Range segments(std::int64_t window) const { return segments_[window]; }

private:
  std::int64_t count_ = 0;
  Buffer<std::int64_t> edges_;
  Buffer<Range> pixels_, segments_;
};

// For every segment and grid the cells that cover it.
class Covering {
public:
  Covering(std::int64_t in, const Bins& bins, const Segments& segments)
      : grids_(bins.count), cells_(segments.count() * bins.count) {
    for (std::int64_t s = 0; s < segments.count(); ++s)
      for (std::int64_t k = 0; k < grids_; ++k) {
        const std::int64_t pixel = segments.segment(s).begin;
        cells_[s * grids_ + k] = {cells_begin(pixel, in, bins.sizes[k]),
                                  cells_end(pixel, in, bins.sizes[k])};
      }
  }
  Range cells(std::int64_t segment, std::int64_t grid) const {
    return cells_[segment * grids_ + grid];
  }

private:
  std::int64_t grids_;
  Buffer<Range> cells_;
};

} // namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL
