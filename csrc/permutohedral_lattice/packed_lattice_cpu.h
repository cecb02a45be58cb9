// Construction of lattices of a few features whose coordinates fit into 16 bits: nearly all. Each
// thread takes a contiguous part of the pixels and numbers the vertices that it meets; the parts
// are then merged in their order. The numbers are those of one thread. Included only by
// permutohedral_lattice_cpu.cpp; lives in the level's namespace.
#pragma once

#include "common/buffer_cpu.h"
#include "common/parallel_cpu.h"
#include "permutohedral_lattice/lattice_tables_cpu.h"
#include "permutohedral_lattice/pixel_features_cpu.h"
#include "permutohedral_lattice/simplex_cpu.h"

namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL {

template <class T, int D, class Features> class PackedBuilder {
  static constexpr int N = D + 1;

public:
  PackedBuilder(const Features& features, std::int64_t pixels, int threads, Lattice& lattice)
      : features_(features), lattice_(lattice), blocks_((pixels + kBlock - 1) / kBlock),
        threads_(static_cast<int>(std::clamp<std::int64_t>(blocks_ / 64, 1, std::max(threads, 1)))),
        part_count_(threads_ + threads_ / 2) {
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
    return static_cast<Item*>(take_scratch(array_bytes(count, sizeof(Item))));
  }

  Status run_parts(Part<D>* parts, std::int64_t* bad_pixel) {
    // Memory is taken here, in order: most of it is then still in the cache of the thread that had
    // it when the last lattice was built.
    for (int i = 0; i < part_count_; ++i) {
      parts[i].first = part_begin(i);
      parts[i].end = part_begin(i + 1);
      const std::int64_t pixels = (parts[i].end - parts[i].first) * kBlock;
      parts[i].simplices.reserve(pixels / 4); // of a photograph; of noise there are more
      parts[i].corners.reserve(pixels / 4 * 5 / 4);
      parts[i].vertices.reserve(pixels / 8);
    }
    parallel_for(part_count_, threads_, [&](std::int64_t i) {
      touch(parts[i]);
      parts[i].simplices.clear(); // corners are all that is needed
    });
    for (int i = 0; i < part_count_; ++i)
      if (parts[i].bad_block >= 0) {
        *bad_pixel = first_bad_pixel(parts[i].bad_block);
        return Status::out_of_range;
      }
    Vertices& all = parts[0].vertices;
    std::int64_t total = 0;
    for (int i = 1; i < part_count_; ++i) total += parts[i].vertices.size() + 1;
    Buffer<std::int32_t> numbers(total); // in all, by the number in the part
    std::int64_t offset = 0;
    all.grow(total); // at once
    for (int i = 1; i < part_count_; ++i) {
      const Vertices& own = parts[i].vertices;
      for (std::int64_t v = 1; v <= own.size(); ++v) {
        bool is_new;
        numbers[offset + v] =
            static_cast<std::int32_t>(all.find_or_add(hash_of(sum_of(own[v])), own[v], &is_new));
      }
      offset += own.size() + 1;
    }
    lattice_.vertices = all.size();
    if (lattice_.vertices >= std::int64_t{1} << 31) throw std::bad_alloc();
    lattice_.neighbours = allocate<std::int32_t>(2 * N * lattice_.vertices);
    parallel_for(part_count_ + N, threads_, [&](std::int64_t i) {
      if (i >= part_count_) return link(all, static_cast<int>(i - part_count_));
      std::int64_t before = 0;
      for (int j = 1; j < i; ++j) before += parts[j].vertices.size() + 1;
      write_rows(parts[i], i == 0 ? nullptr : numbers.get() + before);
    });
    return Status::ok;
  }

  // The first block of part i: a large one for each thread, then small ones for those that are done
  // early, since some parts of an image have more vertices than others.
  std::int64_t part_begin(std::int64_t i) const {
    if (part_count_ == 1) return blocks_ * i;
    const std::int64_t large = blocks_ * 29 / 32;
    if (i <= threads_) return large * i / threads_;
    return large + (blocks_ - large) * (i - threads_) / (part_count_ - threads_);
  }

  static std::uint32_t sum_of(const VertexKey& key) {
    std::uint32_t sum = 0;
    for (int i = 0; i < D; ++i) sum += kPointHash[i] * static_cast<std::uint32_t>(key.at[i]);
    return sum;
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
    alignas(64) std::uint32_t hashes[kBlock], point_sums[kBlock];
  };

  // Weights of the part's pixels, and as their first row the number of their simplex. The table is
  // larger than the cache: what the search reads is asked for one block ahead.
  void touch(Part<D>& part) {
    part.simplices.start();
    part.vertices.start();
    Block blocks[2];
    alignas(64) Strip<T, D> made;
    View<T> strip{};
    constexpr std::int64_t strip_blocks = kStrip / kBlock;
    for (std::int64_t b = part.first; b <= part.end; ++b) {
      Block& next = blocks[b % 2];
      if (b < part.end) {
        const std::int64_t in_strip = (b - part.first) % strip_blocks, first = b * kBlock;
        if (in_strip == 0)
          strip = features_.of(first, std::min(kStrip, lattice_.pixels - first), made);
        if (!locate(b, {strip.values + in_strip * kBlock, strip.stride}, next)) {
          part.bad_block = b;
          return;
        }
        for (const std::uint32_t hash : next.hashes) part.simplices.prefetch(hash);
      }
      if (b > part.first) number(part, b - 1, blocks[(b + 1) % 2]);
    }
  }

  // The simplices of a block and the weights of its pixels. False: a feature is out of range.
  bool locate(std::int64_t b, const View<T>& features, Block& block) {
    const std::int64_t count = pixels_in(b);
    find_simplices<T, D>(features.values, features.stride, count, scales_, block.found);
    if (!block.found.in_range) return false;
    make_keys(block);
    T* weights = static_cast<T*>(lattice_.weights) + b * N * kBlock;
    for (std::int64_t k = 0; k < N; ++k)
      for (std::int64_t p = 0; p < kBlock; ++p)
        weights[k * kBlock + p] = p < count ? block.found.weights[k][p] : T(0);
    return true;
  }

  // The first row of each pixel of a block becomes the number of its simplex.
  void number(Part<D>& part, std::int64_t b, const Block& block) {
    const std::int64_t touching = touching_in(b);
    std::int32_t* first_rows = lattice_.rows + b * N * kBlock;
    std::uint32_t missing = 0;
    for (std::int64_t p = 0; p < kBlock; ++p) {
      const std::uint32_t number = part.simplices.peek(block.hashes[p], block.keys[p]);
      first_rows[p] = static_cast<std::int32_t>(number);
      missing |= static_cast<std::uint32_t>(number == 0) << p;
    }
    for (missing &= (1u << touching) - 1; missing != 0; missing &= missing - 1) {
      const int p = __builtin_ctz(missing);
      bool is_new;
      first_rows[p] = static_cast<std::int32_t>(
          part.simplices.find_or_add(block.hashes[p], block.keys[p], &is_new));
      if (is_new) add_corners(part, block, p);
    }
  }

  static void make_keys(Block& block) {
    using Key = SimplexKey<D>;
    const Simplices<T, D>& found = block.found;
    for (int p = 0; p < kBlock; ++p) {
      std::uint64_t words[Key::kWords] = {}, ranks = 0;
      std::uint32_t sum = 0, rank_sum = 0;
      for (int i = 0; i < D; ++i) {
        const std::uint64_t at = static_cast<std::uint16_t>(found.point[i][p]);
        const std::uint64_t rank = static_cast<std::uint64_t>(found.rank[i][p]);
        words[i / 4] |= at << (16 * (i % 4));
        ranks |= rank << (Key::kRankBits * i);
        sum += kPointHash[i] * static_cast<std::uint32_t>(found.point[i][p]);
        rank_sum += kRankHash[i] * static_cast<std::uint32_t>(found.rank[i][p]);
      }
      words[Key::kRankWord] |= ranks << Key::kRankShift;
      for (int w = 0; w < Key::kWords; ++w) block.keys[p].words[w] = words[w];
      block.point_sums[p] = sum;
      block.hashes[p] = hash_of(sum + rank_sum);
    }
  }

  // The vertices with remainder m = 0..D of a new simplex.
  void add_corners(Part<D>& part, const Block& block, int p) const {
    const Simplices<T, D>& found = block.found;
    int axis_of[N];
    for (int i = 0; i < N; ++i) axis_of[found.rank[i][p]] = i;
    VertexKey key = block.keys[p].point();
    std::uint32_t sum = block.point_sums[p], hashes[N], numbers[N];
    VertexKey keys[N];
    for (int m = 0; m < N; ++m) {
      keys[m] = key;
      hashes[m] = hash_of(sum);
      numbers[m] = part.vertices.peek(hashes[m], key);
      key.at += steps_.at[axis_of[D - m]];
      sum += steps_.hash[axis_of[D - m]];
    }
    Corners<D>& corners = part.corners.append();
    for (int m = 0; m < N; ++m) {
      bool is_new;
      if (numbers[m] == 0) numbers[m] = part.vertices.find_or_add(hashes[m], keys[m], &is_new);
      corners.rows[m] = static_cast<std::int32_t>(numbers[m]);
    }
  }

  // From simplices to the rows of their vertices; `numbers`: the merged number of the part's.
  void write_rows(Part<D>& part, const std::int32_t* numbers) {
    if (numbers != nullptr)
      for (std::int64_t s = 0; s < part.corners.size(); ++s)
        for (std::int32_t& row : part.corners[s].rows) row = numbers[row];
    for (std::int64_t b = part.first; b < part.end; ++b) {
      std::int32_t* rows = lattice_.rows + b * N * kBlock;
      const std::int32_t* own = nullptr;
      for (std::int64_t p = 0; p < kBlock; ++p) {
        // Those that fill up the last block touch what the last pixel touches, with weight 0.
        if (p < pixels_in(b)) own = part.corners[rows[p] - 1].rows;
        for (int m = 0; m < N; ++m) rows[m * kBlock + p] = own[m];
      }
    }
  }

  // The neighbours along one axis.
  void link(const Vertices& all, int axis) {
    const std::int64_t count = lattice_.vertices;
    std::memset(lattice_.neighbours + 2 * axis * count, 0, 2 * count * sizeof(std::int32_t));
    for (std::int64_t v = 0; v < count; v += kBlock)
      link_some(all, axis, v, std::min(v + kBlock, count));
  }

  // The vertices [first, end), at most kBlock. Whether there is a neighbour, nobody can foresee:
  // what is not found at once waits, so that there is no branch.
  void link_some(const Vertices& all, int axis, std::int64_t first, std::int64_t end) {
    std::int32_t waiting[kBlock];
    std::int64_t waiting_count = 0;
    for (std::int64_t v = first; v < end; ++v) {
      const VertexKey here = all[v + 1];
      bool unsure;
      set_link(axis, v,
               all.peek(hash_of(sum_of(here) - steps_.hash[axis]), {here.at - steps_.at[axis]},
                        &unsure));
      waiting[waiting_count] = static_cast<std::int32_t>(v);
      waiting_count += unsure;
    }
    for (std::int64_t i = 0; i < waiting_count; ++i) {
      const VertexKey here = all[waiting[i] + 1];
      set_link(axis, waiting[i],
               all.find(hash_of(sum_of(here) - steps_.hash[axis]), {here.at - steps_.at[axis]}));
    }
  }

  // `row` (0: none) is the lower neighbour of vertex v, and v its upper one.
  void set_link(int axis, std::int64_t v, std::int64_t row) {
    std::int32_t* links = lattice_.neighbours + 2 * axis * lattice_.vertices;
    const std::int64_t exists = -static_cast<std::int64_t>(row != 0); // a mask, lest GCC branch
    links[((2 * row - 1) & exists) | (2 * v & ~exists)] = static_cast<std::int32_t>(v + 1);
    links[2 * v] = static_cast<std::int32_t>(row);
  }

  std::int64_t first_bad_pixel(std::int64_t block) const {
    Strip<T, D> made;
    Simplices<T, D> found;
    for (std::int64_t p = block * kBlock; p < lattice_.pixels; ++p) {
      const View<T> features = features_.of(p, 1, made);
      find_simplices<T, D>(features.values, features.stride, 1, scales_, found);
      if (!found.in_range) return p;
    }
    return block * kBlock;
  }

  const Features features_;
  Lattice& lattice_;
  std::int64_t blocks_;
  int threads_, part_count_;
  T scales_[D];
  Steps<D> steps_;
};

} // namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL
