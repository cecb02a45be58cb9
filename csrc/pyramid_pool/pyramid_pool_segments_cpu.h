// What both directions share: the map as images, and its axes cut at the edges of all windows.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>

#include "common/buffer_cpu.h"
#include "common/simd_cpu.h"
#include "pyramid_pool/pyramid_pool.h"
#include "pyramid_pool/pyramid_pool_math.h"

namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL {

using namespace fastseg::FASTSEG_CPU_LEVEL;

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
// n rounded up to whole vectors.
template <class T> inline std::int64_t padded(std::int64_t n) {
  return ceil_div(n, kLanes<T>) * kLanes<T>;
}

// A task moves about this many bytes. Images beyond it are split into row segments, so that few
// large ones keep every thread busy. A constant: what is summed first must not depend on the thread
// count.
inline constexpr std::int64_t kTaskBytes = std::int64_t{1} << 18;
// From this many channels on a pixel is a row worth a loop of its own.
inline constexpr std::int64_t kWidePixel = 64;

// The map as images of interleaved channels.
struct Images {
  std::int64_t count, channels, height, width, bytes;
  bool split;

  Images(const Shape& s, std::int64_t element)
      : count(s.channels_last ? s.batch : s.batch * s.channels),
        channels(s.channels_last ? s.channels : 1), height(s.in_h), width(s.in_w),
        bytes(height * width * channels * element), split(bytes > kTaskBytes) {}
  std::int64_t rows_per_segment() const { // at most
    return split ? std::max(ceil_div(height, 8), ceil_div(kTaskBytes / 4 * height, bytes)) : height;
  }
};

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

// One axis cut at the edges of all windows of all grids. A window is a run of whole segments, and
// all pixels of a segment are covered by the same cells.
class Segments {
public:
  // Where a segment is longer than `longest` it is cut further, into equal parts.
  Segments(std::int64_t in, const Bins& bins, std::int64_t longest)
      : edges_(in + 1), pixels_(windows_per_axis(bins)), segments_(windows_per_axis(bins)) {
    Buffer<std::int64_t> number(in + 1); // of the segment that starts at a pixel
    std::fill(number.get(), number.get() + in + 1, 0);
    std::int64_t w = 0;
    for (std::int64_t k = 0; k < bins.count; ++k)
      for (std::int64_t i = 0; i < bins.sizes[k]; ++i, ++w) {
        pixels_[w] = {window_begin(i, in, bins.sizes[k]), window_end(i, in, bins.sizes[k])};
        number[pixels_[w].begin] = number[pixels_[w].end] = 1;
      }
    for (std::int64_t begin = 0, end = 1; end <= in; ++end)
      if (number[end] != 0) {
        const std::int64_t parts = ceil_div(end - begin, longest);
        for (std::int64_t part = 1; part < parts; ++part)
          number[begin + part * (end - begin) / parts] = 1;
        begin = end;
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
