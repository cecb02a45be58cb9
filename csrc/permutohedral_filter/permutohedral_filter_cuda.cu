// CUDA twin. Labels go in groups of up to 64, each a filter of its own: values [L, P] become rows
// of labels, one per pixel, the rows are splatted and blurred, and the slice turns them back.
#include "permutohedral_filter/permutohedral_filter_cuda.h"

#include <algorithm>

#include "common/cuda_vector.h"
#include "permutohedral_lattice/vertex_values_cuda.h"

namespace fastseg::permutohedral_filter::cuda {
namespace {

using namespace permutohedral_lattice::cuda;

constexpr int kThreads = 256;
constexpr int kPixels = 32; // of a block
constexpr int kMostLabels = 64;

// A block's pixels by label. The odd stride spreads rows and columns over the banks.
constexpr int kTileStride = kPixels + 1;
template <class T> using Tile = T[kMostLabels * kTileStride];

// One group of labels of maps [batch, labels, pixels].
struct Group {
  std::int64_t labels, pixels, first;
  int count;
  std::int64_t stride; // of the rows
  std::int64_t tiles;  // of an image
};

// Where a block is: pixels [first, first + count) of one image.
struct Block {
  std::int64_t image, first;
  int count;
};
FASTSEG_DEVICE Block block_of(const Group& g) {
  const Division at = divide(blockIdx.x, g.tiles);
  const std::int64_t first = at.remainder * kPixels;
  return {at.quotient, first, static_cast<int>(min(std::int64_t(kPixels), g.pixels - first))};
}

// rows [batch, pixels, stride] of values.
template <class Storage>
__global__ void __launch_bounds__(kThreads)
    permutohedral_filter_fwd_bwd_rows_kernel(const Group g, const Storage* values,
                                             compute_t<Storage>* rows) {
  using T = compute_t<Storage>;
  FASTSEG_SHARED(tile, Tile<T>);
  const Block b = block_of(g);
  const Storage* in = values + (b.image * g.labels + g.first) * g.pixels + b.first;
  for (int i = threadIdx.x; i < g.count * kPixels; i += kThreads) {
    const int label = i / kPixels, pixel = i % kPixels;
    if (pixel < b.count)
      tile[label * kTileStride + pixel] = to_compute(load(in + label * g.pixels + pixel));
  }
  __syncthreads();
  const int stride = static_cast<int>(g.stride);
  T* out = rows + (b.image * g.pixels + b.first) * g.stride;
  for (int i = threadIdx.x; i < b.count * stride; i += kThreads) {
    const int pixel = i / stride, label = i % stride;
    out[i] = label < g.count ? tile[label * kTileStride + pixel] : T(0);
  }
}

// What slice and gradient read of a lattice, and the vertices' values.
template <class T> struct Vertices {
  std::int64_t batch, capacity; // of the lattice
  int corners;                  // per pixel
  const std::int32_t* rows;
  const T* weights;
  const T* table; // [replicas, capacity + 1, stride]

  // A lattice of one image: replica n is image n of the values.
  FASTSEG_DEVICE const T* table_of(std::int64_t image, std::int64_t stride) const {
    return table + (batch == 1 ? image * (capacity + 1) * stride : 0);
  }
  FASTSEG_DEVICE std::int64_t corner(std::int64_t image, const Group& g, std::int64_t pixel) const {
    return ((batch == 1 ? 0 : image) * g.pixels + pixel) * corners;
  }
};

template <class Storage, int kItems>
__global__ void __launch_bounds__(kThreads)
    permutohedral_filter_fwd_bwd_slice_kernel(const Group g, const Vertices<compute_t<Storage>> v,
                                              Storage* out) {
  using T = compute_t<Storage>;
  FASTSEG_SHARED(tile, Tile<T>);
  const Block b = block_of(g);
  const int lanes = static_cast<int>(g.stride) / kItems;
  for (int i = threadIdx.x; i < b.count * lanes; i += kThreads) {
    const int pixel = i / lanes, label = i % lanes * kItems;
    const std::int64_t corner = v.corner(b.image, g, b.first + pixel);
    const T* table = v.table_of(b.image, g.stride) + label;
    T sum[kItems] = {};
#pragma unroll 3
    for (int m = 0; m < v.corners; ++m) {
      const T weight = load(v.weights + corner + m);
      const auto row = load_items<kItems>(table + v.rows[corner + m] * g.stride);
#pragma unroll
      for (int k = 0; k < kItems; ++k) sum[k] += weight * row.v[k];
    }
#pragma unroll
    for (int k = 0; k < kItems; ++k) tile[(label + k) * kTileStride + pixel] = sum[k];
  }
  __syncthreads();
  Storage* image = out + (b.image * g.labels + g.first) * g.pixels + b.first;
  for (int i = threadIdx.x; i < g.count * kPixels; i += kThreads) {
    const int label = i / kPixels, pixel = i % kPixels;
    if (pixel < b.count)
      from_compute(tile[label * kTileStride + pixel], image[label * g.pixels + pixel]);
  }
}

// A thread has one corner of the lattice: grad_weights (+)= d / d weights of <grad,
// filter(values)>, from the rows of both and from the vertices of both, blurred.
template <class T, int kItems>
__global__ void __launch_bounds__(kThreads)
    permutohedral_filter_bwd_weights_kernel(const Group g, const Vertices<T> blurred,
                                            const T* blurred_grad, const T* values, const T* grad,
                                            std::int64_t replicas, T* grad_weights) {
  const std::int64_t corner = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t pixels = blurred.batch * g.pixels;
  if (corner >= pixels * blurred.corners) return;
  const std::int64_t pixel = divide(corner, blurred.corners).quotient;
  T sum = g.first == 0 ? T(0) : grad_weights[corner];
#pragma unroll 1
  for (std::int64_t r = 0; r < replicas; ++r) {
    const std::int64_t row = (r * (blurred.capacity + 1) + blurred.rows[corner]) * g.stride;
    const std::int64_t here = (r * pixels + pixel) * g.stride;
#pragma unroll 2
    for (std::int64_t l = 0; l < g.stride; l += kItems) {
      const auto value = load_items<kItems>(values + here + l);
      const auto slope = load_items<kItems>(grad + here + l);
      const auto at_vertex = load_items<kItems>(blurred.table + row + l);
      const auto slope_at_vertex = load_items<kItems>(blurred_grad + row + l);
#pragma unroll
      for (int k = 0; k < kItems; ++k)
        sum += slope.v[k] * at_vertex.v[k] + value.v[k] * slope_at_vertex.v[k];
    }
  }
  grad_weights[corner] = sum;
}

// Filters one group of labels after the other in the same memory.
struct Filter {
  const DeviceLattice& lattice;
  const Shape& shape;
  std::uintptr_t stream;
  std::int64_t replicas = lattice.shape.batch == 1 ? shape.batch : 1;
  std::int64_t groups = ceil_div(shape.labels, kMostLabels);
  std::int64_t per_group = (ceil_div(shape.labels, groups) + 3) / 4 * 4;
  // The first group is the widest.
  RowLayout widest = row_layout(lattice.shape.dtype, replicas, std::min(per_group, shape.labels));

  template <class Fn> void each_group(const Fn& fn) const {
    for (std::int64_t first = 0; first < shape.labels; first += per_group) {
      const std::int64_t count = std::min(per_group, shape.labels - first);
      const RowLayout layout = row_layout(lattice.shape.dtype, replicas, count);
      const std::int64_t pixels = lattice.shape.pixels;
      fn(Group{shape.labels, pixels, first, static_cast<int>(count), layout.stride,
               ceil_div(pixels, kPixels)},
         layout);
    }
  }
  template <class T> Vertices<T> vertices(const void* table) const {
    return {lattice.shape.batch,
            lattice.capacity,
            lattice.shape.features + 1,
            lattice.rows,
            static_cast<const T*>(lattice.weights),
            static_cast<const T*>(table)};
  }
  void to_rows(const Group& g, const void* values, void* rows) const {
    dispatch_dtype(shape.dtype, [&](auto tag) {
      using Storage = typename decltype(tag)::type;
      launch("permutohedral_filter, rows", permutohedral_filter_fwd_bwd_rows_kernel<Storage>,
             shape.batch * g.tiles, kThreads, 0, stream, g, static_cast<const Storage*>(values),
             static_cast<compute_t<Storage>*>(rows));
    });
  }
  void slice(const Group& g, const RowLayout& layout, const void* table, void* out) const {
    dispatch_dtype(shape.dtype, [&](auto tag) {
      using Storage = typename decltype(tag)::type;
      using T = compute_t<Storage>;
      dispatch_rows(lattice.shape.dtype, layout, [&](auto type, auto items) {
        if constexpr (std::is_same_v<typename decltype(type)::type, T>)
          launch("permutohedral_filter, slice",
                 permutohedral_filter_fwd_bwd_slice_kernel<Storage, items()>, shape.batch * g.tiles,
                 kThreads, 0, stream, g, vertices<T>(table), static_cast<Storage*>(out));
      });
    });
  }
};

// Memory in one piece; every part starts at a multiple of 16 bytes.
class Memory {
public:
  Memory(DType dtype, void* memory)
      : size_(dtype == DType::float64 ? 8 : 4), memory_(static_cast<char*>(memory)) {}
  void* take(std::int64_t values) {
    void* part = memory_ + used_;
    used_ += (values * size_ + 15) / 16 * 16;
    return part;
  }
  std::int64_t used() const { return used_; }

private:
  std::int64_t size_, used_ = 0;
  char* memory_;
};

struct Workspace {
  Memory memory;
  void* values;
  void* grad;
  void* tables[3];
  void* splat;

  Workspace(const Filter& f, bool backward, void* address)
      : memory(f.lattice.shape.dtype, address) {
    const std::int64_t pixels = pixel_values(f.lattice.shape, f.widest);
    const std::int64_t table = table_values(f.lattice, f.widest);
    values = memory.take(pixels);
    grad = backward ? memory.take(pixels) : nullptr;
    tables[0] = memory.take(table);
    tables[1] = memory.take(table);
    tables[2] = backward ? memory.take(table) : nullptr;
    splat = memory.take(splat_values(f.lattice.shape, f.widest));
  }
};

void check(const DeviceLattice& lattice, const Shape& shape) {
  if ((shape.dtype == DType::float64) != (lattice.shape.dtype == DType::float64) ||
      (lattice.shape.batch != 1 && lattice.shape.batch != shape.batch) || shape.labels < 1)
    throw std::invalid_argument("fastseg: permutohedral_filter: lattice and values do not match");
}

} // namespace

std::int64_t workspace_bytes(const DeviceLattice& lattice, const Shape& shape, bool backward) {
  check(lattice, shape);
  return Workspace({lattice, shape, 0}, backward, nullptr).memory.used();
}

void forward(const DeviceLattice& lattice, const Shape& shape, const void* values, void* out,
             void* workspace, std::uintptr_t stream) {
  check(lattice, shape);
  const Filter filter{lattice, shape, stream};
  const Workspace w(filter, false, workspace);
  filter.each_group([&](const Group& g, const RowLayout& layout) {
    filter.to_rows(g, values, w.values);
    const void* table = spread(lattice, layout, w.values, shape.transpose, w.tables[0], w.tables[1],
                               w.splat, stream);
    filter.slice(g, layout, table, out);
  });
}

void backward(const DeviceLattice& lattice, const Shape& shape, const void* values,
              const void* grad_out, void* grad_values, void* grad_weights, void* workspace,
              std::uintptr_t stream) {
  check(lattice, shape);
  const Filter filter{lattice, shape, stream};
  const Workspace w(filter, true, workspace);
  filter.each_group([&](const Group& g, const RowLayout& layout) {
    filter.to_rows(g, values, w.values);
    filter.to_rows(g, grad_out, w.grad);
    void* blurred = spread(lattice, layout, w.values, shape.transpose, w.tables[0], w.tables[1],
                           w.splat, stream);
    void* spare = blurred == w.tables[0] ? w.tables[1] : w.tables[0];
    const void* blurred_grad =
        spread(lattice, layout, w.grad, !shape.transpose, spare, w.tables[2], w.splat, stream);
    filter.slice(g, layout, blurred_grad, grad_values);
    dispatch_rows(lattice.shape.dtype, layout, [&](auto tag, auto items) {
      using T = typename decltype(tag)::type;
      launch("permutohedral_filter, gradient to weights",
             permutohedral_filter_bwd_weights_kernel<T, items()>,
             ceil_div(lattice.shape.corners(), kThreads), kThreads, 0, stream, g,
             filter.vertices<T>(blurred), static_cast<const T*>(blurred_grad),
             static_cast<const T*>(w.values), static_cast<const T*>(w.grad), layout.replicas,
             static_cast<T*>(grad_weights));
    });
  });
}

} // namespace fastseg::permutohedral_filter::cuda
