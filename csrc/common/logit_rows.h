// Low-resolution logits, resized along the width one source row at a time: what every fused
// upsample_* op reads. Layout, strides and storage type end here; the ops see vectors of kLanes
// output columns per class.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <utility>

#include "common/resize_columns.h"

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
        line_(ResizeColumns<T>::padded(columns.in())),
        first_(columns.blocks() * classes * kLanes<T>),
        second_(columns.blocks() * classes * kLanes<T>), lo_(first_.get()), hi_(second_.get()) {}

  // Moves to source rows lo_row <= hi_row. A row that is already here is not read again; for a new
  // one, prepare(values) is called with the kLanes columns x all classes of each block.
  template <class Prepare>
  void move_to(std::int64_t lo_row, std::int64_t hi_row, const Prepare& prepare) {
    if (lo_row_ != lo_row && hi_row_ == lo_row) {
      std::swap(lo_, hi_);
      std::swap(lo_row_, hi_row_);
    }
    if (lo_row_ != lo_row) read(lo_row_ = lo_row, lo_, prepare);
    same_row_ = hi_row == lo_row;
    if (!same_row_ && hi_row_ != hi_row) read(hi_row_ = hi_row, hi_, prepare);
  }

  const T* lo(std::int64_t block) const { return lo_ + block * classes_ * kLanes<T>; }
  const T* hi(std::int64_t block) const {
    return (same_row_ ? lo_ : hi_) + block * classes_ * kLanes<T>;
  }

private:
  template <class Prepare> void read(std::int64_t row, T* out, const Prepare& prepare) {
    const std::int64_t in = columns_.in(), blocks = columns_.blocks();
    for (std::int64_t c = 0; c < classes_; ++c) {
      const Storage* source = logits_ + c * strides_.c + row * strides_.h;
      if (strides_.w == 1) {
        std::int64_t i = 0;
        for (; i + kLanes<T> <= in; i += kLanes<T>) store_vec(line_.get() + i, load(source + i));
        for (; i < in; ++i) line_[i] = to_compute(source[i]);
      } else {
        for (std::int64_t i = 0; i < in; ++i) line_[i] = to_compute(source[i * strides_.w]);
      }
      pad_row(line_.get(), in);
      for (std::int64_t b = 0; b < blocks; ++b)
        store_vec(out + (b * classes_ + c) * kLanes<T>,
                  resize_block<T>(line_.get(), columns_.block(b)));
    }
    for (std::int64_t b = 0; b < blocks; ++b) prepare(out + b * classes_ * kLanes<T>);
  }

  const Storage* logits_;
  MapStrides strides_;
  std::int64_t classes_;
  const ResizeColumns<T>& columns_;
  Buffer<T> line_, first_, second_;
  T* lo_;
  T* hi_;
  std::int64_t lo_row_ = -1, hi_row_ = -1;
  bool same_row_ = false;
};

} // namespace fastseg::FASTSEG_CPU_LEVEL
