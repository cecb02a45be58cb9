// CPU twin. The channels of a head lie side by side: a tap is a weighted sum of vectors.
#include "deformable_attention/deformable_attention.h"

#include <algorithm>

#include "common/buffer_cpu.h"
#include "common/parallel_cpu.h"
#include "common/scratch_cpu.h"
#include "common/simd_cpu.h"
#include "deformable_attention/deformable_attention_math.h"

namespace fastseg::deformable_attention::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

constexpr std::int64_t kQueries = 32; // of a task of the forward

// Calls fn(offset, factor) for each of the four cells of a place that lies on its map, with its
// number among the four, its number on the map and its weight.
template <class T, class Fn>
inline void for_each_cell(const Place<T>& p, std::int64_t height, std::int64_t width,
                          const Fn& fn) {
  const bool left = p.x >= 0, right = p.x + 1 < width;
  const std::int64_t cell = p.y * width + p.x;
  if (p.y >= 0) {
    if (left) fn(0, cell, (T(1) - p.down) * (T(1) - p.right));
    if (right) fn(1, cell + 1, (T(1) - p.down) * p.right);
  }
  if (p.y + 1 < height) {
    if (left) fn(2, cell + width, p.down * (T(1) - p.right));
    if (right) fn(3, cell + width + 1, p.down * p.right);
  }
}

// Calls fn(VectorsTag<k>{}, channel) for runs of k whole vectors, and tail(channel, count) for the
// channels that are left.
template <int k> struct VectorsTag {
  static constexpr int value = k;
};
template <class T, class Fn, class Tail>
inline void for_each_run(std::int64_t channels, const Fn& fn, const Tail& tail) {
  constexpr int L = kLanes<T>;
  std::int64_t d = 0;
  for (; d + 4 * L <= channels; d += 4 * L) fn(VectorsTag<4>{}, d);
  if (d + 2 * L <= channels) {
    fn(VectorsTag<2>{}, d);
    d += 2 * L;
  }
  if (d + L <= channels) {
    fn(VectorsTag<1>{}, d);
    d += L;
  }
  if (d < channels) tail(d, channels - d);
}

template <class Storage>
void forward_typed(const Storage* value, const compute_t<Storage>* locations,
                   const compute_t<Storage>* weights, Storage* out, const Shape& s,
                   const Levels& levels, int threads) {
  using T = compute_t<Storage>;
  using V = vec<T>;
  constexpr int L = kLanes<T>;
  const std::int64_t tasks = (s.queries + kQueries - 1) / kQueries;
  const std::int64_t points = levels.count * s.points, row = s.heads * s.channels;
  parallel_for(s.batch * tasks, threads, [&](std::int64_t task) {
    const std::int64_t n = task / tasks, first = task % tasks * kQueries;
    Buffer<std::int64_t> offsets(4 * points);
    Buffer<T> factors(4 * points);
    for (std::int64_t q = first; q < std::min(s.queries, first + kQueries); ++q)
      for (std::int64_t m = 0; m < s.heads; ++m) {
        const std::int64_t head = (n * s.queries + q) * s.heads + m;
        const T* at = locations + head * points * 2;
        const T* weight = weights + head * points;
        std::int64_t taps = 0, begin = n * s.cells;
        T poison(0);
        for (std::int64_t l = 0; l < levels.count; ++l) {
          const std::int64_t height = levels.heights[l], width = levels.widths[l];
          for (std::int64_t p = 0; p < s.points; ++p, at += 2, ++weight) {
            const Place<T> here = place(at[0], at[1], height, width);
            if (!here.reached) {
              poison += *weight * T(0) + here.poison;
              continue;
            }
            for_each_cell(here, height, width, [&](int, std::int64_t cell, T factor) {
              offsets[taps] = (begin + cell) * row + m * s.channels;
              factors[taps++] = *weight * factor;
            });
          }
          begin += height * width;
        }
        Storage* const to = out + head * s.channels;
        for_each_run<T>(
            s.channels,
            [&](auto vectors, std::int64_t d) {
              constexpr int k = decltype(vectors)::value;
              V sum[k];
              for (int i = 0; i < k; ++i) sum[i] = splat<T>(poison);
              for (std::int64_t t = 0; t < taps; ++t) {
                const Storage* const from = value + offsets[t] + d;
                const V factor = splat<T>(factors[t]);
                for (int i = 0; i < k; ++i) sum[i] += load(from + i * L) * factor;
              }
              for (int i = 0; i < k; ++i) store(to + d + i * L, sum[i]);
            },
            [&](std::int64_t d, std::int64_t count) {
              V sum = splat<T>(poison);
              for (std::int64_t t = 0; t < taps; ++t)
                sum += load_partial(value + offsets[t] + d, count) * splat<T>(factors[t]);
              store_partial(to + d, sum, count);
            });
      }
  });
}

// One head of one level of one image: its part of grad_value belongs to nobody else, so sums have
// one order, that of the queries.
template <class Storage> struct Backward {
  using T = compute_t<Storage>;
  using V = vec<T>;
  static constexpr int L = kLanes<T>;

  const Storage* grad_out;
  const Storage* value;
  const T* locations;
  const T* weights;
  Storage* grad_value;
  T* grad_locations;
  T* grad_weights;
  const Shape& s;
  const Levels& levels;

  void run(std::int64_t n, std::int64_t m, std::int64_t l, std::int64_t begin) const {
    const std::int64_t height = levels.heights[l], width = levels.widths[l];
    const std::int64_t cells = height * width, row = s.heads * s.channels;
    const std::int64_t stride = (s.channels + L - 1) / L * L;
    const std::int64_t dot_rows = (4 * s.points + L - 1) / L * L;
    Scratch<T> sums(cells * stride);
    std::fill_n(sums.get(), cells * stride, T(0));
    Buffer<Place<T>> places(s.points);
    Buffer<Tap> taps(4 * s.points);
    Buffer<T> dots(dot_rows * L); // kLanes partial sums of each
    const std::int64_t first = (n * s.cells + begin) * row + m * s.channels;
    for (std::int64_t q = 0; q < s.queries; ++q) {
      const std::int64_t head = (n * s.queries + q) * s.heads + m;
      const std::int64_t point = (head * levels.count + l) * s.points;
      std::int64_t count = 0;
      for (std::int64_t p = 0; p < s.points; ++p) {
        const T* const at = locations + 2 * (point + p);
        places[p] = place(at[0], at[1], height, width);
        if (!places[p].reached) continue;
        for_each_cell(places[p], height, width, [&](int k, std::int64_t cell, T factor) {
          taps[count++] = {cell, 4 * p + k, weights[point + p] * factor};
        });
      }
      std::fill_n(dots.get(), dot_rows * L, T(0));
      add_taps(grad_out + head * s.channels, value + first, row, taps.get(), count, sums.get(),
               stride, dots.get());
      add_lanes(dots.get(), dot_rows);
      for (std::int64_t p = 0; p < s.points; ++p)
        write_point(point + p, places[p], dots.get() + 4 * p, height, width);
    }
    for (std::int64_t cell = 0; cell < cells; ++cell) {
      Storage* const to = grad_value + first + cell * row;
      const T* const from = sums.get() + cell * stride;
      std::int64_t d = 0;
      for (; d + L <= s.channels; d += L) store(to + d, load_vec(from + d));
      if (d < s.channels) store_partial(to + d, load_vec(from + d), s.channels - d);
    }
  }

private:
  struct Tap {
    std::int64_t cell, dot;
    T factor;
  };

  // grad_value += factor * grad_out, and the dot products of grad_out and the values.
  void add_taps(const Storage* grad, const Storage* values, std::int64_t row, const Tap* taps,
                std::int64_t count, T* sums, std::int64_t stride, T* dots) const {
    for_each_run<T>(
        s.channels,
        [&](auto vectors, std::int64_t d) {
          constexpr int k = decltype(vectors)::value;
          V g[k];
          for (int i = 0; i < k; ++i) g[i] = load(grad + d + i * L);
          for (std::int64_t t = 0; t < count; ++t) {
            const Storage* const from = values + taps[t].cell * row + d;
            T* const to = sums + taps[t].cell * stride + d;
            const V factor = splat<T>(taps[t].factor);
            V dot = load_vec(dots + taps[t].dot * L);
            for (int i = 0; i < k; ++i) {
              dot += g[i] * load(from + i * L);
              store_vec(to + i * L, load_vec(to + i * L) + g[i] * factor);
            }
            store_vec(dots + taps[t].dot * L, dot);
          }
        },
        [&](std::int64_t d, std::int64_t rest) {
          const V g = load_partial(grad + d, rest);
          for (std::int64_t t = 0; t < count; ++t) {
            T* const to = sums + taps[t].cell * stride + d;
            T* const dot = dots + taps[t].dot * L;
            store_vec(to, load_vec(to) + g * splat<T>(taps[t].factor));
            store_vec(dot, load_vec(dot) + g * load_partial(values + taps[t].cell * row + d, rest));
          }
        });
  }

  // Sums the kLanes numbers of each row; the sums take the place of the first rows.
  static void add_lanes(T* rows, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += L) {
      V v[L];
      for (int k = 0; k < L; ++k) v[k] = load_vec(rows + (i + k) * L);
      transpose<T>(v);
      for (int width = L / 2; width >= 1; width /= 2)
        for (int k = 0; k < width; ++k) v[k] += v[k + width];
      store_vec(rows + i, v[0]);
    }
  }

  // dots: of the four cells; 0 for those that lie outside.
  void write_point(std::int64_t point, const Place<T>& p, const T* dots, std::int64_t height,
                   std::int64_t width) const {
    const T up = T(1) - p.down, left = T(1) - p.right;
    const T weight = weights[point];
    grad_weights[point] = up * (left * dots[0] + p.right * dots[1]) +
                          p.down * (left * dots[2] + p.right * dots[3]) + p.poison;
    grad_locations[2 * point] =
        weight * static_cast<T>(width) * (up * (dots[1] - dots[0]) + p.down * (dots[3] - dots[2])) +
        p.poison;
    grad_locations[2 * point + 1] =
        weight * static_cast<T>(height) *
            (left * (dots[2] - dots[0]) + p.right * (dots[3] - dots[1])) +
        p.poison;
  }
};

template <class Storage>
void backward_typed(const Storage* grad_out, const Storage* value,
                    const compute_t<Storage>* locations, const compute_t<Storage>* weights,
                    Storage* grad_value, compute_t<Storage>* grad_locations,
                    compute_t<Storage>* grad_weights, const Shape& s, const Levels& levels,
                    int threads) {
  const Backward<Storage> backward{grad_out,       value,        locations, weights, grad_value,
                                   grad_locations, grad_weights, s,         levels};
  parallel_for(s.batch * s.heads * levels.count, threads, [&](std::int64_t task) {
    const std::int64_t l = task % levels.count, head = task / levels.count;
    std::int64_t begin = 0;
    for (std::int64_t k = 0; k < l; ++k) begin += levels.heights[k] * levels.widths[k];
    backward.run(head / s.heads, head % s.heads, l, begin);
  });
}

void forward(DType dtype, const void* value, const void* locations, const void* weights, void* out,
             const Shape& shape, const Levels& levels, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    using T = compute_t<Storage>;
    forward_typed(static_cast<const Storage*>(value), static_cast<const T*>(locations),
                  static_cast<const T*>(weights), static_cast<Storage*>(out), shape, levels,
                  threads);
  });
}

void backward(DType dtype, const void* grad_out, const void* value, const void* locations,
              const void* weights, void* grad_value, void* grad_locations, void* grad_weights,
              const Shape& shape, const Levels& levels, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    using T = compute_t<Storage>;
    backward_typed(static_cast<const Storage*>(grad_out), static_cast<const Storage*>(value),
                   static_cast<const T*>(locations), static_cast<const T*>(weights),
                   static_cast<Storage*>(grad_value), static_cast<T*>(grad_locations),
                   static_cast<T*>(grad_weights), shape, levels, threads);
  });
}

} // namespace

const CpuKernels kernels{forward, backward};

} // namespace fastseg::deformable_attention::FASTSEG_CPU_LEVEL
