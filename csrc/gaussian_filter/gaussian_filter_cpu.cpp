// CPU twin. Pairs of points are worked on in tiles of 64 x 64: first the weights of the tile, then
// their product with the values, like a matrix product whose second factor is never stored. A task
// owns the 64 points (queries) of a tile row and visits the others (keys) in ascending order, so
// the sum is the same bits however the work is split. A tile whose points are so far apart that
// every weight is zero in this precision is skipped: on an image in scan order most tiles of a
// narrow spatial kernel are.
#include "gaussian_filter/gaussian_filter.h"

#include <algorithm>
#include <limits>

#include "common/buffer_cpu.h"
#include "common/parallel_cpu.h"
#include "common/vec_math_cpu.h"

namespace fastseg::gaussian_filter::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

constexpr std::int64_t kTile = 64;
// Tiles that are summed before they are added to the total: with few and equal parts at each of
// three levels the sum over 10^5 points stays exact to a few units in the last place.
constexpr std::int64_t kTilesPerSum = 8;
// Rows and vectors of a block of the product: as many accumulators as there are registers for.
constexpr int kRows = 8;
constexpr int kColumns = kSimdBytes == 64 ? 2 : 1;

template <class T> constexpr T kHalfLog2E = T(0.72134752044448170368);
// exp2 of less counts as zero.
template <class T> constexpr T kLeastExponent = T(std::numeric_limits<T>::min_exponent - 1);

// The range of every feature over each tile of an image, as [tile][dim] {low, high}.
template <class T> struct Range {
  T low, high;
};

template <class T> Range<T> range_of(const T* values, std::int64_t count) {
  Range<T> r{values[0], values[0]};
  T finite = 0; // NaN if any value is not finite
  for (std::int64_t i = 0; i < count; ++i) {
    r.low = std::min(r.low, values[i]);
    r.high = std::max(r.high, values[i]);
    finite += values[i] - values[i];
  }
  if (finite == finite) return r;
  constexpr T all = std::numeric_limits<T>::infinity();
  return {-all, all}; // such a tile is never skipped: its NaN must be seen
}

template <class T> bool is_far(const Range<T>* a, const Range<T>* b, std::int64_t dims) {
  T square = 0;
  for (std::int64_t d = 0; d < dims; ++d) {
    const T gap = std::max(std::max(a[d].low - b[d].high, b[d].low - a[d].high), T(0));
    square += gap * gap;
  }
  return square * -kHalfLog2E<T> < kLeastExponent<T> * T(1.001); // beyond any rounding
}

// weights[j][i] = exp(-|query i - key j|^2 / 2). queries [dims][kTile]; keys [dims][points].
template <class T>
void weigh(const T* queries, const T* keys, std::int64_t points, std::int64_t dims,
           std::int64_t count, T* weights) {
  constexpr int vectors = kTile / kLanes<T>;
  for (std::int64_t j = 0; j < count; ++j) {
    vec<T> square[vectors] = {};
    for (std::int64_t d = 0; d < dims; ++d) {
      const vec<T> key = splat(keys[d * points + j]);
      for (int v = 0; v < vectors; ++v) {
        // The difference itself: |q|^2 - 2 q k + |k|^2 would cancel.
        const vec<T> difference = load_vec(queries + d * kTile + v * kLanes<T>) - key;
        square[v] += difference * difference;
      }
    }
    for (int v = 0; v < vectors; ++v) {
      const vec<T> exponent = square[v] * -kHalfLog2E<T>;
      const vec<T> weight = exp2_nonpositive(exponent);
      store_vec(weights + j * kTile + v * kLanes<T>,
                exponent < kLeastExponent<T> ? splat(T(0)) : weight);
    }
  }
}

// A matrix with any strides.
template <class T> struct Matrix {
  const T* data;
  std::int64_t row, column;
};

// sums[r][i] += sum over k of m[r][k] * x[k][i], for R rows of m and kTile columns.
template <int R, class T>
void multiply_block(Matrix<T> m, const T* x, std::int64_t depth, T* sums) {
  constexpr std::int64_t width = kColumns * kLanes<T>;
  for (std::int64_t i = 0; i < kTile; i += width) {
    vec<T> sum[R][kColumns] = {};
    for (std::int64_t k = 0; k < depth; ++k) {
      vec<T> right[kColumns];
      for (int c = 0; c < kColumns; ++c) right[c] = load_vec(x + k * kTile + i + c * kLanes<T>);
      for (int r = 0; r < R; ++r) {
        const vec<T> left = splat(m.data[r * m.row + k * m.column]);
        for (int c = 0; c < kColumns; ++c) sum[r][c] += left * right[c];
      }
    }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < kColumns; ++c) {
        T* const to = sums + r * kTile + i + c * kLanes<T>;
        store_vec(to, load_vec(to) + sum[r][c]);
      }
  }
}

template <class T>
void multiply(Matrix<T> m, std::int64_t rows, const T* x, std::int64_t depth, T* sums) {
  std::int64_t r = 0;
  const auto rest = [&](std::int64_t from) {
    return Matrix<T>{m.data + from * m.row, m.row, m.column};
  };
  for (; r + kRows <= rows; r += kRows) multiply_block<kRows>(rest(r), x, depth, sums + r * kTile);
  if (r + 4 <= rows) {
    multiply_block<4>(rest(r), x, depth, sums + r * kTile);
    r += 4;
  }
  if (r + 2 <= rows) {
    multiply_block<2>(rest(r), x, depth, sums + r * kTile);
    r += 2;
  }
  if (r < rows) multiply_block<1>(rest(r), x, depth, sums + r * kTile);
}

// sums[d][i] -= sum over j of factors[j][i] * (queries[d][i] - keys[d][j])
template <class T>
void subtract_differences(const T* factors, const T* queries, const T* keys, std::int64_t points,
                          std::int64_t dims, std::int64_t count, T* sums) {
  constexpr int vectors = kTile / kLanes<T>;
  for (std::int64_t d = 0; d < dims; ++d)
    for (int v = 0; v < vectors; ++v) {
      const vec<T> query = load_vec(queries + d * kTile + v * kLanes<T>);
      vec<T> sum{};
      for (std::int64_t j = 0; j < count; ++j)
        sum += load_vec(factors + j * kTile + v * kLanes<T>) * (query - keys[d * points + j]);
      T* const to = sums + d * kTile + v * kLanes<T>;
      store_vec(to, load_vec(to) - sum);
    }
}

// Planes [rows][kTile] that collect the results of a tile row.
template <class T> class Sums {
public:
  explicit Sums(std::int64_t rows) : size_(rows * kTile), partial_(size_), total_(size_) {
    std::fill_n(partial_.get(), size_, T(0));
    std::fill_n(total_.get(), size_, T(0));
  }
  T* partial() { return partial_.get(); }
  void flush() {
    for (std::int64_t i = 0; i < size_; ++i) {
      total_[i] += partial_[i];
      partial_[i] = T(0);
    }
  }
  // Copies the first `count` columns of `rows` rows from `from` on to planes of `points`.
  void write(std::int64_t from, std::int64_t rows, std::int64_t count, T* planes,
             std::int64_t points) const {
    for (std::int64_t r = 0; r < rows; ++r)
      std::copy_n(total_.get() + (from + r) * kTile, count, planes + r * points);
  }

private:
  std::int64_t size_;
  Buffer<T> partial_, total_;
};

// What the tasks of both directions share.
template <class T> struct Job {
  const Shape& s;
  const T* features;
  std::int64_t tiles; // of one image
  Buffer<Range<T>> ranges;

  Job(const Shape& shape, const T* features_, int threads)
      : s(shape), features(features_), tiles((s.points + kTile - 1) / kTile),
        ranges(s.batch * tiles * s.dims) {
    parallel_for(s.batch * tiles, threads, [&](std::int64_t task) {
      const std::int64_t first = task % tiles * kTile;
      for (std::int64_t d = 0; d < s.dims; ++d)
        ranges[task * s.dims + d] =
            range_of(plane(task / tiles, d) + first, std::min(kTile, s.points - first));
    });
  }

  const T* plane(std::int64_t image, std::int64_t d) const {
    return features + (image * s.dims + d) * s.points;
  }

  // The features of the points from `first` on, as [dims][kTile]; past the end the last is
  // repeated.
  void read_queries(std::int64_t image, std::int64_t first, T* queries) const {
    for (std::int64_t d = 0; d < s.dims; ++d)
      for (std::int64_t i = 0; i < kTile; ++i)
        queries[d * kTile + i] = plane(image, d)[std::min(first + i, s.points - 1)];
  }

  // Calls fn(first key, keys) for the tiles that are not far from tile `task % tiles` of its image,
  // and flush() in between.
  template <class Fn, class Flush>
  void for_each_near_tile(std::int64_t task, const Fn& fn, const Flush& flush) const {
    const std::int64_t base = task / tiles * tiles;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const bool far = is_far(&ranges[task * s.dims], &ranges[(base + tile) * s.dims], s.dims);
      if (!far) fn(tile * kTile, std::min(kTile, s.points - tile * kTile));
      if (tile % kTilesPerSum == kTilesPerSum - 1 || tile == tiles - 1) flush();
    }
  }
};

template <class T>
void forward_typed(const T* values, const T* features, T* out, const Shape& s, int threads) {
  const Job<T> job(s, features, threads);
  parallel_for(s.batch * job.tiles, threads, [&](std::int64_t task) {
    const std::int64_t image = task / job.tiles, first = task % job.tiles * kTile;
    Buffer<T> queries(s.dims * kTile), weights(kTile * kTile);
    Sums<T> sums(s.labels);
    job.read_queries(image, first, queries.get());
    job.for_each_near_tile(
        task,
        [&](std::int64_t key, std::int64_t count) {
          weigh(queries.get(), job.plane(image, 0) + key, s.points, s.dims, count, weights.get());
          const T* const rows = values + (image * s.points + key) * s.labels;
          multiply(Matrix<T>{rows, 1, s.labels}, s.labels, weights.get(), count, sums.partial());
        },
        [&] { sums.flush(); });
    sums.write(0, s.labels, std::min(kTile, s.points - first),
               out + image * s.labels * s.points + first, s.points);
  });
}

// With k the weight and s_ij = g_i . v_j + v_i . g_j for the upstream gradient g:
// grad_values_i = sum over j of k_ij g_j;  grad_features_i = - sum over j of k_ij s_ij (f_i - f_j).
template <class T>
void backward_typed(const T* grad_out, const T* values, const T* features, T* grad_values,
                    T* grad_features, const Shape& s, int threads) {
  const Job<T> job(s, features, threads);
  parallel_for(s.batch * job.tiles, threads, [&](std::int64_t task) {
    const std::int64_t image = task / job.tiles, first = task % job.tiles * kTile;
    const std::int64_t count_queries = std::min(kTile, s.points - first);
    Buffer<T> queries(s.dims * kTile), weights(kTile * kTile), products(kTile * kTile);
    // The queries' own values and gradients, as planes.
    Buffer<T> own_values(s.labels * kTile), own_grads(s.labels * kTile);
    for (std::int64_t i = 0; i < kTile; ++i) {
      const std::int64_t point = image * s.points + std::min(first + i, s.points - 1);
      for (std::int64_t l = 0; l < s.labels; ++l) {
        own_values[l * kTile + i] = values[point * s.labels + l];
        own_grads[l * kTile + i] = grad_out[point * s.labels + l];
      }
    }
    Sums<T> sums(s.labels + s.dims);
    job.read_queries(image, first, queries.get());
    job.for_each_near_tile(
        task,
        [&](std::int64_t key, std::int64_t count) {
          const T* const keys = job.plane(image, 0) + key;
          weigh(queries.get(), keys, s.points, s.dims, count, weights.get());
          const T* const key_values = values + (image * s.points + key) * s.labels;
          const T* const key_grads = grad_out + (image * s.points + key) * s.labels;
          multiply(Matrix<T>{key_grads, 1, s.labels}, s.labels, weights.get(), count,
                   sums.partial());
          std::fill_n(products.get(), count * kTile, T(0));
          multiply(Matrix<T>{key_values, s.labels, 1}, count, own_grads.get(), s.labels,
                   products.get());
          multiply(Matrix<T>{key_grads, s.labels, 1}, count, own_values.get(), s.labels,
                   products.get());
          for (std::int64_t i = 0; i < count * kTile; ++i) products[i] *= weights[i];
          subtract_differences(products.get(), queries.get(), keys, s.points, s.dims, count,
                               sums.partial() + s.labels * kTile);
        },
        [&] { sums.flush(); });
    sums.write(0, s.labels, count_queries, grad_values + image * s.labels * s.points + first,
               s.points);
    sums.write(s.labels, s.dims, count_queries, grad_features + image * s.dims * s.points + first,
               s.points);
  });
}

template <class Fn> void dispatch_compute_dtype(DType dtype, const Fn& fn) {
  if (dtype == DType::float32) return fn(TypeTag<float>{});
  if (dtype == DType::float64) return fn(TypeTag<double>{});
  throw std::invalid_argument("gaussian_filter computes in float32 or float64");
}

void forward(DType dtype, const void* values, const void* features, void* out, const Shape& shape,
             int threads) {
  dispatch_compute_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    forward_typed(static_cast<const T*>(values), static_cast<const T*>(features),
                  static_cast<T*>(out), shape, threads);
  });
}

void backward(DType dtype, const void* grad_out, const void* values, const void* features,
              void* grad_values, void* grad_features, const Shape& shape, int threads) {
  dispatch_compute_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    backward_typed(static_cast<const T*>(grad_out), static_cast<const T*>(values),
                   static_cast<const T*>(features), static_cast<T*>(grad_values),
                   static_cast<T*>(grad_features), shape, threads);
  });
}

} // namespace

const CpuKernels kernels = {forward, backward};

} // namespace fastseg::gaussian_filter::FASTSEG_CPU_LEVEL
