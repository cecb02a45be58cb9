// The gradient of one tile of pixels to its four cells, for the backward of the CUDA twin.
#pragma once

#include "upsample_cross_entropy/upsample_cross_entropy_cuda.h"

namespace fastseg::upsample_cross_entropy::cuda {

constexpr unsigned kNoLabel = 0xffff; // more classes than that take the general path

template <class Storage> struct Backward {
  using T = compute_t<Storage>;
  LogitTiles<Storage> tiles;
  Loss<T> loss;
  const T* sums;
  const T* grad_loss;
  bool per_pixel;
  const double* total_weight; // null: a sum
  Storage* grad_logits;
  bool channels_last;
  int cell_rows, cell_columns;   // of a block
  int block_rows, block_columns; // of an image
};

// The rectangle of cells, and that of the pieces of the intervals around them.
struct Owned {
  int first, count;
  BlockAxis pieces;
};

// What all threads of a block know. In shared memory: registers are short.
template <class T> struct BlockState {
  Owned rows, columns;
  std::int64_t first_pixel; // of the image
  T scale;                  // of all gradients
  T weight_sum;             // with smoothing: of all classes
  // Large scales have more pieces around a cell than a block has threads: they are visited in
  // passes, rectangles of pieces, `passes_across` of them side by side.
  int pass_rows, pass_columns, passes_across, passes;
};

// Sums over the pixels of a tile of g * {1, wx, wy, wx * wy}, from which its four cells' shares
// come.
template <class T> struct TileSums {
  T g = 0, x = 0, y = 0, xy = 0;
  FASTSEG_DEVICE void add_row(T row, T row_x, T wy) {
    g += row;
    x += row_x;
    y += wy * row;
    xy += wy * row_x;
  }
  FASTSEG_DEVICE void subtract(const TileSums& other, T times) {
    g -= other.g * times;
    x -= other.x * times;
    y -= other.y * times;
    xy -= other.xy * times;
  }
};

template <class Storage>
FASTSEG_DEVICE compute_t<Storage> gradient_of_pixel(const Backward<Storage>& p,
                                                    std::int64_t pixel) {
  return p.per_pixel ? load(p.grad_loss + pixel) : compute_t<Storage>(1);
}

// A thread's pixels, for sums without maximum: d(loss) / d(z_c) = 2^z_c * factor - what the target
// and the smoothing take off.
template <class T> struct PixelFactors {
  T factor[kPiece][kPiece];
  unsigned labels[kPiece * kPiece / 2]; // 16 bits each, kNoLabel: does not count
  unsigned present;                     // class_bit of the labels
  TileSums<T> each;                     // smoothing: the pixels' shares of every class

  // Returns whether a sum is relative to its maximum, or NaN.
  template <class Storage>
  FASTSEG_DEVICE bool prepare(const Backward<Storage>& p, const BlockTiles<Storage>& block,
                              const BlockState<T>& state, const Tile<T>& tile) {
    const Piece<T>&row = block.row(), &column = block.column();
    const std::int64_t width = p.tiles.columns.resize.out;
    bool relative = false;
#pragma unroll
    for (int r = 0; r < kPiece; ++r) {
      T each_row = 0, each_row_x = 0;
#pragma unroll
      for (int k = 0; k < kPiece; ++k) {
        const std::int64_t pixel = state.first_pixel + (row.first + r) * width + column.first + k;
        const int i = r * kPiece + k;
        const int label = r < row.count && k < column.count ? p.loss.label(pixel) : -1;
        labels[i / 2] |= (label < 0 ? kNoLabel : static_cast<unsigned>(label)) << i % 2 * 16;
        if (label < 0) continue;
        present |= class_bit(label);
        const T saved = load(p.sums + pixel), grad = gradient_of_pixel(p, pixel);
        const T share = p.loss.each * grad;
        relative = relative || !(saved >= T(0));
        factor[r][k] = T(1) / saved * (p.loss.own(label) * grad + share * state.weight_sum);
        each_row += share;
        each_row_x += share * tile.wx[k];
      }
      each.add_row(each_row, each_row_x, tile.wy[r]);
    }
    return relative;
  }

  template <bool kTarget, class Storage>
  FASTSEG_DEVICE TileSums<T> add_class(const Backward<Storage>& p, const BlockTiles<Storage>& block,
                                       const BlockState<T>& state, const T* cells,
                                       const Tile<T>& tile, int c) const {
    TileSums<T> sums;
    T along = 0, along_x = 0;
    visit_pixels<true>(
        cells, tile,
        [&](int r, int k, T z) {
          T g = exp2_fast(z) * factor[r][k];
          if constexpr (kTarget) {
            const int i = r * kPiece + k;
            if ((labels[i / 2] >> i % 2 * 16 & 0xffffu) == static_cast<unsigned>(c)) {
              T own = p.loss.own(c);
              if (p.per_pixel)
                own *= gradient_of_pixel(
                    p, state.first_pixel + (block.row().first + r) * p.tiles.columns.resize.out +
                           block.column().first + k);
              g -= own;
            }
          }
          along += g;
          along_x += g * tile.wx[k];
        },
        [&](int r) {
          sums.add_row(along, along_x, tile.wy[r]);
          along = along_x = 0;
        });
    if (p.loss.smoothing > T(0)) sums.subtract(each, p.loss.weight(c));
    return sums;
  }
};

// The largest z of pixel (r, k) of this thread's pieces.
template <class Storage, class T>
FASTSEG_DEVICE T maximum_of_pixel(const BlockTiles<Storage>& block, const T* maxima, int r, int k) {
  const Piece<T>&row = block.row(), &column = block.column();
  const int corner = row.cell + column.cell;
  const Shifted<T> shifted{maxima};
  T maximum = T(-INFINITY);
#pragma unroll 1
  for (std::int64_t c = 0; c < block.p.classes; ++c) {
    const Storage* source = block.p.logits + c * block.p.stride_c;
    const auto value = [&](int cell) {
      return shifted(to_compute(load(source + block.memory.offsets[cell])), cell);
    };
    const auto along = [&](int cell) {
      return blend<false>(value(cell), value(cell + column.step), column.w_hi[k]);
    };
    const T z = blend<false>(along(corner), along(corner + row.step), row.w_hi[r]);
    maximum = z > maximum ? z : maximum;
  }
  return maximum;
}

// Puts the maxima of this thread's pixels whose sums are relative to them in the place of factors,
// which any_tile() does without.
template <class Storage, class T>
FASTSEG_DEVICE void find_pixel_maxima(const Backward<Storage>& p, const BlockTiles<Storage>& block,
                                      const BlockState<T>& state, const T* maxima,
                                      PixelFactors<T>& pixels) {
  if (!block.has_tile()) return;
  const Piece<T>&row = block.row(), &column = block.column();
#pragma unroll
  for (int r = 0; r < kPiece; ++r) {
    if (r >= row.count) continue;
#pragma unroll
    for (int k = 0; k < kPiece; ++k) {
      if (k >= column.count) continue;
      const std::int64_t pixel =
          state.first_pixel + (row.first + r) * p.tiles.columns.resize.out + column.first + k;
      if (p.loss.label(pixel) >= 0 && load(p.sums + pixel) < T(0))
        pixels.factor[r][k] = maximum_of_pixel(block, maxima, r, k);
    }
  }
}

// The same as PixelFactors for any values, one pixel after another. `prepared`: the maxima are in
// `pixels`; else each is looked for again for every class, which only scales beyond 60 and logits
// far apart come to. `modest` as stage() said of the class.
template <class Storage, class T>
FASTSEG_DEVICE TileSums<T> any_tile(const Backward<Storage>& p, const BlockTiles<Storage>& block,
                                    const BlockState<T>& state, const T* cells, int c, bool modest,
                                    const T* maxima, const PixelFactors<T>& pixels, bool prepared) {
  TileSums<T> sums;
  if (!block.has_tile()) return sums;
  const Piece<T>&row = block.row(), &column = block.column();
  const T* upper = cells + row.cell + column.cell;
  const T* lower = upper + row.step;
#pragma unroll
  for (int r = 0; r < kPiece; ++r) {
    if (r >= row.count) continue;
    T along = 0, along_x = 0;
#pragma unroll
    for (int k = 0; k < kPiece; ++k) {
      if (k >= column.count) continue;
      const std::int64_t pixel =
          state.first_pixel + (row.first + r) * p.tiles.columns.resize.out + column.first + k;
      const int label = p.loss.label(pixel);
      if (label < 0) continue;
      const T wx = column.w_hi[k], wy = row.w_hi[r];
      const T saved = load(p.sums + pixel), grad = gradient_of_pixel(p, pixel);
      const T share = p.loss.each * grad;
      // Blended as for the sum: the rounding of z then cancels in the quotient.
      T z = modest && saved >= T(0)
                ? blend<true>(blend<true>(upper[0], upper[column.step], wx),
                              blend<true>(lower[0], lower[column.step], wx), wy)
                : blend<false>(blend<false>(upper[0], upper[column.step], wx),
                               blend<false>(lower[0], lower[column.step], wx), wy);
      if (saved < T(0)) z -= prepared ? pixels.factor[r][k] : maximum_of_pixel(block, maxima, r, k);
      T g = exp2_fast(z) / (saved < T(0) ? -saved : saved) *
            (p.loss.own(label) * grad + share * state.weight_sum);
      g -= share * p.loss.weight(c) + (label == c ? p.loss.own(c) * grad : T(0));
      along += g;
      along_x += g * wx;
    }
    sums.add_row(along, along_x, row.w_hi[r]);
  }
  return sums;
}

} // namespace fastseg::upsample_cross_entropy::cuda
