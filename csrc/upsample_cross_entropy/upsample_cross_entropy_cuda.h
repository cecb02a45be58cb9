// What the two directions of the CUDA twin share.
//
// Softmax does not change when all logits of a source cell are shifted alike. Each cell is shifted
// by its largest logit, so that no upsampled one exceeds 0, and comes times log2 e: then a pixel
// costs one 2^x per class, with no search for its maximum, and those that matter are near 0, where
// rounding is small. Only where neighbouring cells are far apart, every upsampled logit may be far
// below 0 and the sum too small: then it is done again with the pixel's maximum.
#pragma once

#include "common/logit_tiles_cuda.h"
#include "upsample_cross_entropy/upsample_cross_entropy.h"

namespace fastseg::upsample_cross_entropy::cuda {

template <class T> inline constexpr T kLog2E = T(1.44269504088896340736);
template <class T> inline constexpr T kLn2 = T(0.693147180559945309417);

// Targets, and the weights of the loss. Class c of a pixel with target t has the share
// own * [c == t] + each * weight(c) of -log p_c in its loss, own = weight(t) * (1 - smoothing).
template <class T> struct Loss {
  const void* target;
  LabelType target_type;
  std::int64_t ignore_index;
  int classes;
  const T* class_weight; // null: all 1
  T smoothing, each;

  // The class of a pixel, -1 if it does not count, -2 if it is bad.
  FASTSEG_DEVICE int label(std::int64_t pixel) const {
    const std::int64_t t = load_label(target, target_type, pixel);
    return t == ignore_index ? -1 : t < 0 || t >= classes ? -2 : static_cast<int>(t);
  }
  FASTSEG_DEVICE T weight(int c) const {
    return class_weight == nullptr ? T(1) : load(class_weight + c);
  }
  FASTSEG_DEVICE T own(int t) const { return weight(t) * (T(1) - smoothing); }
  FASTSEG_DEVICE T weight_sum() const {
    if (class_weight == nullptr) return static_cast<T>(classes);
    T sum = 0;
    for (int c = 0; c < classes; ++c) sum += weight(c);
    return sum;
  }
};
template <class T, class Arguments>
Loss<T> loss_of(LabelType target_type, const Arguments& a, const Shape& s) {
  return {a.target,
          target_type,
          s.ignore_index,
          static_cast<int>(s.classes),
          static_cast<const T*>(a.class_weight),
          static_cast<T>(s.label_smoothing),
          static_cast<T>(s.label_smoothing / static_cast<double>(s.classes))};
}

// The largest logit of each cell of a block: a maximum has the same bits in every block that reads
// the cell. All threads of the block.
template <class Storage>
FASTSEG_DEVICE void find_maxima(BlockTiles<Storage>& block, compute_t<Storage>* maxima) {
  using T = compute_t<Storage>;
  const LogitTiles<Storage>& p = block.p;
  TileMemory<T>& memory = block.memory;
  const ChunkOrder<T> order(p.stride_c == 1);
  const int cells = memory.place.rows.cells * memory.place.columns.cells;
  for (int i = order.cell; i < cells; i += order.kStep) {
    const Storage* source = p.logits + memory.offsets[i];
    T maximum = T(-INFINITY);
#pragma unroll 4
    for (std::int64_t c = order.k; c < p.classes; c += kChunk<T>) {
      const T v = to_compute(load(source + c * p.stride_c));
      maximum = v > maximum ? v : maximum;
    }
    memory.cells[order.k * kCellPitch + i] = maximum;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < cells; i += kTileThreads) {
    T maximum = memory.cells[i];
    for (int k = 1; k < kChunk<T>; ++k) {
      const T v = memory.cells[k * kCellPitch + i];
      maximum = v > maximum ? v : maximum;
    }
    maxima[i] = maximum;
  }
  __syncthreads();
}

// The logits that a cell of the block shows the pixels.
template <class T> struct Shifted {
  const T* maxima;
  FASTSEG_DEVICE T operator()(T logit, int cell) const {
    return (logit - maxima[cell]) * kLog2E<T>;
  }
};

// Classes modulo 32 as bits: whether a thread need look for its targets at a class.
FASTSEG_DEVICE unsigned class_bit(int c) { return c < 0 ? 0u : 1u << (c & 31); }

} // namespace fastseg::upsample_cross_entropy::cuda
