// How the fused upsample_* kernels cut their pixels: output columns between the same two source
// columns are cut into pieces of up to four, rows likewise, and a thread takes a piece of each: up
// to 16 pixels that read the same four source cells.
//
// Every interval between neighbouring sources has the same number of pieces, so that piece p is
// found without a table; a piece may be shorter than four, or empty.
#pragma once

#include "common/bilinear_math.h"

namespace fastseg {

constexpr int kPiece = 4; // most columns or rows of a piece

// One axis of the map in pieces. Interval i holds the outputs whose lo is i; on an axis with
// half-pixel centres interval -1 holds those before the first centre, which are clamped to it.
struct PieceAxis {
  ResizeAxis resize;
  double inverse_scale; // output pixels per source pixel; 0 where all outputs read one source
  int first_interval;
  int per_interval; // pieces
  int pieces;       // of the whole axis
};

// The interval of an output.
FASTSEG_HD std::int64_t interval_of(const ResizeAxis& axis, std::int64_t output) {
  const bool before = axis.in != axis.out && !axis.align_corners &&
                      axis.scale * (static_cast<double>(output) + 0.5) - 0.5 < 0.0;
  return before ? -1 : taps<float>(axis, output).lo;
}

// First output whose interval is >= `interval`; axis.out when there is none. An estimate, put right
// by the definition.
FASTSEG_HD std::int64_t first_in_interval(const PieceAxis& pieces, std::int64_t interval) {
  const ResizeAxis& axis = pieces.resize;
  if (axis.scale == 0.0) return interval <= 0 ? 0 : axis.out;
  const double i = static_cast<double>(interval);
  const double estimate = axis.in == axis.out  ? i
                          : axis.align_corners ? i * pieces.inverse_scale
                                               : (i + 0.5) * pieces.inverse_scale - 0.5;
  const double last = static_cast<double>(axis.out);
  std::int64_t x = estimate <= 0.0    ? 0
                   : estimate >= last ? axis.out
                                      : static_cast<std::int64_t>(estimate);
  while (x > 0 && interval_of(axis, x - 1) >= interval) --x;
  while (x < axis.out && interval_of(axis, x) < interval) ++x;
  return x;
}

// Most outputs of an interval. Positions are rounded: where a multiple of the scale could fall on
// either side of a source, one more is counted.
inline std::int64_t most_in_interval(const ResizeAxis& axis) {
  if (axis.in == axis.out) return 1;
  if (axis.scale == 0.0) return axis.out;
  const std::int64_t in = axis.align_corners ? axis.in - 1 : axis.in;
  const std::int64_t out = axis.align_corners ? axis.out - 1 : axis.out;
  const std::int64_t factor = out / in;
  const bool whole = out % in == 0, power_of_two = (factor & (factor - 1)) == 0;
  if (whole && (power_of_two || (!axis.align_corners && factor % 2 == 0))) return factor;
  return factor + 1;
}

inline PieceAxis piece_axis(std::int64_t in, std::int64_t out, bool align_corners) {
  const ResizeAxis axis = resize_axis(in, out, align_corners, 0.0);
  const int first = in == out || align_corners ? 0 : -1;
  const std::int64_t per_interval = (most_in_interval(axis) + kPiece - 1) / kPiece;
  return {axis, axis.scale == 0.0 ? 0.0 : 1.0 / axis.scale, first, static_cast<int>(per_interval),
          static_cast<int>((in - first) * per_interval)};
}

} // namespace fastseg
