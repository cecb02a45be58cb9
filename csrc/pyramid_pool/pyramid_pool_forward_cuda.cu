// Forward of the CUDA twin (see pyramid_pool_cuda.h): pixels to sums of atoms in the workspace
// [image, row segment, column segment, inner], those to cells. Every sum has one order.
#include "pyramid_pool/pyramid_pool_cuda.h"

namespace fastseg::pyramid_pool::cuda {
namespace {

constexpr int kRowsAtOnce = 8;  // loads that a thread has under way, at 16 bytes
constexpr int kTileRows = 4;    // the same for single values, times kTileItems
constexpr int kAtomsAtOnce = 8; // the same for sums of atoms

template <class T, int n> FASTSEG_DEVICE T tree_sum(const T (&v)[n]) {
  T sums[n];
#pragma unroll
  for (int k = 0; k < n; ++k) sums[k] = v[k];
#pragma unroll
  for (int step = 1; step < n; step *= 2)
#pragma unroll
    for (int k = 0; k + step < n; k += 2 * step) sums[k] += sums[k + step];
  return sums[0];
}

// NHWC, channels a multiple of 16 bytes. A thread sums an atom for its channels.
template <class Storage>
__global__ void __launch_bounds__(kThreads, 2)
    pyramid_pool_fwd_packs_kernel(const Plan p, const Storage* x,
                                  compute_t<Storage>* __restrict__ atoms) {
  using T = compute_t<Storage>;
  constexpr int kItems = kPack<Storage>;
  const std::int64_t index = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const Division pack = divide(index, p.inner / kItems);
  const Division column = divide(pack.quotient, p.columns.count);
  const Division row = divide(column.quotient, p.rows.count);
  const bool inside = row.quotient < p.images;
  const int r = static_cast<int>(row.remainder), s = static_cast<int>(column.remainder);
  const int y1 = inside ? p.rows.edge[r + 1] : 0, x0 = p.columns.edge[s],
            x1 = p.columns.edge[s + 1];
  const std::int64_t row_step = p.width * p.inner;
  T sums[kItems] = {};
  for (int y = p.rows.edge[r]; y < y1; y += kRowsAtOnce) {
    const Storage* pixel =
        x + (row.quotient * p.height + y) * row_step + x0 * p.inner + pack.remainder * kItems;
    for (int column_x = x0; column_x < x1; ++column_x, pixel += p.inner) {
      RawItems<Storage, kItems> packs[kRowsAtOnce] = {};
#pragma unroll
      for (int k = 0; k < kRowsAtOnce; ++k)
        if (y + k < y1) packs[k].read(pixel + k * row_step);
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        T values[kRowsAtOnce];
#pragma unroll
        for (int k = 0; k < kRowsAtOnce; ++k) values[k] = packs[k].value(i);
        sums[i] += tree_sum(values);
      }
    }
  }
  // Atoms lie as threads do.
  constexpr int kHalf = 16 / static_cast<int>(sizeof(T));
  if constexpr (kItems == kHalf) {
    if (inside) store_items<kItems>(atoms + index * kItems, sums);
  } else { // sums of two threads are two sectors: each is written by both, a half each
    static_assert(kItems == 2 * kHalf);
    const bool odd = threadIdx.x % 2 != 0;
    T first[kHalf], second[kHalf]; // of the even thread's sums and of the odd one's
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const T other = __shfl_xor_sync(0xffffffffu, odd ? sums[i] : sums[kHalf + i], 1);
      first[i] = odd ? other : sums[i];
      second[i] = odd ? sums[kHalf + i] : other;
    }
    T* pair = atoms + (index - odd) * kItems + odd * kHalf;
    const std::int64_t all = p.images * p.rows.count * p.columns.count * (p.inner / kItems);
    if (index - odd < all) store_items<kHalf>(pair, first);
    if (index - odd + 1 < all) store_items<kHalf>(pair + kItems, second);
  }
}

// Any layout and alignment. Threads sum columns downwards, then column segments.
template <class Storage>
__global__ void __launch_bounds__(kThreads)
    pyramid_pool_fwd_tiles_kernel(const Plan p, const Tiles t, const Storage* x,
                                  compute_t<Storage>* __restrict__ atoms) {
  using T = compute_t<Storage>;
  FASTSEG_SHARED(lines, T[kTileCapacity]);
  const Tile tile = tile_at(p, t, blockIdx.x);
  const int y0 = p.rows.edge[tile.row_segment], y1 = p.rows.edge[tile.row_segment + 1];
  const std::int64_t row_step = p.width * p.inner;
  const Storage* source[kTileItems];
  T sums[kTileItems] = {};
#pragma unroll
  for (int k = 0; k < kTileItems; ++k) {
    const TileItem item(t, threadIdx.x + k * kThreads);
    source[k] = nullptr;
    if (item.inside(tile))
      source[k] = x + ((tile.image + item.image) * p.height + y0) * row_step +
                  (tile.column + item.column) * p.inner + tile.lane + item.lane;
  }
  for (int y = y0; y < y1; y += kTileRows)
#pragma unroll
    for (int k = 0; k < kTileItems; ++k) {
      if (source[k] == nullptr) continue;
      T values[kTileRows];
#pragma unroll
      for (int j = 0; j < kTileRows; ++j)
        values[j] = y + j < y1 ? to_compute(load(source[k] + j * row_step)) : T(0);
      sums[k] += tree_sum(values);
      source[k] += kTileRows * row_step;
    }
#pragma unroll
  for (int k = 0; k < kTileItems; ++k) lines[threadIdx.x + k * kThreads] = sums[k];
  __syncthreads();
  for (int i = threadIdx.x; i < tile.images * tile.segments * t.lanes; i += kThreads) {
    const int lane = i % t.lanes;
    const int s = tile.segment + i / t.lanes % tile.segments;
    const int image = i / t.lanes / tile.segments;
    if (lane >= tile.lanes) continue;
    const T* line = lines + image * t.columns * t.lanes + lane;
    T four[4] = {}; // chains, for speed and for shorter sums
    const int begin = p.columns.edge[s] - tile.column, end = p.columns.edge[s + 1] - tile.column;
    for (int c = begin; c < end; c += 4)
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (c + k < end) four[k] += line[(c + k) * t.lanes];
    const std::int64_t row = (tile.image + image) * p.rows.count + tile.row_segment;
    atoms[(row * p.columns.count + s) * p.inner + tile.lane + lane] = tree_sum(four);
  }
}

FASTSEG_DEVICE int segment_at(const Segments& s, int pixel) {
  int low = 0, high = s.count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (s.edge[middle] < pixel)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// out [image, cell, inner], one value per thread.
template <class Storage>
__global__ void __launch_bounds__(kThreads)
    pyramid_pool_fwd_cells_kernel(const Plan p, const Grids grids, std::int64_t cells,
                                  const compute_t<Storage>* __restrict__ atoms, Storage* out) {
  using T = compute_t<Storage>;
  const std::int64_t index = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const Division lane = divide(index, p.inner);
  const Division image = divide(lane.quotient, cells);
  if (image.quotient >= p.images) return;
  int cell = static_cast<int>(image.remainder), grid = 0;
  while (cell >= grids.bins[grid] * grids.bins[grid]) {
    cell -= grids.bins[grid] * grids.bins[grid];
    ++grid;
  }
  const int b = grids.bins[grid], i = cell / b, j = cell % b;
  const int y0 = window_begin(i, p.height, b), y1 = window_end(i, p.height, b);
  const int x0 = window_begin(j, p.width, b), x1 = window_end(j, p.width, b);
  const int r0 = segment_at(p.rows, y0), r1 = segment_at(p.rows, y1);
  const int s0 = segment_at(p.columns, x0), s1 = segment_at(p.columns, x1);
  const T* atom = atoms + ((image.quotient * p.rows.count + r0) * p.columns.count + s0) * p.inner +
                  lane.remainder;
  const std::int64_t next_row = (p.columns.count - (s1 - s0)) * p.inner;
  T sum = 0;
  int s = s0;
  for (int left = (r1 - r0) * (s1 - s0); left > 0; left -= kAtomsAtOnce) {
    T values[kAtomsAtOnce] = {};
#pragma unroll
    for (int k = 0; k < kAtomsAtOnce; ++k) {
      if (k >= left) continue;
      values[k] = load(atom);
      atom += p.inner;
      if (++s == s1) {
        s = s0;
        atom += next_row;
      }
    }
    sum += tree_sum(values);
  }
  from_compute(sum / static_cast<T>((y1 - y0) * std::int64_t(x1 - x0)), out[index]);
}

template <class Storage>
void forward_typed(const Storage* x, Storage* out, compute_t<Storage>* atoms, const Shape& s,
                   const Bins& bins, std::uintptr_t stream) {
  const std::int64_t items = items_of<Storage>(s, x);
  const Plan p = plan(s, bins, items);
  if (items > 1) {
    const std::int64_t threads = p.images * p.rows.count * p.columns.count * (p.inner / items);
    launch("pyramid_pool forward, atoms", pyramid_pool_fwd_packs_kernel<Storage>,
           ceil_div(threads, kThreads), kThreads, 0, stream, p, x, atoms);
  } else {
    const Tiles t = tiles(p);
    launch("pyramid_pool forward, atoms", pyramid_pool_fwd_tiles_kernel<Storage>,
           t.image_tiles * t.lane_tiles * t.column_tiles * p.rows.count, kThreads, 0, stream, p, t,
           x, atoms);
  }
  std::int64_t cells = 0;
  for (std::int64_t k = 0; k < bins.count; ++k) cells += bins.sizes[k] * bins.sizes[k];
  launch("pyramid_pool forward, cells", pyramid_pool_fwd_cells_kernel<Storage>,
         ceil_div(p.images * cells * p.inner, kThreads), kThreads, 0, stream, p, grids(bins), cells,
         static_cast<const compute_t<Storage>*>(atoms), out);
}

} // namespace

std::int64_t workspace_bytes(DType dtype, const Shape& s, const Bins& bins) {
  std::int64_t bytes = 0;
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    // Which path runs also depends on an address: room for either.
    for (const std::int64_t items : {std::int64_t{1}, items_of<Storage>(s, nullptr)}) {
      const Plan p = plan(s, bins, items);
      const std::int64_t atoms = p.images * p.rows.count * p.columns.count * p.inner;
      bytes = std::max<std::int64_t>(bytes, atoms * sizeof(compute_t<Storage>));
    }
  });
  return bytes;
}

void forward(DType dtype, const void* x, void* out, void* workspace, const Shape& s,
             const Bins& bins, std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    forward_typed(static_cast<const Storage*>(x), static_cast<Storage*>(out),
                  static_cast<compute_t<Storage>*>(workspace), s, bins, stream);
  });
}

} // namespace fastseg::pyramid_pool::cuda
