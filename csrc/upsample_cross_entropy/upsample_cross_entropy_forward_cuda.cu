// Forward of the CUDA twin (see upsample_cross_entropy_cuda.h): the loss, and for the backward one
// number per pixel.
#include "upsample_cross_entropy/upsample_cross_entropy.h"

#include "upsample_cross_entropy/upsample_cross_entropy_cuda.h"

namespace fastseg::upsample_cross_entropy::cuda {
namespace {

template <class Storage> struct Forward {
  using T = compute_t<Storage>;
  LogitTiles<Storage> tiles;
  Loss<T> loss;
  T* sums;
  T* pixel_loss;
  double* partials; // [block][2]: losses, weights
  long long* bad;
};

// The pixels of a thread.
template <class T> struct Pixels {
  T sum[kPiece][kPiece]; // of 2^z
  T own[kPiece][kPiece]; // z of the target's class
  int label[kPiece][kPiece];
};

template <class Visit> FASTSEG_DEVICE void for_each_pixel(const Visit& visit) {
#pragma unroll
  for (int r = 0; r < kPiece; ++r)
#pragma unroll
    for (int k = 0; k < kPiece; ++k) visit(r, k);
}

template <bool kBounded, bool kTarget, class T>
FASTSEG_DEVICE void add_class(const T* cells, const Tile<T>& tile, int c, Pixels<T>& pixels) {
  visit_pixels<kBounded>(
      cells, tile,
      [&](int r, int k, T z) {
        pixels.sum[r][k] += exp2_fast(z);
        if constexpr (kTarget) pixels.own[r][k] = pixels.label[r][k] == c ? z : pixels.own[r][k];
      },
      [](int) {});
}

// Calls visit(r, k, z, c) for all classes of a thread's pixels, z from cells as `map` shows them.
template <class Storage, class Map, class Visit>
FASTSEG_DEVICE void visit_classes(BlockTiles<Storage>& block, const Tile<compute_t<Storage>>& tile,
                                  const Map& map, const Visit& visit) {
  using T = compute_t<Storage>;
  const int classes = static_cast<int>(block.p.classes);
  for (int first = 0; first < classes; first += kChunk<T>) {
    block.stage(first, map);
#pragma unroll 1
    for (int c = first; c < min(first + kChunk<T>, classes); ++c)
      visit_pixels<false>(
          block.memory.cells + (c - first) * kCellPitch, tile,
          [&](int r, int k, T z) { visit(r, k, z, c); }, [](int) {});
    __syncthreads(); // the cells are free
  }
}

template <class T> FASTSEG_DEVICE bool is_small(T sum) { return !(sum >= kSmallestSum<T>); }

// The sums that are too small, again: relative to the largest z of their pixel, and negative (see
// `sums`). `shift` gets that largest z for them, 0 for the others; it and `own` are now logits, not
// times log2 e: the rounding of large ones would be the largest error of the loss. All threads of
// the block.
template <class Storage, class T>
FASTSEG_DEVICE void sum_with_maximum(BlockTiles<Storage>& block, const T* maxima,
                                     const Tile<T>& tile, Pixels<T>& pixels,
                                     T (&shift)[kPiece][kPiece]) {
  const auto begin_maximum = [&] {
    for_each_pixel([&](int r, int k) { shift[r][k] = T(-INFINITY); });
  };
  const auto find_maximum = [&](int r, int k, T z) {
    shift[r][k] = z > shift[r][k] ? z : shift[r][k];
  };
  const Shifted<T> scaled{maxima};
  begin_maximum();
  visit_classes(block, tile, scaled, [&](int r, int k, T z, int) { find_maximum(r, k, z); });
  for_each_pixel([&](int r, int k) {
    if (is_small(pixels.sum[r][k])) pixels.sum[r][k] = 0;
  });
  visit_classes(block, tile, scaled, [&](int r, int k, T z, int) {
    if (is_small(pixels.sum[r][k])) pixels.sum[r][k] -= exp2_fast(z - shift[r][k]);
  });
  begin_maximum();
  visit_classes(
      block, tile, [&](T logit, int cell) { return logit - maxima[cell]; },
      [&](int r, int k, T z, int c) {
        find_maximum(r, k, z);
        if (pixels.label[r][k] == c) pixels.own[r][k] = z;
      });
  for_each_pixel([&](int r, int k) {
    if (!is_small(pixels.sum[r][k])) shift[r][k] = 0;
  });
}

// Sum over the block in a fixed order; of thread 0.
FASTSEG_DEVICE double block_sum(double value, double* shared) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_down_sync(0xffffffffu, value, lanes);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0.0;
  for (int i = 0; i < kTileThreads / 32; ++i) sum += shared[i];
  return sum;
}

template <class Storage>
__global__ void __launch_bounds__(kTileThreads, sizeof(compute_t<Storage>) == 8 ? 1 : 2)
    upsample_cross_entropy_fwd_kernel(const Forward<Storage> p) {
  using T = compute_t<Storage>;
  FASTSEG_SHARED(memory, TileMemory<T>);
  FASTSEG_SHARED(maxima, T[kMostCells]);
  FASTSEG_SHARED(weighted, T[kMostCells]);
  FASTSEG_SHARED(reduced, double[kTileThreads / 32]);
  BlockTiles<Storage> block(p.tiles, memory, tile_place(p.tiles));
  find_maxima(block, maxima);
  const std::int64_t height = p.tiles.rows.resize.out, width = p.tiles.columns.resize.out;
  const auto pixel_at = [&](int r, int k) {
    return (memory.place.image * height + block.row().first + r) * width + block.column().first + k;
  };
  const auto is_inside = [&](int r, int k) {
    return block.has_tile() && r < block.row().count && k < block.column().count;
  };

  const int classes = static_cast<int>(p.tiles.classes);
  const Tile<T> tile(block.row(), block.column());
  Pixels<T> pixels;
  unsigned present = 0;
  for_each_pixel([&](int r, int k) {
    pixels.sum[r][k] = pixels.own[r][k] = 0;
    pixels.label[r][k] = is_inside(r, k) ? p.loss.label(pixel_at(r, k)) : -1;
    present |= class_bit(pixels.label[r][k]);
  });

  // Smoothing: the weighted sums of the classes' z are linear, so they are taken at the cells.
  const auto weigh = [&](int first) {
    const int cells = memory.place.rows.cells * memory.place.columns.cells;
    for (int i = threadIdx.x; i < cells; i += kTileThreads) {
      T sum = first == 0 ? T(0) : weighted[i];
      for (int c = first; c < min(first + kChunk<T>, classes); ++c)
        sum += p.loss.weight(c) * memory.cells[(c - first) * kCellPitch + i];
      weighted[i] = sum;
    }
  };

  for (int first = 0; first < classes; first += kChunk<T>) {
    const bool odd = block.stage(first, Shifted<T>{maxima});
    for (int k = 0; k < min(kChunk<T>, classes - first); ++k) {
      const T* cells = memory.cells + k * kCellPitch;
      const int c = first + k;
      if (odd)
        add_class<false, true>(cells, tile, c, pixels);
      else if (__any_sync(0xffffffffu, (present & class_bit(c)) != 0))
        add_class<true, true>(cells, tile, c, pixels);
      else
        add_class<true, false>(cells, tile, c, pixels);
    }
    if (p.loss.smoothing > T(0)) weigh(first);
    __syncthreads(); // the cells are free
  }

  bool unsafe = false;
  for_each_pixel([&](int r, int k) {
    unsafe = unsafe || (pixels.label[r][k] >= 0 && is_small(pixels.sum[r][k]));
  });
  T shift[kPiece][kPiece] = {};
  const bool again = __syncthreads_or(unsafe) != 0;
  if (again) sum_with_maximum(block, maxima, tile, pixels, shift);

  double losses = 0.0, weights = 0.0;
  const T weight_sum = p.loss.smoothing > T(0) ? p.loss.weight_sum() : T(0);
  for_each_pixel([&](int r, int k) {
    // Registers for 16 more labels are not there in float64: they are read again.
    const bool read = sizeof(T) == 8 && is_inside(r, k);
    const int label = read ? p.loss.label(pixel_at(r, k)) : pixels.label[r][k];
    T loss = label == -2 ? T(NAN) : T(0), saved = 1;
    if (label >= 0) {
      const T log_sum = log2(pixels.sum[r][k] < T(0) ? -pixels.sum[r][k] : pixels.sum[r][k]),
              weight = p.loss.weight(label), own = pixels.own[r][k];
      const T normaliser = log_sum * kLn2<T> + shift[r][k];
      loss = (again ? log_sum * kLn2<T> + (shift[r][k] - own) : (log_sum - own) * kLn2<T>)*weight;
      if (p.loss.smoothing > T(0)) {
        const auto along = [&](int cell) {
          return blend<false>(weighted[cell], weighted[cell + tile.right], tile.wx[k]);
        };
        const T every =
            blend<false>(along(tile.corner), along(tile.corner + tile.down), tile.wy[r]) * kLn2<T>;
        loss = loss * (T(1) - p.loss.smoothing) + (normaliser * weight_sum - every) * p.loss.each;
      }
      weights += weight;
      saved = pixels.sum[r][k];
    }
    losses += loss;
    if (label == -2 && p.bad != nullptr) atomicMin(p.bad, static_cast<long long>(pixel_at(r, k)));
    pixels.sum[r][k] = saved;
    pixels.own[r][k] = loss;
  });
  if (p.sums != nullptr)
    store_pixels(block, p.sums, [&](int r, int k) { return pixels.sum[r][k]; });
  if (p.pixel_loss != nullptr)
    store_pixels(block, p.pixel_loss, [&](int r, int k) { return pixels.own[r][k]; });
  losses = block_sum(losses, reduced);
  weights = block_sum(weights, reduced);
  if (threadIdx.x == 0) {
    p.partials[2 * static_cast<std::int64_t>(blockIdx.x)] = losses;
    p.partials[2 * static_cast<std::int64_t>(blockIdx.x) + 1] = weights;
  }
}

// The sums of all blocks, by one block in a fixed order.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    upsample_cross_entropy_fwd_total_kernel(const double* partials, std::int64_t blocks, bool mean,
                                            T* loss, double* total_weight) {
  FASTSEG_SHARED(reduced, double[kTileThreads / 32]);
  double losses = 0.0, weights = 0.0;
  for (std::int64_t i = threadIdx.x; i < blocks; i += kTileThreads) {
    losses += partials[2 * i];
    weights += partials[2 * i + 1];
  }
  losses = block_sum(losses, reduced);
  weights = block_sum(weights, reduced);
  if (threadIdx.x != 0) return;
  *loss = static_cast<T>(mean ? losses / weights : losses);
  *total_weight = weights;
}

template <class Storage>
void forward_typed(LabelType target_type, const ForwardArguments& a, const Shape& s,
                   std::uintptr_t stream) {
  using T = compute_t<Storage>;
  Forward<Storage> p{};
  p.tiles = logit_tiles("upsample_cross_entropy", static_cast<const Storage*>(a.logits), s);
  p.loss = loss_of<T>(target_type, a, s);
  p.sums = static_cast<T*>(a.sums);
  p.pixel_loss = static_cast<T*>(a.pixel_loss);
  p.partials = a.partials;
  p.bad = reinterpret_cast<long long*>(a.bad);
  const std::int64_t blocks = s.batch * p.tiles.block_rows * p.tiles.block_columns;
  launch("upsample_cross_entropy", upsample_cross_entropy_fwd_kernel<Storage>, blocks, kTileThreads,
         0, stream, p);
  launch("upsample_cross_entropy total", upsample_cross_entropy_fwd_total_kernel<T>, 1,
         kTileThreads, 0, stream, a.partials, blocks, a.mean, static_cast<T*>(a.loss),
         a.total_weight);
}

} // namespace

std::int64_t partial_sums(const Shape& s) {
  const auto p = logit_tiles<float>("upsample_cross_entropy", nullptr, s);
  return 2 * s.batch * p.block_rows * p.block_columns;
}

void forward(DType dtype, LabelType target_type, const ForwardArguments& a, const Shape& s,
             std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    forward_typed<typename decltype(tag)::type>(target_type, a, s, stream);
  });
}

} // namespace fastseg::upsample_cross_entropy::cuda
