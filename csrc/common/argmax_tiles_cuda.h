// The class with the largest upsampled logit, for the pixels of a tile: CUDA twin of
// argmax_rows_cpu.h.
//
// Every upsampled logit of a tile lies between its four cells. A class whose largest cell does not
// exceed the smallest maximum so far changes no pixel; where that holds for all 32 tiles of a warp
// the class is skipped. On real images that leaves few; on noise it costs an eighth.
#pragma once

#include "common/logit_tiles_cuda.h"

namespace fastseg {

// As torch.argmax: the first of equal values wins, and NaN is larger than everything.
template <class T> struct TileArgmax {
  T best[kPiece][kPiece];
  int label[kPiece][kPiece];

  FASTSEG_DEVICE TileArgmax() {
#pragma unroll
    for (int i = 0; i < kPiece * kPiece; ++i) {
      best[i / kPiece][i % kPiece] = T(-INFINITY);
      label[i / kPiece][i % kPiece] = 0;
    }
  }

  template <bool kBounded> FASTSEG_DEVICE void add(const T* cells, const Tile<T>& tile, int c) {
    visit_pixels<kBounded>(
        cells, tile,
        [&](int r, int k, T z) {
          T& top = best[r][k];
          const bool larger = kBounded ? z > top : !(z <= top) && top == top;
          label[r][k] = larger ? c : label[r][k];
          top = larger ? z : top;
        },
        [](int) {});
  }

  FASTSEG_DEVICE T smallest() const {
    T least = best[0][0];
#pragma unroll
    for (int i = 1; i < kPiece * kPiece; ++i) least = min(least, best[i / kPiece][i % kPiece]);
    return least;
  }
};

template <class T> FASTSEG_DEVICE T largest_cell(const T* cells, const Tile<T>& tile) {
  return max(max(cells[tile.corner], cells[tile.corner + tile.right]),
             max(cells[tile.corner + tile.down], cells[tile.corner + tile.down + tile.right]));
}

// Labels of this thread's tile, over all classes. Called by all threads of the block.
template <class Storage>
FASTSEG_DEVICE TileArgmax<compute_t<Storage>> tile_argmax(BlockTiles<Storage>& block) {
  using T = compute_t<Storage>;
  const Tile<T> tile(block.row(), block.column());
  TileArgmax<T> found;
  const int classes = static_cast<int>(block.p.classes);
  for (int first = 0; first < classes; first += kChunk<T>) {
    const bool odd = block.stage(first, [](T v, int) { return v; });
    const int count = min(kChunk<T>, classes - first);
    const T least = found.smallest();
    for (int k = 0; k < count; ++k) {
      const T* cells = block.memory.cells + k * kCellPitch;
      if (odd)
        found.template add<false>(cells, tile, first + k);
      else if (__any_sync(0xffffffffu, !(largest_cell(cells, tile) <= least)))
        found.template add<true>(cells, tile, first + k);
    }
    __syncthreads(); // the cells are free
  }
  return found;
}

} // namespace fastseg
