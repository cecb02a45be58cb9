// The two source rows between which a run of output rows lies, in whatever prepared form.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <utility>

#include "common/buffer_cpu.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

template <class T> class LinePair {
public:
  explicit LinePair(std::int64_t length)
      : first_(length), second_(length), lo_(first_.get()), hi_(second_.get()) {}

  // Moves to source rows lo_row <= hi_row. prepare(row, line) is called for a row that is not here
  // already: as outputs advance, each source row is prepared once.
  template <class Prepare>
  void move_to(std::int64_t lo_row, std::int64_t hi_row, const Prepare& prepare) {
    if (lo_row_ != lo_row && hi_row_ == lo_row) {
      std::swap(lo_, hi_);
      std::swap(lo_row_, hi_row_);
    }
    if (lo_row_ != lo_row) prepare(lo_row_ = lo_row, lo_);
    same_row_ = hi_row == lo_row;
    if (!same_row_ && hi_row_ != hi_row) prepare(hi_row_ = hi_row, hi_);
  }

  const T* lo() const { return lo_; }
  const T* hi() const { return same_row_ ? lo_ : hi_; }

private:
  Buffer<T> first_, second_;
  T* lo_;
  T* hi_;
  std::int64_t lo_row_ = -1, hi_row_ = -1;
  bool same_row_ = false;
};

} // namespace fastseg::FASTSEG_CPU_LEVEL
