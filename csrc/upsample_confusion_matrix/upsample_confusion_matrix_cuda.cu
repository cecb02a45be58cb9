// CUDA twin: the labels of common/argmax_tiles_cuda.h, counted as they come. Counts are integers,
// so their sum does not depend on the order in which threads add.
//
// A thread adds up runs of equal pairs among its 16 pixels, a block adds those in shared memory: in
// a table of (pair, count) in which a pair has one place, its number modulo the table's length. A
// pair that finds its place taken by another one is added in global memory.
#include "upsample_confusion_matrix/upsample_confusion_matrix.h"

#include "common/argmax_tiles_cuda.h"

namespace fastseg::upsample_confusion_matrix::cuda {
namespace {

using Count = unsigned long long; // what atomicAdd takes
constexpr int kPlaces = 1024;
constexpr Count kFree = ~Count{0};

struct Target {
  const void* labels;
  LabelType type;
  std::int64_t ignore_index;
};

// The block's counts.
struct Table {
  Count pairs[kPlaces];
  int counts[kPlaces];

  FASTSEG_DEVICE void clear() {
    for (int i = threadIdx.x; i < kPlaces; i += kTileThreads) {
      pairs[i] = kFree;
      counts[i] = 0;
    }
  }
  FASTSEG_DEVICE void add(Count pair, int count, Count* global) {
    const int place = static_cast<int>(pair % kPlaces);
    const Count there = atomicCAS(&pairs[place], kFree, pair);
    if (there == kFree || there == pair)
      atomicAdd(&counts[place], count);
    else
      atomicAdd(&global[pair], static_cast<Count>(count));
  }
  FASTSEG_DEVICE void flush(Count* global) const {
    for (int i = threadIdx.x; i < kPlaces; i += kTileThreads)
      if (pairs[i] != kFree) atomicAdd(&global[pairs[i]], static_cast<Count>(counts[i]));
  }
};

template <class Storage>
__global__ void __launch_bounds__(kTileThreads, sizeof(compute_t<Storage>) == 8 ? 1 : 3)
    upsample_confusion_matrix_fwd_kernel(const LogitTiles<Storage> p, const Target target,
                                         Count* counts, long long* bad) {
  using T = compute_t<Storage>;
  FASTSEG_SHARED(memory, TileMemory<T>);
  FASTSEG_SHARED(table, Table);
  table.clear();
  BlockTiles<Storage> block(p, memory, tile_place(p));
  const TileArgmax<T> found = tile_argmax(block);
  const Piece<T>&row = block.row(), &column = block.column();
  const std::int64_t width = p.columns.resize.out;
  const std::int64_t first =
      (memory.place.image * p.rows.resize.out + row.first) * width + column.first;
  Count pair = kFree;
  int run = 0;
#pragma unroll
  for (int r = 0; r < kPiece; ++r) {
#pragma unroll
    for (int k = 0; k < kPiece; ++k) {
      if (!block.has_tile() || r >= row.count || k >= column.count) continue;
      const std::int64_t at = first + r * width + k;
      const std::int64_t t = load_label(target.labels, target.type, at);
      if (t == target.ignore_index) continue;
      if (t < 0 || t >= p.classes) {
        if (bad != nullptr) atomicMin(bad, static_cast<long long>(at));
        continue;
      }
      const Count now = static_cast<Count>(t * p.classes + found.label[r][k]);
      if (now != pair && run > 0) {
        table.add(pair, run, counts);
        run = 0;
      }
      pair = now;
      ++run;
    }
  }
  if (run > 0) table.add(pair, run, counts);
  __syncthreads();
  table.flush(counts);
}

} // namespace

void forward(DType dtype, LabelType target_type, const void* logits, const void* target,
             std::int64_t ignore_index, std::int64_t* counts, std::int64_t* bad, const Shape& s,
             std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const LogitTiles<Storage> p =
        logit_tiles("upsample_confusion_matrix", static_cast<const Storage*>(logits), s);
    launch("upsample_confusion_matrix", upsample_confusion_matrix_fwd_kernel<Storage>,
           s.batch * p.block_rows * p.block_columns, kTileThreads, 0, stream, p,
           Target{target, target_type, ignore_index}, reinterpret_cast<Count*>(counts),
           reinterpret_cast<long long*>(bad));
  });
}

} // namespace fastseg::upsample_confusion_matrix::cuda
