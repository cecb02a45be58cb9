// The horizontal half of a bilinear resize for one map width: where each block of output columns
// reads, prepared once per call and used by every row.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include "common/bilinear_math.h"
#include "common/buffer_cpu.h"
#include "common/simd_cpu.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

template <class T> class ResizeColumns {
public:
  // Where kLanes neighbouring outputs read. With windowed blocks (every upsampling) two loads and
  // two permutes serve all lanes; the others gather lane by lane.
  struct Block {
    vec<T> w_lo, w_hi;
    ivec<T> index; // lo - base
    const std::int32_t* lo;
    const std::int32_t* hi;
    std::int32_t base;
    bool windowed;
  };

  explicit ResizeColumns(const ResizeAxis& axis)
      : in_(axis.in), out_(axis.out), count_((axis.out + kLanes<T> - 1) / kLanes<T>),
        lo_(count_ * kLanes<T>), hi_(count_ * kLanes<T>), w_lo_(count_ * kLanes<T>),
        w_hi_(count_ * kLanes<T>), blocks_(count_) {
    for (std::int64_t i = 0; i < count_ * kLanes<T>; ++i) {
      const Taps<T> t = taps<T>(axis, i < out_ ? i : out_ - 1);
      lo_[i] = static_cast<std::int32_t>(t.lo);
      hi_[i] = static_cast<std::int32_t>(t.hi);
      w_lo_[i] = t.w_lo;
      w_hi_[i] = t.w_hi;
    }
    for (std::int64_t b = 0; b < count_; ++b) {
      const std::int64_t first = b * kLanes<T>;
      Block& block = blocks_[b];
      block.w_lo = load_vec(w_lo_.get() + first);
      block.w_hi = load_vec(w_hi_.get() + first);
      block.lo = lo_.get() + first;
      block.hi = hi_.get() + first;
      block.base = lo_[first];
      // A window reads right neighbours. A kept width must not: zero times NaN would be NaN.
      block.windowed = in_ != out_ && lo_[first + kLanes<T> - 1] - lo_[first] < kLanes<T>;
      for (int k = 0; k < kLanes<T>; ++k) block.index[k] = lo_[first + k] - block.base;
    }
  }

  std::int64_t in() const { return in_; }
  std::int64_t out() const { return out_; }
  // Output columns are handled kLanes at a time; the last block repeats the last column.
  std::int64_t blocks() const { return count_; }
  const Block& block(std::int64_t b) const { return blocks_[b]; }
  // Source rows must be this long: pad_row repeats the last value beyond in().
  static std::int64_t padded(std::int64_t in) { return in + kLanes<T> + 1; }

  // Of one output column.
  std::int32_t lo(std::int64_t x) const { return lo_[x]; }
  std::int32_t hi(std::int64_t x) const { return hi_[x]; }
  T w_lo(std::int64_t x) const { return w_lo_[x]; }
  T w_hi(std::int64_t x) const { return w_hi_[x]; }

private:
  std::int64_t in_, out_, count_;
  Buffer<std::int32_t> lo_, hi_;
  Buffer<T> w_lo_, w_hi_;
  Buffer<Block> blocks_;
};

// kLanes output columns of a source row of length ResizeColumns::padded.
template <class T>
inline vec<T> resize_block(const T* row, const typename ResizeColumns<T>::Block& b) {
  if (b.windowed) {
    // hi is lo + 1 except at the right border, where the padding repeats row[lo].
    const vec<T> left = permute(load_vec(row + b.base), b.index);
    const vec<T> right = permute(load_vec(row + b.base + 1), b.index);
    return left * b.w_lo + right * b.w_hi;
  }
  vec<T> left{}, right{};
  for (int k = 0; k < kLanes<T>; ++k) {
    left[k] = row[b.lo[k]];
    right[k] = row[b.hi[k]];
  }
  return left * b.w_lo + right * b.w_hi;
}

// The same for `count` source rows that lie `step` apart: row i to out + i * kLanes.
template <class T>
inline void resize_lines(const T* rows, std::int64_t step, std::int64_t count,
                         const typename ResizeColumns<T>::Block& block, T* out) {
  const typename ResizeColumns<T>::Block b = block; // a copy: `out` may alias anything
  for (std::int64_t i = 0; i < count; ++i)
    store_vec(out + i * kLanes<T>, resize_block<T>(rows + i * step, b));
}

template <class T> inline void pad_row(T* row, std::int64_t in) {
  for (std::int64_t i = in; i < ResizeColumns<T>::padded(in); ++i) row[i] = row[in - 1];
}

} // namespace fastseg::FASTSEG_CPU_LEVEL
