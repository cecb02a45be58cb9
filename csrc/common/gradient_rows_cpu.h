// The adjoint of LogitRows: gradients of output columns, collected for the two source rows between
// which the output rows lie, then taken once per source row through the horizontal adjoint.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <utility>

#include "common/buffer_cpu.h"
#include "common/resize_columns_cpu.h"
#include "common/rows_cpu.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

template <class T> class GradientRows {
  using V = vec<T>;
  static constexpr int L = kLanes<T>;

public:
  // `wanted`: false reserves no memory, for tasks without a gradient.
  GradientRows(const ResizeColumns<T>& columns, std::int64_t classes, bool wanted)
      : columns_(columns), classes_(classes), padded_classes_((classes + L - 1) / L * L),
        size_(wanted ? columns.blocks() * classes * L : 0), above_(size_), below_(size_),
        row_(wanted ? columns.in() * padded_classes_ : 0), lo_(above_.get()), hi_(below_.get()) {
    zero_row(lo_, size_);
    zero_row(hi_, size_);
  }

  // Of the upper and the lower source row: [c * L + k] of class c at output column b * L + k.
  T* lo(std::int64_t b) const { return lo_ + b * classes_ * L; }
  T* hi(std::int64_t b) const { return hi_ + b * classes_ * L; }

  // Writes the gradient of the upper source row, class c at column i to grad[c * step_c + i *
  // step_w]: all output rows that read it have been visited.
  void write(T* grad, std::int64_t step_c, std::int64_t step_w) {
    if (classes_ < 4)
      write_few_classes(grad, step_c, step_w);
    else
      write_many_classes(grad, step_c, step_w);
  }

  // Moves down one source row.
  void next() {
    std::swap(lo_, hi_);
    zero_row(hi_, size_);
  }

private:
  std::int64_t lanes_in(std::int64_t b) const {
    return std::min<std::int64_t>(L, columns_.out() - b * L);
  }

  void write_few_classes(T* grad, std::int64_t step_c, std::int64_t step_w) {
    T* const sums = row_.get();
    for (std::int64_t c = 0; c < classes_; ++c) {
      zero_row(sums, columns_.in());
      // Neighbours mostly read the same two sources: their shares stay in registers until then.
      std::int32_t lo = columns_.lo(0), hi = columns_.hi(0);
      T left = 0, right = 0;
      for (std::int64_t x = 0; x < columns_.out(); ++x) {
        if (columns_.lo(x) != lo) {
          sums[lo] += left, sums[hi] += right;
          lo = columns_.lo(x), hi = columns_.hi(x);
          left = right = 0;
        }
        const T v = lo_[(x / L * classes_ + c) * L + x % L];
        left += v * columns_.w_lo(x);
        right += v * columns_.w_hi(x);
      }
      sums[lo] += left, sums[hi] += right;
      for (std::int64_t i = 0; i < columns_.in(); ++i) grad[c * step_c + i * step_w] = sums[i];
    }
  }

  // kLanes classes at a time.
  void write_many_classes(T* grad, std::int64_t step_c, std::int64_t step_w) {
    const std::int64_t C = classes_;
    T* sums = row_.get(); // [in, padded classes]
    zero_row(sums, columns_.in() * padded_classes_);
    for (std::int64_t b = 0; b < columns_.blocks(); ++b) {
      const std::int64_t count = lanes_in(b);
      for (std::int64_t c = 0; c < C; c += L) {
        V tile[L];
        for (int k = 0; k < L; ++k) tile[k] = c + k < C ? load_vec(lo_ + (b * C + c + k) * L) : V{};
        transpose<T>(tile);
        std::int32_t lo = columns_.lo(b * L), hi = columns_.hi(b * L);
        V left{}, right{};
        const auto flush = [&] {
          T* to_left = sums + lo * padded_classes_ + c;
          T* to_right = sums + hi * padded_classes_ + c;
          store_vec(to_left, load_vec(to_left) + left);
          store_vec(to_right, load_vec(to_right) + right);
        };
        for (std::int64_t k = 0; k < count; ++k) {
          if (columns_.lo(b * L + k) != lo) {
            flush();
            lo = columns_.lo(b * L + k), hi = columns_.hi(b * L + k);
            left = V{}, right = V{};
          }
          left += tile[k] * columns_.w_lo(b * L + k);
          right += tile[k] * columns_.w_hi(b * L + k);
        }
        flush();
      }
    }
    for (std::int64_t c = 0; c < C; ++c)
      for (std::int64_t i = 0; i < columns_.in(); ++i)
        grad[c * step_c + i * step_w] = sums[i * padded_classes_ + c];
  }

  const ResizeColumns<T>& columns_;
  std::int64_t classes_, padded_classes_, size_;
  Buffer<T> above_, below_, row_;
  T *lo_, *hi_;
};

} // namespace fastseg::FASTSEG_CPU_LEVEL
