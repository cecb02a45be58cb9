// Backward of the CUDA twin (see pyramid_pool_cuda.h): a pixel's gradient is the sum over the cells
// that cover it, the same for all pixels of an atom. It is worked out once and written everywhere.
#include "pyramid_pool/pyramid_pool_cuda.h"

namespace fastseg::pyramid_pool::cuda {
namespace {

// The gradient of a pixel, for kItems neighbouring values of inner.
template <int kItems, class Storage>
FASTSEG_DEVICE void pixel_gradient(const Plan& p, const Grids& grids, const Storage* grad_out,
                                   int y, int x, compute_t<Storage> (&sum)[kItems]) {
  using T = compute_t<Storage>;
#pragma unroll
  for (int k = 0; k < kItems; ++k) sum[k] = 0;
  for (int grid = 0; grid < grids.count; ++grid) {
    const int b = grids.bins[grid];
    const int i1 = cells_end(y, p.height, b);
    const int j0 = cells_begin(x, p.width, b), j1 = cells_end(x, p.width, b);
    for (int i = cells_begin(y, p.height, b); i < i1; ++i) {
      const int rows = window_end(i, p.height, b) - window_begin(i, p.height, b);
      for (int j = j0; j < j1; ++j) {
        const int columns = window_end(j, p.width, b) - window_begin(j, p.width, b);
        const T area = static_cast<T>(std::int64_t(rows) * columns);
        const Items<Storage, kItems> cell = load_items<kItems>(grad_out + (i * b + j) * p.inner);
#pragma unroll
        for (int k = 0; k < kItems; ++k) sum[k] += to_compute(cell.v[k]) / area;
      }
    }
    grad_out += b * b * p.inner;
  }
}

// NHWC, channels a multiple of 16 bytes. A thread writes an atom for its channels.
template <class Storage>
__global__ void __launch_bounds__(kThreads, 3)
    pyramid_pool_bwd_packs_kernel(const Plan p, const Grids grids, std::int64_t cells,
                                  const Storage* grad_out, Storage* grad_x) {
  constexpr int kItems = kPack<Storage>;
  const std::int64_t index = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const Division pack = divide(index, p.inner / kItems);
  const Division column = divide(pack.quotient, p.columns.count);
  const Division row = divide(column.quotient, p.rows.count);
  if (row.quotient >= p.images) return;
  const int r = static_cast<int>(row.remainder), s = static_cast<int>(column.remainder);
  const int y0 = p.rows.edge[r], y1 = p.rows.edge[r + 1];
  const int x0 = p.columns.edge[s], x1 = p.columns.edge[s + 1];
  const std::int64_t lane = pack.remainder * kItems;
  compute_t<Storage> sum[kItems];
  pixel_gradient(p, grids, grad_out + row.quotient * cells * p.inner + lane, y0, x0, sum);
  Pack<Storage> value;
#pragma unroll
  for (int k = 0; k < kItems; ++k) from_compute(sum[k], value.v[k]);
  for (int y = y0; y < y1; ++y) {
    Storage* pixel = grad_x + ((row.quotient * p.height + y) * p.width + x0) * p.inner + lane;
    for (int x = x0; x < x1; ++x, pixel += p.inner) store_items<kPack<Storage>>(pixel, value);
  }
}

// Any layout and alignment. A block works out its atoms, then writes its rows.
template <class Storage>
__global__ void __launch_bounds__(kThreads, 3)
    pyramid_pool_bwd_tiles_kernel(const Plan p, const Grids grids, std::int64_t cells,
                                  const Tiles t, const Storage* grad_out, Storage* grad_x) {
  using T = compute_t<Storage>;
  FASTSEG_SHARED(atoms, T[kTileCapacity]);          // [image, segment, lane]
  FASTSEG_SHARED(segment_of, short[kTileCapacity]); // of a column of the tile
  const Tile tile = tile_at(p, t, blockIdx.x);
  const int y0 = p.rows.edge[tile.row_segment], y1 = p.rows.edge[tile.row_segment + 1];
  for (int s = threadIdx.x; s < tile.segments; s += kThreads)
    for (int c = p.columns.edge[tile.segment + s]; c < p.columns.edge[tile.segment + s + 1]; ++c)
      segment_of[c - tile.column] = static_cast<short>(s);
  for (int i = threadIdx.x; i < tile.images * t.segments * t.lanes; i += kThreads) {
    const int lane = i % t.lanes, s = i / t.lanes % t.segments;
    const std::int64_t image = tile.image + i / t.lanes / t.segments;
    if (lane >= tile.lanes || s >= tile.segments) continue;
    T sum[1];
    pixel_gradient(p, grids, grad_out + image * cells * p.inner + tile.lane + lane, y0,
                   p.columns.edge[tile.segment + s], sum);
    atoms[i] = sum[0];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kTileItems; ++k) {
    const TileItem item(t, threadIdx.x + k * kThreads);
    if (!item.inside(tile)) continue;
    const int s = segment_of[item.column];
    Storage value;
    from_compute(atoms[(item.image * t.segments + s) * t.lanes + item.lane], value);
    const std::int64_t row_step = p.width * p.inner;
    Storage* pixel = grad_x + ((tile.image + item.image) * p.height + y0) * row_step +
                     (tile.column + item.column) * p.inner + tile.lane + item.lane;
    for (int y = y0; y < y1; ++y, pixel += row_step) *pixel = value;
  }
}

template <class Storage>
void backward_typed(const Storage* grad_out, Storage* grad_x, const Shape& s, const Bins& bins,
                    std::uintptr_t stream) {
  std::int64_t cells = 0;
  for (std::int64_t k = 0; k < bins.count; ++k) cells += bins.sizes[k] * bins.sizes[k];
  const std::int64_t items = is_aligned_16(grad_out) ? items_of<Storage>(s, grad_x) : 1;
  const Plan p = plan(s, bins, items);
  if (items > 1) {
    const std::int64_t threads = p.images * p.rows.count * p.columns.count * (p.inner / items);
    launch("pyramid_pool backward", pyramid_pool_bwd_packs_kernel<Storage>,
           ceil_div(threads, kThreads), kThreads, 0, stream, p, grids(bins), cells, grad_out,
           grad_x);
    return;
  }
  const Tiles t = tiles(p);
  launch("pyramid_pool backward", pyramid_pool_bwd_tiles_kernel<Storage>,
         t.image_tiles * t.lane_tiles * t.column_tiles * p.rows.count, kThreads, 0, stream, p,
         grids(bins), cells, t, grad_out, grad_x);
}

} // namespace

void backward(DType dtype, const void* grad_out, void* grad_x, const Shape& s, const Bins& bins,
              std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    backward_typed(static_cast<const Storage*>(grad_out), static_cast<Storage*>(grad_x), s, bins,
                   stream);
  });
}

} // namespace fastseg::pyramid_pool::cuda
