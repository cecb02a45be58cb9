// What happens to one block of pixels: slice, softmax and its derivative, splat.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include "common/vec_math_cpu.h"
#include "mean_field/mean_field.h"
#include "permutohedral_lattice/vertex_rows_cpu.h"

namespace fastseg::mean_field::FASTSEG_CPU_LEVEL {

using namespace permutohedral_lattice::FASTSEG_CPU_LEVEL;
using permutohedral_lattice::kBlock;

// The corners of a block's simplices, those of all kernels one after the other, and with which
// weights values go into the vertices and come out of them.
class Stencil {
public:
  using Weights = const float (*)[kBlock];

  int count = 0;
  alignas(64) std::int32_t rows[kMaxCorners][kBlock];

  Weights in() const { return in_; }
  Weights out() const { return weights_[1]; }

  // The corners of `block`; the rows of kernel k begin at first_row[k].
  void fill(const Kernel* kernels, const LatticeView<float>* lattices, int kernel_count,
            const std::int64_t* first_row, std::int64_t block) {
    bool same = true;
    for (int k = 0; k < kernel_count; ++k) same &= kernels[k].scale_in == kernels[k].scale_out;
    in_ = weights_[same ? 1 : 0];
    count = 0;
    for (int k = 0; k < kernel_count; ++k) {
      const LatticeView<float>& lattice = lattices[k];
      const std::int32_t* from = lattice.rows + lattice.at(block);
      const std::int32_t shift = static_cast<std::int32_t>(first_row[k]);
      for (int m = 0; m < lattice.corners; ++m)
        for (std::int64_t p = 0; p < kBlock; ++p) rows[count + m][p] = from[m * kBlock + p] + shift;
      scaled(lattice, block, kernels[k].scale_out, weights_[1] + count);
      if (!same) scaled(lattice, block, kernels[k].scale_in, weights_[0] + count);
      count += lattice.corners;
    }
  }

private:
  static void scaled(const LatticeView<float>& lattice, std::int64_t block, const float* scale,
                     float (*weights)[kBlock]) {
    const std::int64_t first = block * kBlock, n = std::min(kBlock, lattice.pixels - first);
    alignas(64) float factors[kBlock];
    std::fill_n(factors, kBlock, 1.0f);
    if (scale != nullptr && n == kBlock)
      std::memcpy(factors, scale + first, sizeof(factors));
    else if (scale != nullptr)
      std::copy_n(scale + first, n, factors);
    const float* with = lattice.weights + lattice.at(block);
    for (int m = 0; m < lattice.corners; ++m)
      for (std::int64_t p = 0; p < kBlock; ++p) weights[m][p] = with[m * kBlock + p] * factors[p];
  }

  Weights in_ = nullptr;
  alignas(64) float weights_[2][kMaxCorners][kBlock];
};

// Prefetches what a later block reads and writes: of the kernels, and of `arrays` [L, P] (null ones
// are left out), in which every label is a stream of its own, too many for the processor to
// foresee. Into the second-level cache only (locality 2): asking for the first level takes up the
// buffers that the rows of the present block wait for, and is no better than not asking. (Inlined
// at all costs: GCC drops calls of functions that only prefetch.)
template <int Count>
__attribute__((always_inline)) inline void
prefetch_block(const Kernel* kernels, int kernel_count, const float* const (&arrays)[Count],
               std::int64_t pixels, std::int64_t labels, std::int64_t block) {
  constexpr std::int64_t kAhead = 4;
  const std::int64_t later = block + kAhead, first = later * kBlock;
  if (first + kBlock > pixels) return;
  for (const float* array : arrays)
    if (array != nullptr)
      for (std::int64_t l = 0; l < labels; ++l)
        __builtin_prefetch(array + l * pixels + first + kBlock - 1, 0, 2);
  for (int k = 0; k < kernel_count; ++k) {
    const std::int64_t corners = kernels[k].lattice->features + 1;
    const std::int64_t at = later * corners * kBlock;
    for (std::int64_t m = 0; m < corners; ++m) {
      __builtin_prefetch(kernels[k].lattice->rows + at + m * kBlock, 0, 2);
      __builtin_prefetch(static_cast<const float*>(kernels[k].lattice->weights) + at + m * kBlock,
                         0, 2);
    }
    for (const float* scale : {kernels[k].scale_in, kernels[k].scale_out})
      if (scale != nullptr) __builtin_prefetch(scale + first + kBlock - 1, 0, 2);
  }
}

// Count: corners per pixel where known at compile time, else 0.
template <int W, int Count>
inline void slice_rows(const RowArray<float, W>& values, const Stencil& stencil,
                       Stencil::Weights weights, BlockRows<float, W>& out) {
  using R = Row<float, W>;
  const int count = Count > 0 ? Count : stencil.count;
  for (std::int64_t p = 0; p < kBlock; ++p) {
    R sum = R::load(values, stencil.rows[0][p]);
    sum.scale(weights[0][p]);
    for (int c = 1; c < count; ++c) sum.add(R::load(values, stencil.rows[c][p]), weights[c][p]);
    out.set_row(p, sum);
  }
}
template <int W>
inline void slice_pixels(const RowArray<float, W>& values, const Stencil& stencil,
                         Stencil::Weights weights, BlockRows<float, W>& out) {
  if (stencil.count == 9) // position, and position with color
    return slice_rows<W, 9>(values, stencil, weights, out);
  slice_rows<W, 0>(values, stencil, weights, out);
}

// Values with the weights of slices, and slopes with those of splats (the splat's derivative) at
// the same vertices.
template <int W, int Count>
inline void slice_both_rows(const RowArray<float, W>& values, const RowArray<float, W>& slopes,
                            const Stencil& stencil, Stencil::Weights in, BlockRows<float, W>& out,
                            BlockRows<float, W>& slope_out) {
  using R = Row<float, W>;
  const int count = Count > 0 ? Count : stencil.count;
  for (std::int64_t p = 0; p < kBlock; ++p) {
    R value = R::load(values, stencil.rows[0][p]), slope = R::load(slopes, stencil.rows[0][p]);
    value.scale(stencil.out()[0][p]);
    slope.scale(in[0][p]);
    for (int c = 1; c < count; ++c) {
      value.add(R::load(values, stencil.rows[c][p]), stencil.out()[c][p]);
      slope.add(R::load(slopes, stencil.rows[c][p]), in[c][p]);
    }
    out.set_row(p, value);
    slope_out.set_row(p, slope);
  }
}
template <int W>
inline void slice_both_pixels(const RowArray<float, W>& values, const RowArray<float, W>& slopes,
                              const Stencil& stencil, BlockRows<float, W>& out,
                              BlockRows<float, W>& slope_out) {
  if (stencil.count != 9)
    slice_both_rows<W, 0>(values, slopes, stencil, stencil.in(), out, slope_out);
  else if (stencil.in() == stencil.out()) // so that the compiler knows
    slice_both_rows<W, 9>(values, slopes, stencil, stencil.out(), out, slope_out);
  else
    slice_both_rows<W, 9>(values, slopes, stencil, stencil.in(), out, slope_out);
}

template <int W, int Count>
inline void splat_rows(const BlockRows<float, W>& block, const Stencil& stencil,
                       Stencil::Weights weights, const RowArray<float, W>& sums) {
  using R = Row<float, W>;
  const int count = Count > 0 ? Count : stencil.count;
  for (std::int64_t p = 0; p < kBlock; ++p) {
    const R value = block.row(p);
    for (int c = 0; c < count; ++c) {
      R sum = R::load(sums, stencil.rows[c][p]);
      sum.add(value, weights[c][p]);
      sum.store(sums, stencil.rows[c][p]);
    }
  }
}
template <int W>
inline void splat_pixels(const BlockRows<float, W>& block, const Stencil& stencil,
                         Stencil::Weights weights, const RowArray<float, W>& sums) {
  if (stencil.count == 9) return splat_rows<W, 9>(block, stencil, weights, sums);
  splat_rows<W, 0>(block, stencil, weights, sums);
}

inline vec<float> load_lanes(const float* p, std::int64_t count) {
  return count >= kLanes<float> ? load_vec(p) : load_partial(p, std::max<std::int64_t>(count, 0));
}
inline void store_lanes(float* p, vec<float> v, std::int64_t count) {
  if (count >= kLanes<float>) return store_vec(p, v);
  if (count > 0) store_partial(p, v, count);
}

// x [L, kBlock] = softmax(logits + x) of `count` pixels; logits [L, P] from the block's first
// pixel. Returns whether all are numbers.
inline bool softmax(float* x, bool with_message, const float* logits, std::int64_t pixels,
                    std::int64_t labels, std::int64_t count) {
  constexpr int L = kLanes<float>;
  ivec<float> good = ~ivec<float>{};
  for (int first = 0; first < kBlock; first += L) {
    float* const own = x + first;
    const std::int64_t lanes = count - first;
    vec<float> largest = splat<float>(-HUGE_VALF);
    for (std::int64_t l = 0; l < labels; ++l) {
      vec<float> v = load_lanes(logits + l * pixels + first, lanes);
      if (with_message) v += load_vec(own + l * kBlock);
      store_vec(own + l * kBlock, v);
      largest = vmax(largest, v);
    }
    vec<float> sum{};
    for (std::int64_t l = 0; l < labels; ++l) {
      const vec<float> e =
          exp2_nonpositive((load_vec(own + l * kBlock) - largest) * 1.44269504088896341f);
      store_vec(own + l * kBlock, e);
      sum += e;
    }
    good &= sum > 0.0f;
    const vec<float> inverse = 1.0f / sum;
    for (std::int64_t l = 0; l < labels; ++l)
      store_vec(own + l * kBlock, load_vec(own + l * kBlock) * inverse);
  }
  return !any<float>(~good);
}

// slope [L, kBlock] = probabilities * (slope - <probabilities, slope>)
inline void softmax_backward(float* slope, const float* probabilities, std::int64_t labels) {
  for (int first = 0; first < kBlock; first += kLanes<float>) {
    vec<float> mean{};
    for (std::int64_t at = first; at < labels * kBlock; at += kBlock)
      mean += load_vec(probabilities + at) * load_vec(slope + at);
    for (std::int64_t at = first; at < labels * kBlock; at += kBlock)
      store_vec(slope + at, load_vec(probabilities + at) * (load_vec(slope + at) - mean));
  }
}

// The most probable label of each pixel; of equal ones the first.
inline void most_probable(const float* x, std::int64_t labels, std::int64_t count,
                          std::int32_t* map) {
  for (int first = 0; first < kBlock && first < count; first += kLanes<float>) {
    vec<float> best = load_vec(x + first);
    ivec<float> index{};
    for (std::int64_t l = 1; l < labels; ++l) {
      const vec<float> v = load_vec(x + l * kBlock + first);
      const ivec<float> better = v > best;
      best = better ? v : best;
      index = better ? isplat<float>(static_cast<std::int32_t>(l)) : index;
    }
    std::memcpy(map + first, &index,
                std::min<std::int64_t>(kLanes<float>, count - first) * sizeof(std::int32_t));
  }
}

} // namespace fastseg::mean_field::FASTSEG_CPU_LEVEL
