// Low-resolution logits, resized along the width one source row at a time: what every fused
// upsample_* op reads. Layout, strides and storage type end here; the ops see vectors of kLanes
// output columns per class.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include "common/line_pair_cpu.h"
#include "common/resize_columns_cpu.h"
#include "common/rows_cpu.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

// Strides of one logits map in elements.
struct MapStrides {
  std::int64_t n, c, h, w;
};

// The two source rows between which a run of output rows lies, resized along the width:
// lo(b)[c * kLanes + k] is class c at output column b * kLanes + k.
template <class Storage, class T = compute_t<Storage>> class LogitRows {
public:
  LogitRows(const Storage* logits, const MapStrides& strides, std::int64_t classes,
            const ResizeColumns<T>& columns)
      : logits_(logits), strides_(strides), classes_(classes), columns_(columns),
        line_size_(ResizeColumns<T>::padded(columns.in())), row_(classes * line_size_),
        lines_(columns.blocks() * classes * kLanes<T>) {}

  // Moves to source rows lo_row <= hi_row. A row that is already here is not read again; for a new
  // one, prepare(values) is called with the kLanes columns x all classes of each block.
  template <class Prepare>
  void move_to(std::int64_t lo_row, std::int64_t hi_row, const Prepare& prepare) {
    lines_.move_to(lo_row, hi_row, [&](std::int64_t row, T* out) {
      read(row);
      for (std::int64_t b = 0; b < columns_.blocks(); ++b, out += classes_ * kLanes<T>) {
        resize_lines(row_.get(), line_size_, classes_, columns_.block(b), out);
        prepare(out);
      }
    });
  }

  const T* lo(std::int64_t block) const { return lines_.lo() + block * classes_ * kLanes<T>; }
  const T* hi(std::int64_t block) const { return lines_.hi() + block * classes_ * kLanes<T>; }

private:
  // One source row in compute precision, a padded line per class.
  void read(std::int64_t row) {
    for (std::int64_t c = 0; c < classes_; ++c) {
      T* line = row_.get() + c * line_size_;
      read_line(line, logits_ + c * strides_.c + row * strides_.h, strides_.w, columns_.in());
      pad_row(line, columns_.in());
    }
  }

  const Storage* logits_;
  MapStrides strides_;
  std::int64_t classes_;
  const ResizeColumns<T>& columns_;
  std::int64_t line_size_;
  Buffer<T> row_;
  LinePair<T> lines_;
};

} // namespace fastseg::FASTSEG_CPU_LEVEL
