// Backward of the CUDA twin (see upsample_cross_entropy_cuda.h): a gather, deterministic.
//
// A block owns a rectangle of source cells and visits every pixel that reads them, so those between
// two blocks are visited twice. A thread adds up its tile of pixels, weighted for the tile's four
// cells; a cell then adds up the tiles around it in a fixed order, through shared memory. Chunks of
// classes are complete one after another: each is written in the order of the gradient's memory.
#include "upsample_cross_entropy/upsample_cross_entropy.h"

#include "upsample_cross_entropy/upsample_cross_entropy_gradient_cuda.h"

namespace fastseg::upsample_cross_entropy::cuda {
namespace {

constexpr int kPassSide = 16; // kTileThreads = kPassSide * kPassSide
// Most cells of a block: around n x m of them are (n + 1) x (m + 1) pieces, one a thread.
constexpr int kMostOwned = (kPassSide - 1) * (kPassSide - 1);
constexpr int kOwnedPitch = 228; // 4 modulo 32, as kCellPitch
static_assert(kOwnedPitch >= kMostOwned);
// Classes whose sums are in shared memory at a time.
template <class T> inline constexpr int kGroup = kChunk<T> / 2;

template <class T> struct GradientMemory {
  T sums[kGroup<T>][4]
        [kTileThreads]; // of tiles, for their upper left, right, lower left, right cell
  T results[kChunk<T>][kOwnedPitch]; // of cells
};

FASTSEG_DEVICE Owned owned_axis(const PieceAxis& axis, int first, int count) {
  count = min(count, static_cast<int>(axis.resize.in) - first);
  const int begin = max(first - 1 - axis.first_interval, 0) * axis.per_interval;
  const int end = (first + count - axis.first_interval) * axis.per_interval;
  return {first, count, block_axis(axis, begin, end - begin)};
}

// Fills `state`, which is there after the next barrier.
template <class Storage, class T>
FASTSEG_DEVICE TilePlace begin_block(const Backward<Storage>& p, BlockState<T>& state) {
  const Division at = divide(blockIdx.x, std::int64_t{p.block_rows} * p.block_columns);
  const int row = static_cast<int>(at.remainder) / p.block_columns;
  const int column = static_cast<int>(at.remainder) % p.block_columns;
  const Owned rows = owned_axis(p.tiles.rows, row * p.cell_rows, p.cell_rows);
  const Owned columns = owned_axis(p.tiles.columns, column * p.cell_columns, p.cell_columns);
  const TilePlace place{at.quotient, rows.pieces, columns.pieces};
  if (threadIdx.x != 0) return place;
  T scale = p.per_pixel ? T(1) : load(p.grad_loss);
  if (p.total_weight != nullptr)
    scale = *p.total_weight == 0.0 ? T(0) : scale / static_cast<T>(*p.total_weight);
  const bool one = BlockTiles<Storage>::one_tile_each(place);
  const int pass_rows = one ? place.rows.pieces : kPassSide;
  const int pass_columns = one ? place.columns.pieces : kPassSide;
  const int down = (place.rows.pieces + pass_rows - 1) / pass_rows;
  const int across = (place.columns.pieces + pass_columns - 1) / pass_columns;
  state = {rows,
           columns,
           at.quotient * p.tiles.rows.resize.out * p.tiles.columns.resize.out,
           scale,
           p.loss.smoothing > T(0) ? p.loss.weight_sum() : T(0),
           pass_rows,
           pass_columns,
           across,
           down * across};
  return place;
}

// Adds to the results what the tiles of a pass have for this thread's cell. Classes are innermost:
// finding a tile takes longer than adding its share.
template <class Storage, class T>
FASTSEG_DEVICE void gather(const Backward<Storage>& p, const BlockState<T>& state,
                           GradientMemory<T>& gradient, int pass, int group) {
  const PieceAxis &rows = p.tiles.rows, &columns = p.tiles.columns;
  const int cell_row = static_cast<int>(threadIdx.x) / state.columns.count;
  const int cell_column = static_cast<int>(threadIdx.x) % state.columns.count;
  if (cell_row >= state.rows.count) return;
  // The pieces of the intervals above and below the cell, and to its left and right.
  const int first_row =
      (state.rows.first + cell_row - 1 - rows.first_interval) * rows.per_interval -
      state.rows.pieces.first_piece;
  const int first_column =
      (state.columns.first + cell_column - 1 - columns.first_interval) * columns.per_interval -
      state.columns.pieces.first_piece;
  const int pass_row = pass / state.passes_across * state.pass_rows;
  const int pass_column = pass % state.passes_across * state.pass_columns;
  const int held = min(state.pass_columns, state.columns.pieces.pieces - pass_column);
  T sums[kGroup<T>] = {};
  for (int i = 0; i < 2 * rows.per_interval; ++i) {
    const int row = first_row + i - pass_row;
    // Also where there is no interval above: its pieces would have numbers below 0.
    if (row < 0 || row >= state.pass_rows) continue;
    for (int j = 0; j < 2 * columns.per_interval; ++j) {
      const int column = first_column + j - pass_column;
      if (column < 0 || column >= held) continue;
      const int corner = (i < rows.per_interval ? 2 : 0) + (j < columns.per_interval ? 1 : 0);
#pragma unroll
      for (int g = 0; g < kGroup<T>; ++g) sums[g] += gradient.sums[g][corner][row * held + column];
    }
  }
#pragma unroll
  for (int g = 0; g < kGroup<T>; ++g) {
    T& result = gradient.results[group + g][threadIdx.x];
    result = pass == 0 ? sums[g] : result + sums[g];
  }
}

// Writes the results of classes from `first` on.
template <class Storage, class T>
FASTSEG_DEVICE void write_results(const Backward<Storage>& p, const BlockState<T>& state,
                                  std::int64_t image, const T (&results)[kChunk<T>][kOwnedPitch],
                                  int first) {
  const ChunkOrder<T> order(p.channels_last);
  const std::int64_t c = first + order.k, classes = p.tiles.classes;
  if (c >= classes) return;
  const std::int64_t width = p.tiles.columns.resize.in, plane = p.tiles.rows.resize.in * width;
  const int columns = state.columns.count, cells = state.rows.count * columns;
  Storage* const target =
      p.grad_logits + image * classes * plane + (p.channels_last ? c : c * plane);
  for (int i = order.cell; i < cells; i += order.kStep) {
    const std::int64_t cell =
        (state.rows.first + i / columns) * width + state.columns.first + i % columns;
    from_compute(results[order.k][i] * state.scale,
                 target[p.channels_last ? cell * classes : cell]);
  }
}

template <class Storage, class T>
FASTSEG_DEVICE void hold_pass(const Backward<Storage>& p, BlockTiles<Storage>& block,
                              const BlockState<T>& state, int pass) {
  const TilePlace& place = block.memory.place;
  const int row = pass / state.passes_across * state.pass_rows;
  const int column = pass % state.passes_across * state.pass_columns;
  block.hold_pieces(place, row, min(state.pass_rows, place.rows.pieces - row), column,
                    min(state.pass_columns, place.columns.pieces - column), true);
}

template <class Storage>
__global__ void __launch_bounds__(kTileThreads, sizeof(compute_t<Storage>) == 8 ? 1 : 2)
    upsample_cross_entropy_bwd_kernel(const Backward<Storage> p) {
  using T = compute_t<Storage>;
  FASTSEG_SHARED(memory, TileMemory<T>);
  FASTSEG_SHARED(maxima, T[kMostCells]);
  FASTSEG_SHARED(gradient, GradientMemory<T>);
  FASTSEG_SHARED(state, BlockState<T>);
  const int thread = threadIdx.x, classes = static_cast<int>(p.tiles.classes);
  const TilePlace place = begin_block(p, state);
  BlockTiles<Storage> block(p.tiles, memory, place, true);
  find_maxima(block, maxima);

  const bool one_tile = block.one_tile_each(place);
  const Tile<T> tile = one_tile ? Tile<T>(block.row(), block.column()) : Tile<T>();
  PixelFactors<T> pixels{};
  bool general = !one_tile || classes > static_cast<int>(kNoLabel);
  if (!general && block.has_tile()) general = pixels.prepare(p, block, state, tile);
  general = __syncthreads_or(general) != 0;
  if (general && one_tile) find_pixel_maxima(p, block, state, maxima, pixels);

  for (int first = 0; first < classes; first += kChunk<T>) {
    const bool odd = block.stage(first, Shifted<T>{maxima});
    for (int group = 0; group < kChunk<T>; group += kGroup<T>) {
      for (int pass = 0; pass < state.passes; ++pass) {
        if (state.passes > 1) {
          hold_pass(p, block, state, pass);
          __syncthreads();
        }
#pragma unroll 1
        for (int g = 0; g < kGroup<T>; ++g) {
          const int c = first + group + g;
          if (c >= classes) break;
          const T* cells = memory.cells + (group + g) * kCellPitch;
          TileSums<T> sums;
          if (odd || general)
            sums = any_tile(p, block, state, cells, c, !odd, maxima, pixels, one_tile);
          else if (__any_sync(0xffffffffu, (pixels.present & class_bit(c)) != 0))
            sums = pixels.template add_class<true>(p, block, state, cells, tile, c);
          else
            sums = pixels.template add_class<false>(p, block, state, cells, tile, c);
          gradient.sums[g][0][thread] = (sums.g - sums.x) - (sums.y - sums.xy);
          gradient.sums[g][1][thread] = sums.x - sums.xy;
          gradient.sums[g][2][thread] = sums.y - sums.xy;
          gradient.sums[g][3][thread] = sums.xy;
        }
        __syncthreads();
        gather(p, state, gradient, pass, group);
        __syncthreads(); // the sums are free
      }
    }
    __syncthreads();
    write_results(p, state, memory.place.image, gradient.results, first);
  }
}

// Cells of a block: as many as the pieces around them leave threads for.
template <class Storage> void choose_cells(Backward<Storage>& p) {
  const PieceAxis &rows = p.tiles.rows, &columns = p.tiles.columns;
  const std::int64_t height = rows.resize.in, width = columns.resize.in;
  const std::int64_t most_rows = kMostPieces / rows.per_interval - 1;
  double best = 0.0;
  p.cell_rows = p.cell_columns = 1;
  for (int w = 1; w <= std::min<std::int64_t>(width, kMostPieces - 1); ++w) {
    const std::int64_t across = std::int64_t{w + 1} * columns.per_interval;
    const std::int64_t down = kTileThreads / across / rows.per_interval - 1;
    const int h = static_cast<int>(
        std::min({down, height, std::int64_t{kMostCells / (w + 2) - 2}, most_rows}));
    if (h < 1 || across > kMostPieces) continue;
    const double blocks =
        static_cast<double>(ceil_div(width, w)) * static_cast<double>(ceil_div(height, h));
    const double cost = blocks * (kTileThreads + 0.5 * (w + 2) * (h + 2) + (w < 16 ? 32.0 : 0.0));
    if (best != 0.0 && cost >= best) continue;
    best = cost;
    p.cell_columns = w;
    p.cell_rows = h;
  }
  p.block_columns = static_cast<int>(ceil_div(width, p.cell_columns));
  p.block_rows = static_cast<int>(ceil_div(height, p.cell_rows));
}

template <class Storage>
void backward_typed(LabelType target_type, const BackwardArguments& a, const Shape& s,
                    std::uintptr_t stream) {
  using T = compute_t<Storage>;
  Backward<Storage> p{};
  p.tiles = logit_tiles("upsample_cross_entropy", static_cast<const Storage*>(a.logits), s);
  p.loss = loss_of<T>(target_type, a, s);
  p.sums = static_cast<const T*>(a.sums);
  p.grad_loss = static_cast<const T*>(a.grad_loss);
  p.per_pixel = a.per_pixel;
  p.total_weight = a.total_weight;
  p.grad_logits = static_cast<Storage*>(a.grad_logits);
  p.channels_last = a.grad_channels_last;
  choose_cells(p);
  launch("upsample_cross_entropy backward", upsample_cross_entropy_bwd_kernel<Storage>,
         s.batch * p.block_rows * p.block_columns, kTileThreads, 0, stream, p);
}

} // namespace

void backward(DType dtype, LabelType target_type, const BackwardArguments& a, const Shape& s,
              std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    backward_typed<typename decltype(tag)::type>(target_type, a, s, stream);
  });
}

} // namespace fastseg::upsample_cross_entropy::cuda
