// Construction on a CUDA device.
//
// Deduplication: a slot of the hash table holds the number of a corner, and that names the key,
// which the launch before has stored. A compare-and-swap of this one word both takes a slot and
// says for which key: two threads cannot make the same vertex twice, and keys may be as long as
// they like. Corners of the same key then compete by atomicMin. Whatever the order of the threads
// was, each key ends with its first corner, and vertices are numbered in the order of these, as on
// the CPU.
#include "permutohedral_lattice/permutohedral_lattice_cuda.h"

#include <cmath>

#include "common/cuda_vector.h"
#include "permutohedral_lattice/simplex_cuda.h"

namespace fastseg::permutohedral_lattice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::uint32_t kFree = 0xffffffff; // a slot

FASTSEG_DEVICE std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

template <class T> struct Features {
  const T* values; // [batch, D, pixels]
  std::int64_t batch, pixels, padded_pixels;
  T scales[kMaxPackedFeatures];
  T out_of_range; // the weights of such a pixel
};

// The simplex of pixel p of image n; zero features beyond the last pixel.
template <class T, int D>
FASTSEG_DEVICE Simplex<T, D> simplex_of(const Features<T>& f, std::int64_t n, std::int64_t p) {
  T features[D], scales[D];
#pragma unroll
  for (int i = 0; i < D; ++i) {
    scales[i] = f.scales[i];
    features[i] = p < f.pixels ? load(f.values + (n * D + i) * f.pixels + p) : T(0);
  }
  return find_simplex<T, D>(features, scales);
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads)
    permutohedral_lattice_fwd_locate_kernel(const Features<T> f, std::uint32_t* simplices,
                                            T* weights, std::int32_t* bad) {
  const std::int64_t g = thread_index();
  if (g >= f.batch * f.padded_pixels) return;
  const Division at = divide(g, f.padded_pixels);
  const std::int64_t n = at.quotient, p = at.remainder;
  const Simplex<T, D> s = simplex_of<T, D>(f, n, p);
  PackedSimplex<D> packed{};
#pragma unroll
  for (int i = 0; i < D; ++i) {
    packed.point.set_coordinate(i, s.point[i]);
    packed.ranks |= (static_cast<std::uint32_t>(s.rank[i]) & 15) << (4 * i);
  }
  packed.store(simplices, g);
  if (p >= f.pixels) return;
  const std::int64_t pixel = n * f.pixels + p;
  if (!s.in_range) atomicMin(bad, static_cast<std::int32_t>(pixel));
#pragma unroll
  for (int m = 0; m <= D; ++m)
    weights[pixel * (D + 1) + m] = s.in_range ? s.weights[m] : f.out_of_range;
}

// The hash table over the stored simplices.
struct Table {
  const std::uint32_t* simplices;
  std::uint32_t* slots;
  std::uint32_t mask;
  std::uint32_t padded_pixels; // per image
};

template <int D> struct Vertex {
  Key<D> key;
  std::uint32_t remainder, image;

  FASTSEG_DEVICE static Vertex of_corner(const Table& table, std::uint32_t corner) {
    const std::uint32_t pixel = corner / (D + 1), m = corner % (D + 1);
    return {PackedSimplex<D>::load(table.simplices, pixel).vertex(static_cast<int>(m)), m,
            pixel / table.padded_pixels};
  }
  FASTSEG_DEVICE bool is_of(const Table& table, std::uint32_t corner) const {
    const std::uint32_t pixel = corner / (D + 1);
    return corner % (D + 1) == remainder && pixel / table.padded_pixels == image &&
           PackedSimplex<D>::load(table.simplices, pixel).vertex(static_cast<int>(remainder)) ==
               key;
  }
};

// first[corner] becomes the slot of its vertex.
template <int D>
__global__ void __launch_bounds__(kThreads)
    permutohedral_lattice_fwd_insert_kernel(const Table table, std::int64_t corners,
                                            std::int32_t* first) {
  const std::int64_t index = thread_index();
  if (index >= corners) return;
  const std::uint32_t corner = static_cast<std::uint32_t>(index);
  const auto vertex = Vertex<D>::of_corner(table, corner);
  std::uint32_t slot = vertex.key.hash(vertex.image) & table.mask;
  for (;; slot = (slot + 1) & table.mask) {
    // An old value may still be in the cache: a free slot is asked for again by the swap, and a
    // taken one never changes its key.
    std::uint32_t held = table.slots[slot];
    if (held == kFree) held = atomicCAS(table.slots + slot, kFree, corner);
    if (held == kFree) break;
    if (!vertex.is_of(table, held)) continue;
    if (corner < held) atomicMin(table.slots + slot, corner);
    break;
  }
  first[index] = static_cast<std::int32_t>(slot);
}

__global__ void __launch_bounds__(kThreads)
    permutohedral_lattice_fwd_first_kernel(const std::uint32_t* slots, std::int64_t corners,
                                           std::int32_t* first, std::int32_t* is_first) {
  const std::int64_t corner = thread_index();
  if (corner >= corners) return;
  const std::int32_t held = static_cast<std::int32_t>(slots[first[corner]]);
  first[corner] = held;
  is_first[corner] = held == corner ? 1 : 0;
}

// Padded corners of an image come in, those of its pixels go out.
__global__ void __launch_bounds__(kThreads)
    permutohedral_lattice_fwd_number_kernel(std::int64_t corners, std::int64_t padded,
                                            std::int64_t real, const std::int32_t* first,
                                            const std::int32_t* prefix, std::int32_t* rows,
                                            std::int32_t* vertices) {
  const std::int64_t corner = thread_index();
  if (corner >= corners) return;
  const std::int32_t row = prefix[first[corner]];
  if (first[corner] == corner) vertices[row - 1] = static_cast<std::int32_t>(corner);
  const Division at = divide(corner, padded);
  if (at.remainder < real) rows[at.quotient * real + at.remainder] = row;
}

// A thread finds one neighbour, and makes itself known there.
template <int D>
__global__ void __launch_bounds__(kThreads)
    permutohedral_lattice_fwd_link_kernel(const Table table, const std::int32_t* prefix,
                                          std::int64_t corners, const std::int32_t* vertices,
                                          std::int64_t capacity, std::int32_t* neighbours) {
  const Division at = divide(thread_index(), capacity);
  const std::int64_t axis = at.quotient, v = at.remainder;
  if (axis > D || v >= prefix[corners - 1]) return;
  const auto here = Vertex<D>::of_corner(table, static_cast<std::uint32_t>(vertices[v]));
  Vertex<D> there{{}, (here.remainder + D) % (D + 1), here.image};
#pragma unroll
  for (int i = 0; i < D; ++i)
    there.key.set_coordinate(i, here.key.coordinate(i) + (i == axis ? D : -1));
  std::uint32_t slot = there.key.hash(there.image) & table.mask;
  for (;; slot = (slot + 1) & table.mask) {
    const std::uint32_t held = table.slots[slot];
    if (held == kFree) return;
    if (!there.is_of(table, held)) continue;
    const std::int32_t row = prefix[held];
    std::int32_t* links = neighbours + 2 * axis * capacity;
    links[2 * v] = row;
    // Each vertex is the lower neighbour of one other alone: no two threads write here.
    links[2 * static_cast<std::int64_t>(row - 1) + 1] = static_cast<std::int32_t>(v + 1);
    return;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    permutohedral_lattice_fwd_entries_kernel(std::int64_t corners, int per_pixel,
                                             const std::int32_t* rows, const std::int64_t* order,
                                             const T* weights, std::int32_t* pixels,
                                             T* entry_weights, std::int32_t* ranges) {
  const std::int64_t e = thread_index();
  if (e >= corners) return;
  const std::int64_t corner = order[e], row = rows[e];
  pixels[e] = static_cast<std::int32_t>(divide(corner, per_pixel).quotient);
  entry_weights[e] = load(weights + corner);
  if (e == 0 || rows[e - 1] != row) ranges[2 * row] = static_cast<std::int32_t>(e);
  if (e + 1 == corners || rows[e + 1] != row)
    ranges[2 * row + 1] = static_cast<std::int32_t>(e + 1);
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads)
    permutohedral_lattice_bwd_kernel(const Features<T> f, const T* grad_weights, T* grad_features) {
  constexpr int N = D + 1;
  const std::int64_t pixel = thread_index();
  if (pixel >= f.batch * f.pixels) return;
  const Division at = divide(pixel, f.pixels);
  const Simplex<T, D> s = simplex_of<T, D>(f, at.quotient, at.remainder);
  T grad_elevated[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int k = min(max(D - s.rank[i], 0), D); // the bounds are for pixels out of range
    const T* grad = grad_weights + pixel * N;
    grad_elevated[i] = (load(grad + k) - load(grad + (k == D ? 0 : k + 1))) / T(N);
  }
  T sum = grad_elevated[0]; // of the coordinates that feature i is added to
#pragma unroll
  for (int i = 0; i < D; ++i) {
    grad_features[(at.quotient * D + i) * f.pixels + at.remainder] =
        (sum - T(i + 1) * grad_elevated[i + 1]) * f.scales[i];
    sum += grad_elevated[i + 1];
  }
}

template <class T> Features<T> features_of(const Shape& s, const void* values) {
  Features<T> f{static_cast<const T*>(values), s.batch, s.pixels, s.padded_pixels(), {}, T(NAN)};
  axis_scales<T>(s.features, f.scales);
  return f;
}

Table table_of(const Shape& s, const std::uint32_t* simplices, std::uint32_t* slots) {
  return {simplices, slots, static_cast<std::uint32_t>(s.table_slots() - 1),
          static_cast<std::uint32_t>(s.padded_pixels())};
}

void check(const Shape& s) {
  if (s.padded_corners() > kMaxCorners)
    throw std::invalid_argument("fastseg: permutohedral_lattice: more than 2^30 corners");
}

std::int64_t blocks_for(std::int64_t threads) { return ceil_div(threads, kThreads); }

// Calls fn(integral_constant<D>).
template <int D = 1, class Fn> void dispatch_features(int features, const Fn& fn) {
  if constexpr (D <= kMaxPackedFeatures) {
    if (features != D) return dispatch_features<D + 1>(features, fn);
    fn(std::integral_constant<int, D>{});
  } else {
    throw std::invalid_argument("fastseg: permutohedral_lattice: at most 8 features on a GPU");
  }
}
// Calls fn(TypeTag<T>) for float or double.
template <class Fn> void dispatch_compute(DType dtype, const Fn& fn) {
  if (dtype == DType::float64) return fn(TypeTag<double>{});
  fn(TypeTag<float>{});
}

} // namespace

void locate(const Shape& shape, const void* features, std::uint32_t* simplices, void* weights,
            std::int32_t* bad, std::uintptr_t stream) {
  check(shape);
  dispatch_compute(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_features(shape.features, [&](auto count) {
      launch("permutohedral lattice, simplices",
             permutohedral_lattice_fwd_locate_kernel<T, count()>,
             blocks_for(shape.batch * shape.padded_pixels()), kThreads, 0, stream,
             features_of<T>(shape, features), simplices, static_cast<T*>(weights), bad);
    });
  });
}

void find_first(const Shape& shape, const std::uint32_t* simplices, std::uint32_t* table,
                std::int32_t* first, std::int32_t* is_first, std::uintptr_t stream) {
  check(shape);
  const std::int64_t corners = shape.padded_corners();
  dispatch_features(shape.features, [&](auto count) {
    launch("permutohedral lattice, vertices", permutohedral_lattice_fwd_insert_kernel<count()>,
           blocks_for(corners), kThreads, 0, stream, table_of(shape, simplices, table), corners,
           first);
  });
  launch("permutohedral lattice, first corners", permutohedral_lattice_fwd_first_kernel,
         blocks_for(corners), kThreads, 0, stream, static_cast<const std::uint32_t*>(table),
         corners, first, is_first);
}

void number(const Shape& shape, const std::int32_t* first, const std::int32_t* prefix,
            std::int32_t* rows, std::int32_t* vertices, std::uintptr_t stream) {
  check(shape);
  launch("permutohedral lattice, rows", permutohedral_lattice_fwd_number_kernel,
         blocks_for(shape.padded_corners()), kThreads, 0, stream, shape.padded_corners(),
         shape.padded_pixels() * (shape.features + 1), shape.pixels * (shape.features + 1), first,
         prefix, rows, vertices);
}

void link(const Shape& shape, const std::uint32_t* simplices, const std::uint32_t* table,
          const std::int32_t* prefix, const std::int32_t* vertices, std::int64_t capacity,
          std::int32_t* neighbours, std::uintptr_t stream) {
  check(shape);
  dispatch_features(shape.features, [&](auto count) {
    launch("permutohedral lattice, neighbours", permutohedral_lattice_fwd_link_kernel<count()>,
           blocks_for(capacity * (shape.features + 1)), kThreads, 0, stream,
           table_of(shape, simplices, const_cast<std::uint32_t*>(table)), prefix,
           shape.padded_corners(), vertices, capacity, neighbours);
  });
}

void list_entries(const Shape& shape, const std::int32_t* entry_rows, const std::int64_t* order,
                  const void* weights, std::int32_t* entry_pixels, void* entry_weights,
                  std::int32_t* ranges, std::uintptr_t stream) {
  check(shape);
  dispatch_compute(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("permutohedral lattice, entries", permutohedral_lattice_fwd_entries_kernel<T>,
           blocks_for(shape.corners()), kThreads, 0, stream, shape.corners(), shape.features + 1,
           entry_rows, order, static_cast<const T*>(weights), entry_pixels,
           static_cast<T*>(entry_weights), ranges);
  });
}

void backward(const Shape& shape, const void* features, const void* grad_weights,
              void* grad_features, std::uintptr_t stream) {
  check(shape);
  dispatch_compute(shape.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_features(shape.features, [&](auto count) {
      launch("permutohedral lattice backward", permutohedral_lattice_bwd_kernel<T, count()>,
             blocks_for(shape.batch * shape.pixels), kThreads, 0, stream,
             features_of<T>(shape, features), static_cast<const T*>(grad_weights),
             static_cast<T*>(grad_features));
    });
  });
}

} // namespace fastseg::permutohedral_lattice::cuda
