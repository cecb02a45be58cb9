// Low-resolution logits on the device, upsampled in registers: what every fused upsample_* kernel
// reads. Layout, strides and storage type end here.
//
// A block takes a rectangle of pieces (pixel_tiles.h), a thread one tile of up to 4x4 pixels. The
// classes go through shared memory a few at a time, as compute-type values of the block's source
// cells: each is read and converted once per block, in the order in which memory has it, and a
// tile then costs four shared loads, ten multiply-adds for the columns and one per pixel.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "common/cuda_launch.h"
#include "common/cuda_vector.h"
#include "common/pixel_tiles.h"

namespace fastseg {

constexpr int kTileThreads = 256;
constexpr int kMostPieces = 64; // along one axis of a block, in shared memory
constexpr int kMostCells = 384;
// Classes in shared memory at a time: 32 bytes of float32 logits, a whole sector in NHWC.
template <class T> inline constexpr int kChunk = 32 / static_cast<int>(sizeof(T));
// Distance of classes in shared memory: 4 modulo 32, so that storing 8 classes x 4 cells at a time
// meets every bank once.
constexpr int kCellPitch = kMostCells + 4;

// Logits [N, C, in_h, in_w] of any strides, and the cut of their pixels into blocks.
template <class Storage> struct LogitTiles {
  const Storage* logits;
  std::int64_t classes, stride_n, stride_c, stride_h, stride_w;
  PieceAxis rows, columns;
  int piece_rows, piece_columns; // of a block
  int block_rows, block_columns; // of an image
};

// The part of an axis that a block works on.
struct BlockAxis {
  int first_piece, pieces;
  int first_cell, cells; // sources that its pieces read
};
FASTSEG_DEVICE BlockAxis block_axis(const PieceAxis& axis, int first_piece, int pieces) {
  const int count = min(pieces, axis.pieces - first_piece);
  const int in = static_cast<int>(axis.resize.in);
  const int first = first_piece / axis.per_interval + axis.first_interval;
  // Pieces before the first source have the taps of interval 0, with no weight on the second.
  const int last = max((first_piece + count - 1) / axis.per_interval + axis.first_interval, 0);
  const int first_cell = max(first, 0);
  return {first_piece, count, first_cell, min(last + 1, in - 1) - first_cell + 1};
}

// A piece of an axis, and where it reads in the block's cells.
template <class T> struct Piece {
  int first, count; // outputs
  int cell, step;   // slot of lo; of hi minus that of lo
  T w_hi[kPiece];
};
// The weights of a gather: outputs add to the two ends of their interval. Those before the first
// source all add to the upper end of interval -1, those behind the last one to the lower.
template <class T> FASTSEG_DEVICE T adjoint_weight(int interval, const Taps<T>& t) {
  return interval < 0 ? T(1) : t.hi == t.lo ? T(0) : t.w_hi;
}
// The outputs [first, end) of a piece, and their interval.
struct OutputRange {
  std::int64_t first, end;
  int interval;
};
FASTSEG_DEVICE OutputRange outputs_of(const PieceAxis& axis, int index) {
  const int interval = index / axis.per_interval + axis.first_interval;
  const std::int64_t first = first_in_interval(axis, interval) + index % axis.per_interval * kPiece;
  const std::int64_t end = first_in_interval(axis, interval + 1);
  return {first, min(end, first + kPiece), interval};
}
template <class T>
FASTSEG_DEVICE Piece<T> piece_at(const PieceAxis& axis, const BlockAxis& block, int index,
                                 bool adjoint) {
  const OutputRange outputs = outputs_of(axis, index);
  const int count = static_cast<int>(outputs.end - outputs.first), interval = outputs.interval;
  // An empty one lies at the end of its interval, so that pieces follow one another.
  Piece<T> piece{static_cast<int>(min(outputs.first, outputs.end)), max(count, 0), 0, 0, {}};
  for (int k = 0; k < kPiece; ++k) {
    if (k >= count) continue; // its weights are zero
    const Taps<T> t = taps<T>(axis.resize, outputs.first + k);
    piece.cell = static_cast<int>(t.lo) - block.first_cell;
    piece.step = adjoint && interval < 0 ? 0 : static_cast<int>(t.hi - t.lo);
    piece.w_hi[k] = adjoint ? adjoint_weight(interval, t) : t.w_hi;
  }
  return piece;
}

// 2^x. For float the hardware's unit: a relative error below 2^-22, denormal results are zero.
FASTSEG_DEVICE float exp2_fast(float x) {
#ifdef FASTSEG_CUDA_ON_CPU
  return cuda_on_cpu::exp2_approx(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
FASTSEG_DEVICE double exp2_fast(double x) { return exp2(x); }

// Modest values can be subtracted from one another.
template <class T> inline constexpr T kModest = static_cast<T>(sizeof(T) == 8 ? 1e300 : 1e37);

// The class and the first cell that a thread copies of a chunk, so that a warp meets neighbours in
// global memory; it goes on at every kStep-th cell.
template <class T> struct ChunkOrder {
  static constexpr int kStep = kTileThreads / kChunk<T>;
  int k, cell;
  FASTSEG_DEVICE explicit ChunkOrder(bool channels_last) : k(threadIdx.x), cell(threadIdx.x) {
    k = channels_last ? k % kChunk<T> : k / kStep;
    cell = channels_last ? cell / kChunk<T> : cell % kStep;
  }
};

// A block's rectangle of pieces.
struct TilePlace {
  std::int64_t image;
  BlockAxis rows, columns;
};

// The shared memory of a block. The place is here as well: registers are what limits the blocks
// that a processor holds.
template <class T> struct TileMemory {
  TilePlace place;
  Piece<T> rows[kMostPieces], columns[kMostPieces];
  int held_rows, held_columns;      // of these
  std::int64_t offsets[kMostCells]; // of cells in the logits of one class
  T cells[kChunk<T> * kCellPitch];  // [class][cell]
};

// The blocks of an image, one image after another; blocks that share cells run side by side.
template <class Storage> FASTSEG_DEVICE TilePlace tile_place(const LogitTiles<Storage>& p) {
  const Division image = divide(blockIdx.x, std::int64_t{p.block_rows} * p.block_columns);
  const int at = static_cast<int>(image.remainder);
  return {image.quotient, block_axis(p.rows, at / p.block_columns * p.piece_rows, p.piece_rows),
          block_axis(p.columns, at % p.block_columns * p.piece_columns, p.piece_columns)};
}

// A block's view of the logits. All threads of the block call its functions.
template <class Storage> struct BlockTiles {
  using T = compute_t<Storage>;
  const LogitTiles<Storage>& p;
  TileMemory<T>& memory;

  // `place` may have more pieces than threads: then hold_pieces() says which are at hand.
  FASTSEG_DEVICE BlockTiles(const LogitTiles<Storage>& tiles, TileMemory<T>& shared,
                            const TilePlace& place, bool adjoint = false)
      : p(tiles), memory(shared) {
    const BlockAxis &rows = place.rows, &columns = place.columns;
    if (threadIdx.x == 0) memory.place = place;
    if (one_tile_each(place)) hold_pieces(place, 0, rows.pieces, 0, columns.pieces, adjoint);
    for (int i = threadIdx.x; i < rows.cells * columns.cells; i += kTileThreads)
      memory.offsets[i] = place.image * p.stride_n +
                          (rows.first_cell + i / columns.cells) * p.stride_h +
                          (columns.first_cell + i % columns.cells) * p.stride_w;
    __syncthreads();
  }

  static FASTSEG_DEVICE bool one_tile_each(const TilePlace& place) {
    const int rows = place.rows.pieces, columns = place.columns.pieces;
    return rows <= kMostPieces && columns <= kMostPieces && rows * columns <= kTileThreads;
  }

  // Prepares `rows` x `columns` pieces of the block's; they are there after the next barrier.
  FASTSEG_DEVICE void hold_pieces(const TilePlace& place, int row, int rows, int column,
                                  int columns, bool adjoint) {
    if (threadIdx.x == 0) {
      memory.held_rows = rows;
      memory.held_columns = columns;
    }
    for (int i = threadIdx.x; i < rows + columns; i += kTileThreads) {
      if (i < columns) {
        const int index = place.columns.first_piece + column + i;
        memory.columns[i] = piece_at<T>(p.columns, place.columns, index, adjoint);
      } else {
        const int index = place.rows.first_piece + row + i - columns;
        Piece<T> piece = piece_at<T>(p.rows, place.rows, index, adjoint);
        piece.cell *= place.columns.cells;
        piece.step *= place.columns.cells;
        memory.rows[i - columns] = piece;
      }
    }
  }

  // This thread's pieces. Threads beyond the last row of pieces repeat row 0: they take part in
  // staging, and write nothing.
  FASTSEG_DEVICE bool has_tile() const {
    return static_cast<int>(threadIdx.x) < memory.held_rows * memory.held_columns;
  }
  FASTSEG_DEVICE const Piece<T>& row() const {
    return memory.rows[has_tile() ? threadIdx.x / memory.held_columns : 0];
  }
  FASTSEG_DEVICE const Piece<T>& column() const {
    return memory.columns[threadIdx.x % memory.held_columns];
  }

  // Brings classes [first, first + kChunk) to shared memory, as map(logit, cell). Returns whether
  // one of these values is not modest; classes beyond the last are zero.
  template <class Map> FASTSEG_DEVICE bool stage(int first, const Map& map) {
    const ChunkOrder<T> order(p.stride_c == 1);
    const bool inside = first + order.k < p.classes;
    const Storage* source = p.logits + (first + order.k) * p.stride_c;
    const int cells = memory.place.rows.cells * memory.place.columns.cells;
    bool odd = false;
#pragma unroll 4
    for (int i = order.cell; i < cells; i += order.kStep) {
      const T v = inside ? map(to_compute(load(source + memory.offsets[i])), i) : T(0);
      odd = odd || !(v >= -kModest<T> && v <= kModest<T>);
      memory.cells[order.k * kCellPitch + i] = v;
    }
    return __syncthreads_or(odd) != 0;
  }
};

// Writes value(r, k) of every pixel of the block's tiles to `out` [image, row, column]. A tile's
// pixels lie four to a row, so threads that wrote their own would fill an eighth of a sector at a
// time: they go through shared memory, one row of each piece at a time, and leave it as the map has
// them, a warp from one sector boundary to the next. All threads call it; the cells are
// overwritten.
template <class Storage, class Value, class Get>
FASTSEG_DEVICE void store_pixels(BlockTiles<Storage>& block, Value* out, const Get& value) {
  auto& memory = block.memory;
  static_assert(sizeof memory.cells >= kTileThreads * kPiece * sizeof(Value));
  auto* staged = reinterpret_cast<Value*>(memory.cells);
  constexpr int kPerSector = 32 / static_cast<int>(sizeof(Value));
  const Piece<compute_t<Storage>>&left = memory.columns[0],
        &right = memory.columns[memory.held_columns - 1];
  const int first = left.first, count = right.first + right.count - first;
  const std::int64_t width = block.p.columns.resize.out;
  Value* image = out + memory.place.image * block.p.rows.resize.out * width;
  const int lane = threadIdx.x % 32, pitch = memory.held_columns * kPiece;
#pragma unroll
  for (int r = 0; r < kPiece; ++r) {
    __syncthreads(); // what is staged is written
    if (block.has_tile()) {
      const int column = block.column().first - first;
#pragma unroll
      for (int k = 0; k < kPiece; ++k)
        if (k < block.column().count)
          staged[threadIdx.x / memory.held_columns * pitch + column + k] = value(r, k);
    }
    __syncthreads();
    for (int piece = threadIdx.x / 32; piece < memory.held_rows; piece += kTileThreads / 32) {
      if (r >= memory.rows[piece].count) continue;
      const std::int64_t at = (memory.rows[piece].first + r) * width + first;
      const auto beyond = reinterpret_cast<std::uintptr_t>(image + at) / sizeof(Value) % kPerSector;
      for (int x = -static_cast<int>(beyond); x < count; x += 32) {
        const int column = min(max(x + lane, 0), count - 1); // at the ends some write the same
        image[at + column] = staged[piece * pitch + column];
      }
    }
  }
}

// How a thread's pixels read the block's cells.
template <class T> struct Tile {
  int corner, right, down; // slot of the upper left cell, and from there to the others
  T wx[kPiece], wy[kPiece];

  FASTSEG_DEVICE Tile() : corner(0), right(0), down(0), wx{}, wy{} {}
  FASTSEG_DEVICE Tile(const Piece<T>& row, const Piece<T>& column)
      : corner(row.cell + column.cell), right(column.step), down(row.step) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      wx[i] = column.w_hi[i];
      wy[i] = row.w_hi[i];
    }
  }
};

// A value that the compiler cannot know anything about: what is computed from it is computed here.
template <class T> FASTSEG_DEVICE T opaque(T v) {
#ifndef FASTSEG_CUDA_ON_CPU
  if constexpr (sizeof(T) == 4)
    asm volatile("" : "+f"(v));
  else
    asm volatile("" : "+d"(v));
#endif
  return v;
}

// a * (1 - w) + b * w. With kBounded as one multiply-add, which infinities do not survive.
template <bool kBounded, class T> FASTSEG_DEVICE T blend(T a, T b, T w) {
  if constexpr (kBounded) return a + w * (b - a);
  if (a == b) return a; // also where b is a: at the border, and on an axis of kept size
  w = opaque(w);        // or 1 - w of all eight weights would take registers for the whole loop
  return a * (T(1) - w) + b * w;
}

// Calls visit(r, k, z) for the 16 pixels of a tile, whatever its width and height, row by row; z is
// the upsampled logit of the class at `cells`. end_of_row(r) follows each row.
template <bool kBounded, class T, class Visit, class EndOfRow>
FASTSEG_DEVICE void visit_pixels(const T* cells, const Tile<T>& tile, const Visit& visit,
                                 const EndOfRow& end_of_row) {
  const T tl = cells[tile.corner], tr = cells[tile.corner + tile.right];
  const T bl = cells[tile.corner + tile.down], br = cells[tile.corner + tile.down + tile.right];
  T upper[kPiece], lower[kPiece];
#pragma unroll
  for (int k = 0; k < kPiece; ++k) {
    upper[k] = blend<kBounded>(tl, tr, tile.wx[k]);
    lower[k] = blend<kBounded>(bl, br, tile.wx[k]);
  }
#pragma unroll
  for (int r = 0; r < kPiece; ++r) {
#pragma unroll
    for (int k = 0; k < kPiece; ++k) visit(r, k, blend<kBounded>(upper[k], lower[k], tile.wy[r]));
    end_of_row(r);
  }
}

inline int cells_of(const PieceAxis& axis, int pieces) {
  return (pieces - 1) / axis.per_interval +
         3; // both ends, and pieces that begin inside an interval
}

// The block shape that spends the least on threads without a tile and on cells read twice.
template <class Storage> void choose_blocks(LogitTiles<Storage>& p) {
  double best = 0.0;
  for (int w = 1; w <= std::min(kMostPieces, p.columns.pieces); ++w) {
    for (int h = std::min({kMostPieces, p.rows.pieces, kTileThreads / w}); h >= 1; h /= 2) {
      const int cells = cells_of(p.columns, w) * cells_of(p.rows, h);
      if (cells > kMostCells) continue;
      const double blocks = static_cast<double>(ceil_div(p.columns.pieces, w)) *
                            static_cast<double>(ceil_div(p.rows.pieces, h));
      // A narrow block reads short runs of memory, and writes short runs of labels.
      const double narrow = w < 16 ? 32.0 : w < 32 ? 12.0 : 0.0;
      const double cost = blocks * (kTileThreads + 0.5 * cells + narrow);
      if (best != 0.0 && cost >= best) continue;
      best = cost;
      p.piece_columns = w;
      p.piece_rows = h;
    }
  }
  p.block_columns = static_cast<int>(ceil_div(p.columns.pieces, p.piece_columns));
  p.block_rows = static_cast<int>(ceil_div(p.rows.pieces, p.piece_rows));
}

inline void check_axes(const char* what, std::initializer_list<std::int64_t> sizes) {
  if (std::max(sizes) > (std::int64_t{1} << 30))
    throw std::invalid_argument(std::string("fastseg: ") + what +
                                ": an axis of over 2^30 elements");
}

// From a Shape with batch, classes, in_h, ..., stride_w, as the fused ops have them.
template <class Storage, class Shape>
LogitTiles<Storage> logit_tiles(const char* what, const Storage* logits, const Shape& s) {
  check_axes(what, {s.classes, s.in_h, s.in_w, s.out_h, s.out_w});
  LogitTiles<Storage> p{};
  p.logits = logits;
  p.classes = s.classes;
  p.stride_n = s.stride_n, p.stride_c = s.stride_c;
  p.stride_h = s.stride_h, p.stride_w = s.stride_w;
  p.rows = piece_axis(s.in_h, s.out_h, s.align_corners);
  p.columns = piece_axis(s.in_w, s.out_w, s.align_corners);
  choose_blocks(p);
  return p;
}

} // namespace fastseg
