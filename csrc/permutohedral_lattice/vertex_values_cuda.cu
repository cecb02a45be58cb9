// Splat and blur on a CUDA device, without atomics.
//
// The splat is a sum over the entries of each vertex, which are sorted. They are cut into tiles of
// equal length, wherever vertices begin and end: an even load, and as many threads as entries ask
// for. A run of entries that lies inside its tile is the vertex's value. Of one that crosses into
// other tiles each tile keeps its part, and the parts are then added in order; where a vertex has
// very many (a uniform image), those of 32 tiles at a time first. The order of every sum is fixed
// by the lattice alone.
#include "permutohedral_lattice/vertex_values_cuda.h"

#include <cmath>

#include "common/cuda_vector.h"

namespace fastseg::permutohedral_lattice::cuda {
namespace {

constexpr int kThreads = kPlaceThreads;
constexpr std::int64_t kTile = 32;  // entries
constexpr std::int64_t kGroup = 32; // tiles

template <class T> struct Rows {
  std::int64_t replicas, stride, lanes;
  std::int64_t pixels; // of the lattice, all images
  std::int64_t entries, tiles, groups;
  std::int64_t capacity; // vertices
  const std::int32_t* count;
  const std::int32_t *entry_rows, *entry_pixels, *ranges;
  const T* entry_weights;
  const T* values; // [replicas, pixels, stride]
  T* table;        // [replicas, capacity + 1, stride]
  T* parts;        // [replicas, tiles, 2, stride]: of the run that came from before, that goes on
  T* sums;         // [replicas, groups, stride]: of the parts that came from before

  FASTSEG_DEVICE T* part(std::int64_t replica, std::int64_t tile, int which) const {
    return parts + ((replica * tiles + tile) * 2 + which) * stride;
  }
  FASTSEG_DEVICE T* row(std::int64_t replica, std::int64_t r) const {
    return table + (replica * (capacity + 1) + r) * stride;
  }
};

template <int kItems, class T> FASTSEG_DEVICE void add(T (&sum)[kItems], const T* p) {
  const Items<T, kItems> v = load_items<kItems>(p);
#pragma unroll
  for (int k = 0; k < kItems; ++k) sum[k] += v.v[k];
}

template <class T, int kItems>
__global__ void __launch_bounds__(kThreads)
    permutohedral_filter_fwd_bwd_splat_kernel(const Rows<T> p) {
  const Place at = place<kItems>(p.replicas, p.tiles, p.lanes);
  if (at.offset < 0) return;
  const std::int64_t first = at.index * kTile, end = min(first + kTile, p.entries);
  const T* values = p.values + at.replica * p.pixels * p.stride + at.offset;
  std::int32_t row = p.entry_rows[first];
  bool from_before = first > 0 && p.entry_rows[first - 1] == row;
  T sum[kItems] = {};
  constexpr int kAhead = 4; // entries whose loads are under way
#pragma unroll 1
  for (std::int64_t e = first; e < end; e += kAhead) {
    std::int32_t rows[kAhead];
    T weights[kAhead];
    Items<T, kItems> v[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (e + k >= end) continue;
      rows[k] = p.entry_rows[e + k];
      weights[k] = p.entry_weights[e + k];
      v[k] = load_items<kItems>(values + p.entry_pixels[e + k] * p.stride);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (e + k >= end) continue;
      if (rows[k] != row) {
        T* out = from_before ? p.part(at.replica, at.index, 0) : p.row(at.replica, row);
        store_items<kItems>(out + at.offset, sum);
        from_before = false;
        row = rows[k];
#pragma unroll
        for (int i = 0; i < kItems; ++i) sum[i] = 0;
      }
#pragma unroll
      for (int i = 0; i < kItems; ++i) sum[i] += weights[k] * v[k].v[i];
    }
  }
  const bool goes_on = end < p.entries && p.entry_rows[end] == row;
  T* out = from_before ? p.part(at.replica, at.index, 0)
           : goes_on   ? p.part(at.replica, at.index, 1)
                       : p.row(at.replica, row);
  store_items<kItems>(out + at.offset, sum);
}

// Sums the parts of a group of tiles that are all of one vertex; of others nothing is asked.
template <class T, int kItems>
__global__ void __launch_bounds__(kThreads)
    permutohedral_filter_fwd_bwd_group_kernel(const Rows<T> p) {
  const Place at = place<kItems>(p.replicas, p.groups, p.lanes);
  if (at.offset < 0 || at.index == 0) return;
  const std::int64_t first = at.index * kGroup, last = first + kGroup - 1;
  if (last >= p.tiles || p.entry_rows[first * kTile - 1] != p.entry_rows[last * kTile]) return;
  T sum[kItems] = {};
#pragma unroll 4
  for (std::int64_t t = first; t <= last; ++t) add(sum, p.part(at.replica, t, 0) + at.offset);
  store_items<kItems>(p.sums + (at.replica * p.groups + at.index) * p.stride + at.offset, sum);
}

// The rows that no tile has: vertices of several tiles, of no entry, and row 0.
template <class T, int kItems>
__global__ void __launch_bounds__(kThreads)
    permutohedral_filter_fwd_bwd_merge_kernel(const Rows<T> p) {
  const Place at = place<kItems>(p.replicas, p.capacity + 1, p.lanes);
  if (at.offset < 0 || at.index > *p.count) return;
  const std::int64_t first = p.ranges[2 * at.index], end = p.ranges[2 * at.index + 1];
  T sum[kItems] = {};
  if (first < end) {
    std::int64_t tile = first / kTile;
    const std::int64_t last = (end - 1) / kTile;
    if (tile == last) return;
    add(sum, p.part(at.replica, tile, 1) + at.offset);
    for (++tile; tile <= last;) {
      const bool whole = tile % kGroup == 0 && tile + kGroup - 1 <= last;
      add(sum, whole ? p.sums + (at.replica * p.groups + tile / kGroup) * p.stride + at.offset
                     : p.part(at.replica, tile, 0) + at.offset);
      tile += whole ? kGroup : 1;
    }
  }
  store_items<kItems>(p.row(at.replica, at.index) + at.offset, sum);
}

template <class T> struct Blur {
  std::int64_t replicas, stride, lanes, capacity;
  const std::int32_t* count;
  const std::int32_t* links; // [capacity, 2]: of one axis
  const T* in;
  T* out;
  T scale;
};

// out = (row + (lower neighbour + upper neighbour) / 2) * scale.
template <class T, int kItems>
__global__ void __launch_bounds__(kThreads)
    permutohedral_filter_fwd_bwd_blur_kernel(const Blur<T> p) {
  const Place at = place<kItems>(p.replicas, p.capacity + 1, p.lanes);
  if (at.offset < 0 || at.index > *p.count) return;
  const std::int64_t base = at.replica * (p.capacity + 1) * p.stride + at.offset;
  T result[kItems] = {};
  if (at.index > 0) { // row 0 stays zero
    const std::int32_t* links = p.links + 2 * (at.index - 1);
    const T* in = p.in + base;
    const auto here = load_items<kItems>(in + at.index * p.stride);
    const auto lower = load_items<kItems>(in + links[0] * p.stride);
    const auto upper = load_items<kItems>(in + links[1] * p.stride);
#pragma unroll
    for (int k = 0; k < kItems; ++k)
      result[k] = (here.v[k] + (lower.v[k] + upper.v[k]) * T(0.5)) * p.scale;
  }
  store_items<kItems>(p.out + base + at.index * p.stride, result);
}

std::int64_t tiles_of(const Shape& shape) { return ceil_div(shape.corners(), kTile); }

} // namespace

std::int64_t splat_values(const Shape& shape, const RowLayout& layout) {
  const std::int64_t tiles = tiles_of(shape);
  return layout.replicas * (2 * tiles + ceil_div(tiles, kGroup)) * layout.stride;
}

void* spread(const DeviceLattice& lattice, const RowLayout& layout, const void* pixels,
             bool transpose, void* table, void* other, void* splat, std::uintptr_t stream) {
  const Shape& shape = lattice.shape;
  const std::int64_t lanes = layout.lanes(), tiles = tiles_of(shape);
  const auto blocks = [&](std::int64_t things) {
    return ceil_div(layout.replicas * things * lanes, kThreads);
  };
  dispatch_rows(shape.dtype, layout, [&](auto tag, auto items) {
    using T = typename decltype(tag)::type;
    constexpr int kItems = items();
    Rows<T> p{layout.replicas,
              layout.stride,
              lanes,
              shape.batch * shape.pixels,
              shape.corners(),
              tiles,
              ceil_div(tiles, kGroup),
              lattice.capacity,
              lattice.count,
              lattice.entry_rows,
              lattice.entry_pixels,
              lattice.ranges,
              static_cast<const T*>(lattice.entry_weights),
              static_cast<const T*>(pixels),
              static_cast<T*>(table),
              static_cast<T*>(splat),
              nullptr};
    p.sums = p.parts + layout.replicas * tiles * 2 * layout.stride;
    launch("permutohedral lattice, splat", permutohedral_filter_fwd_bwd_splat_kernel<T, kItems>,
           blocks(tiles), kThreads, 0, stream, p);
    launch("permutohedral lattice, splat of groups",
           permutohedral_filter_fwd_bwd_group_kernel<T, kItems>, blocks(p.groups), kThreads, 0,
           stream, p);
    launch("permutohedral lattice, splat of vertices",
           permutohedral_filter_fwd_bwd_merge_kernel<T, kItems>, blocks(lattice.capacity + 1),
           kThreads, 0, stream, p);
    for (int i = 0; i <= shape.features; ++i) {
      const int axis = transpose ? shape.features - i : i;
      const T alpha = T(1) / (T(1) + std::ldexp(T(1), -shape.features));
      const Blur<T> blur{layout.replicas,
                         layout.stride,
                         lanes,
                         lattice.capacity,
                         lattice.count,
                         lattice.neighbours + 2 * axis * lattice.capacity,
                         static_cast<const T*>(table),
                         static_cast<T*>(other),
                         i == shape.features ? alpha : T(1)};
      launch("permutohedral lattice, blur", permutohedral_filter_fwd_bwd_blur_kernel<T, kItems>,
             blocks(lattice.capacity + 1), kThreads, 0, stream, blur);
      std::swap(table, other);
    }
  });
  return table;
}

} // namespace fastseg::permutohedral_lattice::cuda
