// CPU twin. A task owns a row of the result and goes through it in blocks of a few vectors. For
// each row of the window it works out the weights of the block with every shift along the row, then
// adds up the labels, some of them at a time in registers: the weights, one row of the window of
// them, and the sums of the block stay in L1, and nothing else is stored.
#include "window_filter/window_filter.h"

#include <algorithm>
#include <limits>

#include "common/buffer_cpu.h"
#include "common/parallel_cpu.h"
#include "common/vec_math_cpu.h"

namespace fastseg::window_filter::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

// Vectors of a block, labels and shifts at a time: as many sums as there are registers for.
constexpr int kColumns = kSimdBytes == 64 ? 4 : 2;
constexpr int kLabels = kSimdBytes == 64 ? 6 : 5;
constexpr int kShifts = 8;

template <class T> constexpr std::int64_t kBlock = kColumns * kLanes<T>;
// exp of less counts as zero: no normal number.
template <class T>
constexpr T kLeastExponent =
    T(std::numeric_limits<T>::min_exponent - 1) * T(0.69314718055994530942);

// Rows of planes: plane p begins at data + p * distance.
template <class T> struct Lines {
  const T* data;
  std::int64_t distance;
  const T* operator[](std::int64_t p) const { return data + p * distance; }
};

// The planes of one image around blocks of columns, in the type that is computed in.
template <class Storage> class Source {
public:
  using T = compute_t<Storage>;

  Source(Map<Storage> map, std::int64_t image, std::int64_t planes, std::int64_t width,
         std::int64_t reach)
      : data_(map.data + image * map.strides.image), strides_(map.strides), planes_(planes),
        width_(width), reach_(reach), columns_(kBlock<T> + 2 * reach), copy_(planes * columns_) {}

  // Columns [x - reach, x + kBlock + reach) of row y of every plane, 0 outside of the image; good
  // until the next call.
  Lines<T> lines(std::int64_t y, std::int64_t x) {
    const Storage* const row = data_ + y * strides_.row;
    const std::int64_t first = x - reach_;
    if constexpr (std::is_same_v<Storage, T>)
      if (strides_.column == 1 && first >= 0 && first + columns_ <= width_)
        return {row + first, strides_.plane};
    const std::int64_t begin = std::max<std::int64_t>(0, first);
    const std::int64_t end = std::min(width_, first + columns_);
    for (std::int64_t p = 0; p < planes_; ++p) {
      T* const to = copy_.get() + p * columns_;
      const Storage* const from = row + p * strides_.plane;
      std::fill_n(to, begin - first, T(0));
      for (std::int64_t i = begin; i < end; ++i)
        to[i - first] = to_compute(from[i * strides_.column]);
      std::fill_n(to + (end - first), columns_ - (end - first), T(0));
    }
    return {copy_.get(), columns_};
  }

private:
  const Storage* data_;
  Strides strides_;
  std::int64_t planes_, width_, reach_, columns_;
  Buffer<T> copy_;
};

// weights[s][i] = exp(-|f_i - f_j|^2 / 2), pixel j of `there` being s columns from i in `here`,
// which begin at the same column; `self`: the shift at which j is i, or -1.
template <class T>
void weigh(Lines<T> here, Lines<T> there, std::int64_t dims, std::int64_t shifts, std::int64_t self,
           T* weights) {
  for (std::int64_t s = 0; s < shifts; ++s) {
    T* const to = weights + s * kBlock<T>;
    if (s == self) {
      std::fill_n(to, kBlock<T>, T(1));
      continue;
    }
    vec<T> square[kColumns] = {};
    for (std::int64_t d = 0; d < dims; ++d)
      for (int c = 0; c < kColumns; ++c) {
        const vec<T> difference =
            load_vec(here[d] + c * kLanes<T>) - load_vec(there[d] + s + c * kLanes<T>);
        square[c] += difference * difference;
      }
    for (int c = 0; c < kColumns; ++c) {
      const vec<T> exponent = square[c] * T(-0.5);
      const vec<T> weight = exp_nonpositive(exponent);
      store_vec(to + c * kLanes<T>, exponent < kLeastExponent<T> ? splat(T(0)) : weight);
    }
  }
}

// sums[l][i] += sum over s of weights[s][i] * there[l][i + s], for R labels from l on.
template <int R, class T>
void add_labels(const T* weights, Lines<T> there, std::int64_t l, std::int64_t shifts, T* sums) {
  vec<T> sum[R][kColumns] = {};
  const T* from[R];
  for (int r = 0; r < R; ++r) from[r] = there[l + r];
  for (std::int64_t s = 0; s < shifts; ++s)
    for (int c = 0; c < kColumns; ++c) {
      const vec<T> weight = load_vec(weights + s * kBlock<T> + c * kLanes<T>);
      for (int r = 0; r < R; ++r) sum[r][c] += weight * load_vec(from[r] + s + c * kLanes<T>);
    }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kColumns; ++c) {
      T* const to = sums + (l + r) * kBlock<T> + c * kLanes<T>;
      store_vec(to, load_vec(to) + sum[r][c]);
    }
}

// Calls fn(integral_constant<R>) for the run-time r in [1, R].
template <int R, class Fn> void with_count(std::int64_t r, const Fn& fn) {
  if (r == R) return fn(std::integral_constant<int, R>{});
  if constexpr (R > 1) with_count<R - 1>(r, fn);
}

template <class T>
void add_all_labels(const T* weights, Lines<T> there, std::int64_t labels, std::int64_t shifts,
                    T* sums) {
  // Groups of nearly the same size: a single label would leave most registers idle.
  const std::int64_t groups = (labels + kLabels - 1) / kLabels;
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t begin = labels * g / groups, end = labels * (g + 1) / groups;
    with_count<kLabels>(end - begin, [&](auto count) {
      add_labels<count.value>(weights, there, begin, shifts, sums);
    });
  }
}

// What one label map gives to products[s][i]: the sums of own[l][i] * there[l][i + s] over l, for
// G shifts from s on. `own` begins at the block, `there` `reach` columns before it.
template <int G, class T>
void add_products(Lines<T> own, Lines<T> there, std::int64_t labels, std::int64_t s, T* products) {
  for (int c = 0; c < kColumns; ++c) {
    vec<T> sum[G] = {};
    for (std::int64_t l = 0; l < labels; ++l) {
      const vec<T> mine = load_vec(own[l] + c * kLanes<T>);
      const T* const theirs = there[l] + s + c * kLanes<T>;
      for (int g = 0; g < G; ++g) sum[g] += mine * load_vec(theirs + g);
    }
    for (int g = 0; g < G; ++g) {
      T* const to = products + (s + g) * kBlock<T> + c * kLanes<T>;
      store_vec(to, load_vec(to) + sum[g]);
    }
  }
}

template <class T>
void add_all_products(Lines<T> own, Lines<T> there, std::int64_t labels, std::int64_t shifts,
                      T* products) {
  for (std::int64_t s = 0; s < shifts; s += kShifts)
    with_count<kShifts>(std::min<std::int64_t>(kShifts, shifts - s), [&](auto count) {
      add_products<count.value>(own, there, labels, s, products);
    });
}

// sums[d][i] += sum over s of weights[s][i] * products[s][i] * (there[d][i + s] - here[d][i]).
template <class T>
void add_pulls(const T* weights, const T* products, Lines<T> here, Lines<T> there,
               std::int64_t dims, std::int64_t shifts, T* sums) {
  for (std::int64_t d = 0; d < dims; ++d)
    for (int c = 0; c < kColumns; ++c) {
      const vec<T> own = load_vec(here[d] + c * kLanes<T>);
      vec<T> sum{};
      for (std::int64_t s = 0; s < shifts; ++s) {
        const std::int64_t i = s * kBlock<T> + c * kLanes<T>;
        const vec<T> pull = load_vec(weights + i) * load_vec(products + i);
        sum += pull * (load_vec(there[d] + s + c * kLanes<T>) - own);
      }
      T* const to = sums + d * kBlock<T> + c * kLanes<T>;
      store_vec(to, load_vec(to) + sum);
    }
}

// The window's reach along both axes, cut to the image.
struct Reach {
  std::int64_t rows, columns;
  explicit Reach(const Shape& s)
      : rows(std::min(s.radius, s.height - 1)), columns(std::min(s.radius, s.width - 1)) {}
  std::int64_t shifts() const { return 2 * columns + 1; }
};

// Calls fn(row, shift at which a pixel is itself or -1) for the rows of y's window.
template <class Fn>
void for_each_window_row(std::int64_t y, const Shape& s, Reach reach, const Fn& fn) {
  const std::int64_t last = std::min(s.height - 1, y + reach.rows);
  for (std::int64_t row = std::max<std::int64_t>(0, y - reach.rows); row <= last; ++row)
    fn(row, row == y ? reach.columns : -1);
}

// Writes a block's sums [planes][kBlock] to row y of contiguous planes, from column x on.
template <class Storage>
void write(const compute_t<Storage>* sums, std::int64_t planes, std::int64_t y, std::int64_t x,
           Storage* image, const Shape& s) {
  using T = compute_t<Storage>;
  for (std::int64_t p = 0; p < planes; ++p) {
    Storage* const to = image + (p * s.height + y) * s.width + x;
    for (int c = 0; c < kColumns; ++c) {
      const std::int64_t left = s.width - x - c * kLanes<T>;
      const vec<T> v = load_vec(sums + p * kBlock<T> + c * kLanes<T>);
      if (left >= kLanes<T>)
        store(to + c * kLanes<T>, v);
      else if (left > 0)
        store_partial(to + c * kLanes<T>, v, left);
    }
  }
}

template <class Storage>
void forward_typed(Map<Storage> values, Map<Storage> features, Storage* out, const Shape& s,
                   int threads) {
  using T = compute_t<Storage>;
  const Reach reach(s);
  parallel_for(s.batch * s.height, threads, [&](std::int64_t task) {
    const std::int64_t image = task / s.height, y = task % s.height;
    Source<Storage> own(features, image, s.dims, s.width, 0);
    Source<Storage> others(features, image, s.dims, s.width, reach.columns);
    Source<Storage> labels(values, image, s.labels, s.width, reach.columns);
    Buffer<T> weights(reach.shifts() * kBlock<T>), sums(s.labels * kBlock<T>);
    for (std::int64_t x = 0; x < s.width; x += kBlock<T>) {
      const Lines<T> here = own.lines(y, x);
      std::fill_n(sums.get(), s.labels * kBlock<T>, T(0));
      for_each_window_row(y, s, reach, [&](std::int64_t row, std::int64_t self) {
        weigh(here, others.lines(row, x), s.dims, reach.shifts(), self, weights.get());
        add_all_labels(weights.get(), labels.lines(row, x), s.labels, reach.shifts(), sums.get());
      });
      write(sums.get(), s.labels, y, x, out + image * s.labels * s.height * s.width, s);
    }
  });
}

// With k the weight: grad_features_i = sum over j of k_ij (g_i . v_j + v_i . g_j) (f_j - f_i).
template <class Storage>
void feature_gradient_typed(Map<Storage> grads, Map<Storage> values, Map<Storage> features,
                            Storage* grad_features, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const Reach reach(s);
  parallel_for(s.batch * s.height, threads, [&](std::int64_t task) {
    const std::int64_t image = task / s.height, y = task % s.height, shifts = reach.shifts();
    Source<Storage> own(features, image, s.dims, s.width, 0);
    Source<Storage> others(features, image, s.dims, s.width, reach.columns);
    Source<Storage> own_values(values, image, s.labels, s.width, 0);
    Source<Storage> own_grads(grads, image, s.labels, s.width, 0);
    Source<Storage> all_values(values, image, s.labels, s.width, reach.columns);
    Source<Storage> all_grads(grads, image, s.labels, s.width, reach.columns);
    Buffer<T> weights(shifts * kBlock<T>), products(shifts * kBlock<T>), sums(s.dims * kBlock<T>);
    for (std::int64_t x = 0; x < s.width; x += kBlock<T>) {
      const Lines<T> here = own.lines(y, x), v = own_values.lines(y, x), g = own_grads.lines(y, x);
      std::fill_n(sums.get(), s.dims * kBlock<T>, T(0));
      for_each_window_row(y, s, reach, [&](std::int64_t row, std::int64_t self) {
        const Lines<T> there = others.lines(row, x);
        weigh(here, there, s.dims, shifts, self, weights.get());
        std::fill_n(products.get(), shifts * kBlock<T>, T(0));
        add_all_products(g, all_values.lines(row, x), s.labels, shifts, products.get());
        add_all_products(v, all_grads.lines(row, x), s.labels, shifts, products.get());
        add_pulls(weights.get(), products.get(), here, there, s.dims, shifts, sums.get());
      });
      write(sums.get(), s.dims, y, x, grad_features + image * s.dims * s.height * s.width, s);
    }
  });
}

template <class Storage> Map<Storage> typed(Map<void> map) {
  return {static_cast<const Storage*>(map.data), map.strides};
}

void forward(DType dtype, Map<void> values, Map<void> features, void* out, const Shape& shape,
             int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    forward_typed(typed<Storage>(values), typed<Storage>(features), static_cast<Storage*>(out),
                  shape, threads);
  });
}

void feature_gradient(DType dtype, Map<void> grad_out, Map<void> values, Map<void> features,
                      void* grad_features, const Shape& shape, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    feature_gradient_typed(typed<Storage>(grad_out), typed<Storage>(values),
                           typed<Storage>(features), static_cast<Storage*>(grad_features), shape,
                           threads);
  });
}

} // namespace

const CpuKernels kernels = {forward, feature_gradient};

} // namespace fastseg::window_filter::FASTSEG_CPU_LEVEL
