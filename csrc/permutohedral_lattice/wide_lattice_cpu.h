// Construction of lattices that the templates of permutohedral_lattice_cpu.cpp do not hold: of more
// than kMaxPackedFeatures features, or with coordinates beyond 16 bits (features of some
// thousands). Pixel by pixel, and vertices are numbered by one thread: two to three times slower.
// Included only by permutohedral_lattice_cpu.cpp; lives in the level's namespace.
#pragma once

#include "common/buffer_cpu.h"
#include "common/parallel_cpu.h"
#include "common/scratch_cpu.h"
#include "permutohedral_lattice/lattice_tables_cpu.h"
#include "permutohedral_lattice/simplex_math.h"

namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL {

// The simplex of one pixel at a time.
template <class T> class SimplexFinder {
public:
  explicit SimplexFinder(int features)
      : features_(features), point(features + 1), rank(features + 1), weights(features + 1),
        near_(features), far_(features) {}

  // Finds the simplex of features that lie `stride` apart; null stands for zeros. False: they are
  // out of range. Where T is float and not precise enough, the arithmetic is double's.
  bool find(const T* features, std::int64_t stride) {
    return locate(near_, features, stride) || (kTwoStages && locate(far_, features, stride));
  }
  // The adjoint of features -> weights at the simplex found last. `grad_weights`: [D + 1], `stride`
  // apart like those of `grad_features`.
  void backward(const T* grad_weights, std::int64_t weights_stride, T* grad_features,
                std::int64_t stride) {
    const int count = features_ + 1;
    T* const grad = near_.elevated.get();
    for (int i = 0; i < count; ++i) {
      const std::int64_t k = features_ - rank[i];
      grad[i] =
          (grad_weights[k * weights_stride] - grad_weights[(k + 1) % count * weights_stride]) /
          T(count);
    }
    T sum = grad[0]; // of the coordinates that feature i is added to
    for (int i = 0; i < features_; ++i) {
      grad_features[i * stride] = (sum - T(i + 1) * grad[i + 1]) * near_.scales[i];
      sum += grad[i + 1];
    }
  }

private:
  static constexpr bool kTwoStages = std::is_same_v<T, float>;

  // What an arithmetic needs.
  template <class C> struct Stage {
    explicit Stage(int features)
        : scales(features), elevated(features + 1), residual(features + 1), sorted(features + 1) {
      axis_scales<C>(features, scales.get());
    }
    Buffer<C> scales, elevated, residual, sorted;
  };

  int features_;

public:
  Buffer<std::int32_t> point, rank; // the remainder-0 point; the rank of each coordinate's residual
  Buffer<T> weights;

private:
  Stage<T> near_;
  Stage<double> far_;

  // The operations of find_simplices, in their order: where both work, the bits are the same.
  template <class C> bool locate(Stage<C>& s, const T* features, std::int64_t stride) {
    const int last = features_, count = last + 1;
    const C inverse = C(1) / C(count), limit = static_cast<C>(wide_limit<C>());
    C sum = 0;
    for (int j = last; j > 0; --j) {
      const C feature = features == nullptr ? C(0) : static_cast<C>(features[(j - 1) * stride]);
      const C scaled = feature * s.scales[j - 1];
      s.elevated[j] = sum - static_cast<C>(j) * scaled;
      sum += scaled;
    }
    s.elevated[0] = sum;
    std::int64_t total = 0;
    for (int i = 0; i < count; ++i) {
      // Written so that NaN is outside as well.
      if (!(s.elevated[i] <= limit && s.elevated[i] >= -limit)) return false;
      const C rounded = rounded_to_even(s.elevated[i] * inverse);
      total += static_cast<std::int64_t>(rounded);
      point[i] = static_cast<std::int32_t>(rounded) * count;
      s.residual[i] = s.elevated[i] - rounded * C(count);
      rank[i] = 0;
    }
    for (int i = 0; i < count; ++i)
      for (int j = i + 1; j < count; ++j) {
        const bool smaller = s.residual[i] < s.residual[j];
        rank[i] += smaller;
        rank[j] += !smaller;
      }
    for (int i = 0; i < count; ++i) {
      rank[i] += static_cast<std::int32_t>(total);
      const int shift = rank[i] < 0 ? count : rank[i] >= count ? -count : 0;
      rank[i] += shift;
      point[i] += shift;
      if (rank[i] < 0 || rank[i] >= count)
        return false; // rounding errors add up: very many features
      s.sorted[rank[i]] = (s.elevated[i] - static_cast<C>(point[i])) * inverse;
    }
    weights[0] = static_cast<T>(s.sorted[last] + (C(1) - s.sorted[0]));
    for (int k = 1; k < count; ++k)
      weights[k] = static_cast<T>(s.sorted[last - k] - s.sorted[last - k + 1]);
    return true;
  }
  static float rounded_to_even(float x) { return __builtin_rintf(x); }
  static double rounded_to_even(double x) { return __builtin_rint(x); }
};

// Keys of so many 32-bit coordinates, numbered from 1 in the order of insertion; 0 stands for none.
class WideTable {
public:
  WideTable(int size, std::int64_t expected) : size_(size) {
    std::uint64_t slots = 1 << 10;
    while (slots < 2 * static_cast<std::uint64_t>(expected)) slots *= 2;
    take_slots(slots);
    keys_.reserve(static_cast<std::int64_t>(slots / 2) * size_);
  }
  ~WideTable() { give_scratch(slots_); }
  WideTable(const WideTable&) = delete;
  WideTable& operator=(const WideTable&) = delete;

  std::int64_t size() const { return count_; }
  const std::int32_t* operator[](std::int64_t number) const { return &keys_[(number - 1) * size_]; }

  std::uint32_t hash(const std::int32_t* key) const {
    std::uint64_t h = 0;
    for (int i = 0; i < size_; ++i) h = (h ^ static_cast<std::uint32_t>(key[i])) * kWideHash;
    return hash_of(static_cast<std::uint32_t>(h >> 32));
  }
  void prefetch(std::uint32_t hash) const { __builtin_prefetch(slots_ + (hash & mask_)); }
  std::uint32_t find(std::uint32_t hash, const std::int32_t* key) const {
    return static_cast<std::uint32_t>(slots_[search(hash, key)]);
  }
  std::uint32_t find_or_add(std::uint32_t hash, const std::int32_t* key) {
    const std::uint64_t at = search(hash, key);
    if (slots_[at] != 0) return static_cast<std::uint32_t>(slots_[at]);
    if (count_ + 1 >= std::int64_t{1} << 31) throw std::bad_alloc(); // rows are int32
    const std::uint32_t number = static_cast<std::uint32_t>(++count_);
    for (int i = 0; i < size_; ++i) keys_.append() = key[i];
    slots_[at] = static_cast<std::uint64_t>(hash) << 32 | number;
    if (2 * static_cast<std::uint64_t>(number) > mask_) grow();
    return number;
  }

private:
  std::uint64_t search(std::uint32_t hash, const std::int32_t* key) const {
    std::uint64_t at = hash & mask_;
    for (; slots_[at] != 0; at = (at + 1) & mask_)
      if (slots_[at] >> 32 == hash && same((*this)[static_cast<std::uint32_t>(slots_[at])], key))
        break;
    return at;
  }
  bool same(const std::int32_t* a, const std::int32_t* b) const {
    std::int32_t difference = 0;
    for (int i = 0; i < size_; ++i) difference |= a[i] ^ b[i];
    return difference == 0;
  }
  void take_slots(std::uint64_t count) {
    slots_ = take_table<std::uint64_t>(static_cast<std::int64_t>(count));
    mask_ = count - 1;
    std::memset(slots_, 0, count * sizeof(std::uint64_t));
  }
  void grow() {
    std::uint64_t* const old = slots_;
    const std::uint64_t old_count = mask_ + 1;
    take_slots(2 * old_count);
    for (std::uint64_t i = 0; i < old_count; ++i) {
      if (old[i] == 0) continue;
      std::uint64_t at = old[i] >> 32 & mask_;
      while (slots_[at] != 0) at = (at + 1) & mask_;
      slots_[at] = old[i];
    }
    give_scratch(old);
  }

  // Any odd number without a pattern: this is 2^64 divided by the golden ratio.
  static constexpr std::uint64_t kWideHash = 0x9e3779b97f4a7c15;
  int size_;
  std::int64_t count_ = 0;
  Growing<std::int32_t> keys_;
  std::uint64_t* slots_ = nullptr; // the upper half of the hash spreads best, so it is what is kept
  std::uint64_t mask_ = 0;
};

template <class T> class WideBuilder {
public:
  // `features` [D, P].
  WideBuilder(const T* features, int count, std::int64_t pixels, int threads, Lattice& lattice)
      : features_(features), count_(count), corners_(count + 1), threads_(threads),
        lattice_(lattice) {
    lattice.features = count;
    lattice.dtype = std::is_same_v<T, double> ? DType::float64 : DType::float32;
    lattice.pixels = pixels;
  }

  Status run(std::int64_t* bad_pixel) {
    // pydensecrf fills its last four pixels up with zero features, whose vertices exist.
    const std::int64_t touching = (lattice_.pixels + 3) / 4 * 4;
    const std::int64_t size = lattice_.blocks() * kBlock * corners_;
    lattice_.rows = allocate<std::int32_t>(size);
    lattice_.weights = allocate<T>(size);
    Scratch<std::int32_t> simplices(2 * corners_ * touching); // points and ranks of each pixel
    *bad_pixel = locate(touching, simplices.get());
    if (*bad_pixel >= 0) return Status::out_of_range;
    WideTable vertices(count_, touching);
    number(touching, simplices.get(), vertices);
    lattice_.vertices = vertices.size();
    lattice_.neighbours = allocate<std::int32_t>(2 * corners_ * lattice_.vertices);
    parallel_for(corners_, threads_,
                 [&](std::int64_t axis) { link(vertices, static_cast<int>(axis)); });
    return Status::ok;
  }

private:
  template <class Item> static Item* allocate(std::int64_t count) {
    return static_cast<Item*>(take_scratch(array_bytes(count, sizeof(Item))));
  }
  std::int64_t at(std::int64_t pixel) const { // of corner 0
    return pixel / kBlock * corners_ * kBlock + pixel % kBlock;
  }

  // Simplices, and weights, which are 0 from the last pixel on. The first pixel that is out of
  // range, or -1.
  std::int64_t locate(std::int64_t touching, std::int32_t* simplices) {
    constexpr std::int64_t step = 64 * kBlock;
    const std::int64_t padded = lattice_.blocks() * kBlock, tasks = (padded + step - 1) / step;
    T* const weights = static_cast<T*>(lattice_.weights);
    Buffer<std::int64_t> bad(tasks);
    parallel_for(tasks, threads_, [&](std::int64_t task) {
      SimplexFinder<T> finder(count_);
      bad[task] = -1;
      for (std::int64_t p = task * step; p < std::min(padded, (task + 1) * step); ++p) {
        const bool real = p < lattice_.pixels;
        if (p < touching) {
          if (!finder.find(real ? features_ + p : nullptr, lattice_.pixels)) {
            bad[task] = p;
            return;
          }
          std::copy_n(finder.point.get(), corners_, simplices + 2 * corners_ * p);
          std::copy_n(finder.rank.get(), corners_, simplices + 2 * corners_ * p + corners_);
        }
        for (int m = 0; m < corners_; ++m)
          weights[at(p) + m * kBlock] = real ? finder.weights[m] : T(0);
      }
    });
    for (std::int64_t task = 0; task < tasks; ++task)
      if (bad[task] >= 0) return bad[task];
    return -1;
  }

  void number(std::int64_t touching, const std::int32_t* simplices, WideTable& vertices) {
    Buffer<std::int32_t> keys(corners_ * count_);
    Buffer<std::uint32_t> hashes(corners_);
    for (std::int64_t p = 0; p < touching; ++p) {
      const std::int32_t *point = simplices + 2 * corners_ * p, *rank = point + corners_;
      for (int m = 0; m < corners_; ++m) {
        std::int32_t* const key = keys.get() + m * count_;
        for (int i = 0; i < count_; ++i)
          key[i] = point[i] + m - (rank[i] <= count_ - m ? 0 : corners_);
        hashes[m] = vertices.hash(key);
        vertices.prefetch(hashes[m]);
      }
      for (int m = 0; m < corners_; ++m) {
        const std::uint32_t row = vertices.find_or_add(hashes[m], keys.get() + m * count_);
        if (p < lattice_.pixels) lattice_.rows[at(p) + m * kBlock] = static_cast<std::int32_t>(row);
      }
    }
    // Those that fill up the last block touch what the last pixel touches.
    for (std::int64_t p = lattice_.pixels; p < lattice_.blocks() * kBlock; ++p)
      for (int m = 0; m < corners_; ++m)
        lattice_.rows[at(p) + m * kBlock] = lattice_.rows[at(lattice_.pixels - 1) + m * kBlock];
  }

  // The neighbours along one axis.
  void link(const WideTable& vertices, int axis) {
    const std::int64_t count = lattice_.vertices;
    std::int32_t* const links = lattice_.neighbours + 2 * axis * count;
    std::memset(links, 0, static_cast<std::size_t>(2 * count) * sizeof(std::int32_t));
    constexpr std::int64_t together = 16; // so that their searches overlap
    Buffer<std::int32_t> keys(together * count_);
    std::uint32_t hashes[together];
    for (std::int64_t first = 0; first < count; first += together) {
      const std::int64_t n = std::min(together, count - first);
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int32_t* const here = vertices[first + i + 1];
        std::int32_t* const key = keys.get() + i * count_;
        for (int c = 0; c < count_; ++c) key[c] = here[c] + (c == axis ? count_ : -1);
        hashes[i] = vertices.hash(key);
        vertices.prefetch(hashes[i]);
      }
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int32_t row =
            static_cast<std::int32_t>(vertices.find(hashes[i], keys.get() + i * count_));
        if (row == 0) continue;
        links[2 * (first + i)] = row;
        links[2 * (row - 1) + 1] = static_cast<std::int32_t>(first + i + 1);
      }
    }
  }

  const T* features_;
  int count_, corners_, threads_;
  Lattice& lattice_;
};

} // namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL
