// Construction on the CPU. Each thread takes a contiguous part of the pixels and numbers the
// vertices that it meets; the parts are then merged in their order. The numbers are those of one
// thread.
#include "permutohedral_lattice/permutohedral_lattice.h"

#include "common/buffer.h"
#include "common/parallel.h"
#include "permutohedral_lattice/lattice_tables.h"
#include "permutohedral_lattice/simplex.h"

namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL {
namespace {

using Vertices = Table<VertexKey, VertexKey>;

// The vertices with remainder m = 0..D of a simplex.
template <class T, int D>
VertexKey vertex_key(const Simplices<T, D>& block, std::int64_t p, int m) {
  std::int16_t c[kMaxFeatures] = {};
  for (int i = 0; i < D; ++i)
    c[i] =
        static_cast<std::int16_t>(block.point[i][p] + m - (block.rank[i][p] <= D - m ? 0 : D + 1));
  return pack(c, kMaxFeatures);
}

// On cache lines of its own: threads write to their parts all the time.
template <int D> struct alignas(128) Part {
  Vertices vertices;
  Table<Simplex<D>, SimplexKey<D>> simplices;
  std::int64_t first = 0, end = 0; // blocks
  std::int64_t bad_block = -1;
  bool out_of_memory = false;
};

template <class T, int D> class Builder {
  static constexpr int N = D + 1;

public:
  Builder(const T* features, std::int64_t pixels, int threads, Lattice& lattice)
      : features_(features), lattice_(lattice), blocks_((pixels + kBlock - 1) / kBlock),
        part_count_(
            static_cast<int>(std::clamp<std::int64_t>(blocks_ / 64, 1, std::max(threads, 1)))) {
    axis_scales<T>(D, scales_);
    lattice.features = D;
    lattice.dtype = std::is_same_v<T, double> ? DType::float64 : DType::float32;
    lattice.pixels = pixels;
  }

  Status run(std::int64_t* bad_pixel) {
    lattice_.rows = allocate<std::int32_t>(blocks_ * N * kBlock);
    lattice_.weights = allocate<T>(blocks_ * N * kBlock);
    Part<D>* parts = new Part<D>[part_count_];
    try {
      const Status status = run_parts(parts, bad_pixel);
      delete[] parts;
      return status;
    } catch (...) {
      delete[] parts;
      throw;
    }
  }

private:
  template <class Item> static Item* allocate(std::int64_t count) {
    return static_cast<Item*>(take_scratch(count * sizeof(Item)));
  }

  Status run_parts(Part<D>* parts, std::int64_t* bad_pixel) {
    parallel_for(part_count_, part_count_, [&](std::int64_t i) {
      parts[i].first = blocks_ * i / part_count_;
      parts[i].end = blocks_ * (i + 1) / part_count_;
      try {
        touch(parts[i]);
      } catch (const std::bad_alloc&) { // must not leave the thread
        parts[i].out_of_memory = true;
      }
    });
    for (int i = 0; i < part_count_; ++i)
      if (parts[i].out_of_memory) throw std::bad_alloc();
    for (int i = 0; i < part_count_; ++i)
      if (parts[i].bad_block >= 0) {
        *bad_pixel = first_bad_pixel(parts[i].bad_block);
        return Status::out_of_range;
      }
    Vertices& all = parts[0].vertices;
    std::int64_t total = 0;
    for (int i = 0; i < part_count_; ++i) total += parts[i].vertices.items.size();
    Buffer<std::int32_t> numbers(total);
    total = parts[0].vertices.items.size();
    std::int64_t offset = 0;
    for (int i = 1; i < part_count_; ++i) {
      const Growing<VertexKey>& own = parts[i].vertices.items;
      for (std::int64_t v = 0; v < own.size(); ++v)
        numbers[offset + v] = static_cast<std::int32_t>(add_vertex(all, own[v]));
      offset += own.size();
    }
    lattice_.vertices = all.items.size();
    if (lattice_.vertices >= std::int64_t{1} << 31) return Status::out_of_memory;
    parallel_for(part_count_, part_count_, [&](std::int64_t i) {
      std::int64_t before = 0;
      for (int j = 1; j < i; ++j) before += parts[j].vertices.items.size();
      write_rows(parts[i], i == 0 ? nullptr : numbers.get() + before);
    });
    link(all);
    return Status::ok;
  }

  static std::int64_t add_vertex(Vertices& table, const VertexKey& key) {
    bool is_new = false;
    const std::int64_t index = table.find_or_add(key, &is_new);
    if (is_new) {
      table.items[index] = key;
      table.grow_if_full();
    }
    return index;
  }

  std::int64_t pixels_in(std::int64_t block) const {
    return std::min(kBlock, lattice_.pixels - block * kBlock);
  }
  // Pixels whose vertices exist. pydensecrf fills its last four pixels up with zero features; their
  // vertices take no value, but pass values on in the blur.
  std::int64_t touching_in(std::int64_t block) const { return (pixels_in(block) + 3) / 4 * 4; }

  struct Block {
    Simplices<T, D> found;
    SimplexKey<D> keys[kBlock];
  };

  // Weights of the part's pixels, and as their first row the index of their simplex. The table is
  // larger than the cache: what the search reads is asked for one block ahead.
  void touch(Part<D>& part) {
    const std::int64_t pixels = (part.end - part.first) * kBlock;
    part.simplices.reserve(pixels / 4); // of a photograph; of noise there are more
    part.vertices.reserve(pixels / 8);
    Block blocks[2];
    std::int64_t last = -1; // simplex of the pixel before
    for (std::int64_t b = part.first; b <= part.end; ++b) {
      Block& next = blocks[b % 2];
      if (b < part.end && !locate(b, next)) {
        part.bad_block = b;
        return;
      }
      if (b < part.end)
        for (const SimplexKey<D>& key : next.keys) part.simplices.prefetch_slot(key);
      if (b > part.first) last = number(part, b - 1, blocks[(b + 1) % 2], last);
      if (b < part.end)
        for (const SimplexKey<D>& key : next.keys) part.simplices.prefetch_item(key);
    }
  }

  // The simplices of a block and the weights of its pixels. False: a feature is out of range.
  bool locate(std::int64_t b, Block& block) {
    const std::int64_t count = pixels_in(b);
    find_simplices<T, D>(features_ + b * kBlock, lattice_.pixels, count, scales_, block.found);
    if (!block.found.in_range) return false;
    make_keys(block.found, block.keys);
    T* weights = static_cast<T*>(lattice_.weights) + b * N * kBlock;
    for (std::int64_t k = 0; k < N; ++k)
      for (std::int64_t p = 0; p < kBlock; ++p)
        weights[k * kBlock + p] = p < count ? block.found.weights[k][p] : T(0);
    return true;
  }

  // The first row of each pixel of a block becomes the index of its simplex; returns the last one.
  std::int64_t number(Part<D>& part, std::int64_t b, const Block& block, std::int64_t last) {
    const std::int64_t touching = touching_in(b);
    std::int32_t* first_rows = lattice_.rows + b * N * kBlock;
    for (std::int64_t p = 0; p < kBlock; ++p) {
      if (p >= touching) {
        first_rows[p] = -1;
        continue;
      }
      if (last < 0 || !part.simplices.items[last].key.same(block.keys[p]))
        last = find_simplex(part, block.found, block.keys[p], p);
      first_rows[p] = static_cast<std::int32_t>(last);
    }
    return last;
  }

  static void make_keys(const Simplices<T, D>& found, SimplexKey<D>* keys) {
    for (int w = 0; w < SimplexKey<D>::kWords - 1; ++w)
      for (int p = 0; p < kBlock; ++p) {
        const std::uint32_t low = static_cast<std::uint32_t>(found.point[2 * w][p]) & 0xffff;
        const std::uint32_t high =
            2 * w + 1 < D ? static_cast<std::uint32_t>(found.point[2 * w + 1][p]) : 0;
        keys[p].words[w] = low | high << 16;
      }
    for (int p = 0; p < kBlock; ++p) {
      std::uint32_t ranks = 0;
      for (int i = 0; i < D; ++i) ranks |= static_cast<std::uint32_t>(found.rank[i][p]) << (4 * i);
      keys[p].words[SimplexKey<D>::kWords - 1] = ranks;
    }
  }

  static std::int64_t find_simplex(Part<D>& part, const Simplices<T, D>& found,
                                   const SimplexKey<D>& key, std::int64_t p) {
    bool is_new = false;
    const std::int64_t index = part.simplices.find_or_add(key, &is_new);
    if (is_new) {
      Simplex<D>& simplex = part.simplices.items[index];
      simplex.key = key;
      VertexKey corners[N];
      for (int m = 0; m < N; ++m) {
        corners[m] = vertex_key(found, p, m);
        part.vertices.prefetch_slot(corners[m]);
      }
      for (int m = 0; m < N; ++m) part.vertices.prefetch_item(corners[m]);
      for (int m = 0; m < N; ++m)
        simplex.vertices[m] = static_cast<std::int32_t>(add_vertex(part.vertices, corners[m]));
      part.simplices.grow_if_full();
    }
    return index;
  }

  // From simplices to the rows of their vertices; `numbers`: the merged number of the part's.
  void write_rows(Part<D>& part, const std::int32_t* numbers) {
    Growing<Simplex<D>>& simplices = part.simplices.items;
    for (std::int64_t s = 0; s < simplices.size(); ++s)
      for (std::int32_t& v : simplices[s].vertices) v = (numbers != nullptr ? numbers[v] : v) + 1;
    for (std::int64_t b = part.first; b < part.end; ++b) {
      std::int32_t* rows = lattice_.rows + b * N * kBlock;
      const std::int32_t* vertices = nullptr;
      for (std::int64_t p = 0; p < kBlock; ++p) {
        // Those that fill up the last block touch what the last pixel touches, with weight 0.
        if (p < pixels_in(b)) vertices = simplices[rows[p]].vertices;
        for (int m = 0; m < N; ++m) rows[m * kBlock + p] = vertices[m];
      }
    }
  }

  void link(const Vertices& all) {
    const std::int64_t count = lattice_.vertices;
    lattice_.neighbours = allocate<std::int32_t>(2 * N * count);
    std::memset(lattice_.neighbours, 0, 2 * N * count * sizeof(std::int32_t));
    const std::int64_t pieces =
        std::min<std::int64_t>(4 * part_count_, std::max<std::int64_t>(count / 1024, 1));
    parallel_for(pieces, part_count_, [&](std::int64_t piece) {
      for (std::int64_t v = count * piece / pieces; v < count * (piece + 1) / pieces; ++v) {
        std::int16_t here[kMaxFeatures], there[kMaxFeatures] = {};
        unpack(all.items[v], here);
        for (int axis = 0; axis < N; ++axis) {
          for (int i = 0; i < D; ++i)
            there[i] = static_cast<std::int16_t>(here[i] + (i == axis ? D : -1));
          const std::int64_t other = all.find(pack(there, kMaxFeatures));
          if (other < 0) continue;
          // Each vertex is the lower neighbour of one other alone: no two threads write here.
          std::int32_t* links = lattice_.neighbours + 2 * axis * count;
          links[2 * v] = static_cast<std::int32_t>(other + 1);
          links[2 * other + 1] = static_cast<std::int32_t>(v + 1);
        }
      }
    });
  }

  std::int64_t first_bad_pixel(std::int64_t block) const {
    Simplices<T, D> found;
    for (std::int64_t p = block * kBlock; p < lattice_.pixels; ++p) {
      find_simplices<T, D>(features_ + p, lattice_.pixels, 1, scales_, found);
      if (!found.in_range) return p;
    }
    return block * kBlock;
  }

  const T* features_;
  Lattice& lattice_;
  std::int64_t blocks_;
  int part_count_;
  T scales_[D];
};

// Calls fn(TypeTag<T>, integral_constant<D>) for float or double and 1 to kMaxFeatures features.
template <int D = 1, class Fn> void dispatch(DType dtype, int features, const Fn& fn) {
  if constexpr (D <= kMaxFeatures) {
    if (features != D) return dispatch<D + 1>(dtype, features, fn);
    if (dtype == DType::float64) return fn(TypeTag<double>{}, std::integral_constant<int, D>{});
    return fn(TypeTag<float>{}, std::integral_constant<int, D>{});
  }
}

void release(Lattice& lattice) {
  give_scratch(lattice.rows);
  give_scratch(lattice.weights);
  give_scratch(lattice.neighbours);
  lattice = Lattice{};
}

Status build_one(DType dtype, const void* features, int feature_count, std::int64_t pixels,
                 int threads, Lattice& lattice, std::int64_t* bad_pixel) {
  Status status = Status::ok;
  try {
    dispatch(dtype, feature_count, [&](auto tag, auto count) {
      using T = typename decltype(tag)::type;
      Builder<T, count()> builder(static_cast<const T*>(features), pixels, threads, lattice);
      status = builder.run(bad_pixel);
    });
  } catch (const std::bad_alloc&) {
    status = Status::out_of_memory;
  }
  return status;
}

Status build(DType dtype, const void* features, std::int64_t batch, int feature_count,
             std::int64_t pixels, int threads, Lattice* const* lattices, BadFeature* bad) {
  const std::int64_t item = dtype == DType::float64 ? sizeof(double) : sizeof(float);
  const std::int64_t bytes = feature_count * pixels * item;
  // One image after the other, in all threads: an image per thread was not measured to be faster.
  for (std::int64_t n = 0; n < batch; ++n) {
    std::int64_t bad_pixel = -1;
    const Status status = build_one(dtype, static_cast<const char*>(features) + n * bytes,
                                    feature_count, pixels, threads, *lattices[n], &bad_pixel);
    if (status == Status::ok) continue;
    *bad = {n, bad_pixel};
    for (std::int64_t m = 0; m <= n; ++m) release(*lattices[m]);
    return status;
  }
  return Status::ok;
}

void backward(DType dtype, const void* features, int feature_count, std::int64_t pixels,
              const void* grad_weights, void* grad_features, int threads) {
  dispatch(dtype, feature_count, [&](auto tag, auto count) {
    using T = typename decltype(tag)::type;
    constexpr int D = count();
    T scales[D];
    axis_scales<T>(D, scales);
    const T* in = static_cast<const T*>(features);
    const std::int64_t blocks = (pixels + kBlock - 1) / kBlock;
    parallel_for((blocks + 63) / 64, threads, [&](std::int64_t task) {
      Simplices<T, D> found;
      for (std::int64_t b = task * 64; b < std::min(task * 64 + 64, blocks); ++b) {
        const std::int64_t first = b * kBlock, n = std::min(kBlock, pixels - first);
        find_simplices<T, D>(in + first, pixels, n, scales, found);
        backward_simplices<T, D>(found, static_cast<const T*>(grad_weights) + b * (D + 1) * kBlock,
                                 n, scales, static_cast<T*>(grad_features) + first, pixels);
      }
    });
  });
}

} // namespace

const CpuKernels kernels{build, backward};

} // namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL
