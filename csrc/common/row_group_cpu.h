// Output rows that lie between the same two source rows and are handled together.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include "common/bilinear_math.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

// Most rows of a group.
inline constexpr int kRows = 8;

// Output rows [y, y + count) and the weights of their two source rows.
template <class T> struct RowGroup {
  std::int64_t y;
  int count;
  bool owned; // by the band that visits it
  T w_lo[kRows], w_hi[kRows];
};

// The output rows from y on, not beyond last, that read the same source rows as `t`, the taps of y.
// Groups do not depend on the bands: sums have the same order at any thread count.
template <class T>
inline RowGroup<T> row_group(const ResizeAxis& rows, const Taps<T>& t, std::int64_t y,
                             std::int64_t last, bool owned) {
  RowGroup<T> group{y, 0, owned, {}, {}};
  for (Taps<T> next = t; next.lo == t.lo && next.hi == t.hi;) {
    group.w_lo[group.count] = next.hi == next.lo ? T(1) : next.w_lo;
    group.w_hi[group.count] = next.hi == next.lo ? T(0) : next.w_hi;
    if (++group.count == kRows || y + group.count == last) break;
    next = taps<T>(rows, y + group.count);
  }
  return group;
}

} // namespace fastseg::FASTSEG_CPU_LEVEL
