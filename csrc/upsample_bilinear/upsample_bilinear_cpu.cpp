// CPU twin. Both directions are separable, and each does its cheap half on low-resolution rows: the
// forward resizes a source row along the width once and blends two of those for every output row;
// the backward sums output rows into source rows first, then along the width. The backward gathers:
// each task owns source rows and visits the output rows that touch them in ascending order, so the
// sum is the same bits however the work is split.
#include "upsample_bilinear/upsample_bilinear.h"

#include <algorithm>

#include "common/line_pair_cpu.h"
#include "common/parallel_cpu.h"
#include "common/resize_columns_cpu.h"
#include "common/rows_cpu.h"

namespace fastseg::upsample_bilinear::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

// What is worked on at a time along a row: it stays in the L1 cache with its partners.
constexpr std::int64_t kSegment = 2048;
// How far ahead of the pixels being summed their lines are fetched, in bytes.
constexpr std::int64_t kAhead = 6144;

template <class Storage> struct Job {
  using T = compute_t<Storage>;
  const Shape& s;
  ResizeAxis rows;
  ResizeColumns<T> columns;
  std::int64_t inner;  // neighbouring values per column: C in channels_last, else 1
  std::int64_t images; // maps of in_h x (in_w * inner) values
  explicit Job(const Shape& shape)
      : s(shape), rows(resize_axis(s.in_h, s.out_h, s.align_corners, s.scale_h)),
        columns(resize_axis(s.in_w, s.out_w, s.align_corners, s.scale_w)),
        inner(s.channels_last ? s.channels : 1),
        images(s.channels_last ? s.batch : s.batch * s.channels) {}
  std::int64_t in_row() const { return s.in_w * inner; }
  std::int64_t out_row() const { return s.out_w * inner; }
};

// Columns [begin, end) of a source row, resized along the width. `line`: scratch for a source row.
template <class Storage, class T = compute_t<Storage>>
void resize_segment(const Job<Storage>& job, const Storage* source, std::int64_t begin,
                    std::int64_t end, T* line, T* out) {
  const ResizeColumns<T>& columns = job.columns;
  if (job.inner > 1) {
    for (std::int64_t x = begin; x < end; ++x)
      blend_rows(out + (x - begin) * job.inner, source + columns.lo(x) * job.inner,
                 source + columns.hi(x) * job.inner, columns.w_lo(x), columns.w_hi(x), job.inner);
    return;
  }
  read_line(line, source, 1, columns.in());
  pad_row(line, columns.in());
  for (std::int64_t x = begin; x < end; x += kLanes<T>)
    store_vec(out + x - begin, resize_block<T>(line, columns.block(x / kLanes<T>)));
}

template <class Storage>
void forward_typed(const Storage* x, Storage* out, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const Job<Storage> job(s);
  const std::int64_t out_row = job.out_row();
  const bool stream =
      job.images * s.out_h * out_row * static_cast<std::int64_t>(sizeof(Storage)) > kStreamBytes;
  // Whole vectors of columns, and at least one.
  const std::int64_t segment =
      std::max<std::int64_t>(kSegment / job.inner / kLanes<T>, 1) * kLanes<T>;
  const std::int64_t segments = (s.out_w + segment - 1) / segment;
  const std::int64_t chunk = std::max<std::int64_t>(8, s.out_h / 8);
  const std::int64_t chunks = (s.out_h + chunk - 1) / chunk;
  parallel_for(job.images * chunks, threads, [&](std::int64_t task) {
    const std::int64_t image = task / chunks, first = task % chunks * chunk;
    const std::int64_t last = std::min(first + chunk, s.out_h);
    const Storage* source = x + image * s.in_h * job.in_row();
    Storage* target = out + image * s.out_h * out_row;
    Buffer<T> line(ResizeColumns<T>::padded(s.in_w));
    for (std::int64_t i = 0; i < segments; ++i) {
      const std::int64_t begin = i * segment, end = std::min(begin + segment, s.out_w);
      LinePair<T> lines(segment * job.inner);
      for (std::int64_t y = first; y < last; ++y) {
        const Taps<T> t = taps<T>(job.rows, y);
        lines.move_to(t.lo, t.hi, [&](std::int64_t row, T* to) {
          resize_segment(job, source + row * job.in_row(), begin, end, line.get(), to);
        });
        write_blend(target + y * out_row + begin * job.inner, lines.lo(), lines.hi(), t.w_lo,
                    t.w_hi, (end - begin) * job.inner, stream);
      }
    }
    if (stream) stream_fence();
  });
}

// lo[i] += w_lo * row[i] and hi[i] += w_hi * row[i]. One row at a time: read in order of the
// addresses, the gradient comes at the memory's speed, and rows read in turns do not.
template <bool kLo, bool kHi, class Storage, class T = compute_t<Storage>>
void add_row(const Storage* row, std::int64_t n, T w_lo, T w_hi, T* lo, T* hi) {
  std::int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) {
    __builtin_prefetch(row + n + i); // the next row
    const vec<T> g = load(row + i);
    if (kLo) store_vec(lo + i, load_vec(lo + i) + g * w_lo);
    if (kHi) store_vec(hi + i, load_vec(hi + i) + g * w_hi);
  }
  for (; i < n; ++i) {
    const T g = to_compute(row[i]);
    if (kLo) lo[i] += g * w_lo;
    if (kHi) hi[i] += g * w_hi;
  }
}

// Parts that `count` units are cut into, for `threads` threads with `images` images. Every part
// reads the output rows above it a second time, so there are no more than balance the threads.
inline std::int64_t parts_of(std::int64_t count, std::int64_t images, int threads) {
  const std::int64_t wanted = (2 * threads + images - 1) / std::max<std::int64_t>(images, 1);
  return std::min(std::max<std::int64_t>(wanted, 1), count);
}

// The horizontal adjoint of one vector of values per column: lo never decreases, so two running
// sums are enough. value(x) for columns [begin, end); add(i, sum) gets each source column at most
// twice.
template <class T, class Value, class Add>
void columns_adjoint(const ResizeColumns<T>& columns, std::int64_t begin, std::int64_t end,
                     const Value& value, const Add& add) {
  std::int64_t at = columns.lo(begin);
  vec<T> sum{}, next{}; // of source columns at and at + 1
  for (std::int64_t x = begin; x < end; ++x) {
    const std::int64_t lo = columns.lo(x);
    if (lo != at) {
      add(at, sum);
      if (lo > at + 1) add(at + 1, next);
      sum = lo == at + 1 ? next : vec<T>{};
      next = vec<T>{};
      at = lo;
    }
    const vec<T> v = value(x);
    sum += v * columns.w_lo(x);
    next += v * columns.w_hi(x);
  }
  if (at + 1 == columns.in()) // the right border: hi is lo
    add(at, sum + next);
  else
    add(at, sum), add(at + 1, next);
}

template <class Storage>
void backward_nchw(const Storage* grad_out, Storage* grad_x, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  constexpr int L = kLanes<T>;
  const Job<Storage> job(s);
  const std::int64_t groups = (s.in_h + L - 1) / L; // L source rows each
  const std::int64_t parts = parts_of(groups, job.images, threads);
  const std::int64_t stride = job.columns.blocks() * L;
  parallel_for(job.images * parts, threads, [&](std::int64_t task) {
    const std::int64_t plane = task / parts, part = task % parts;
    const Storage* source = grad_out + plane * s.out_h * s.out_w;
    Storage* plane_target = grad_x + plane * s.in_h * s.in_w;
    Buffer<T> vertical(L * stride);
    Buffer<T> sums(s.in_w * L + L * L);
    for (std::int64_t group = groups * part / parts; group < groups * (part + 1) / parts; ++group) {
      const std::int64_t first = group * L, count = std::min<std::int64_t>(L, s.in_h - first);
      Storage* target = plane_target + first * s.in_w;
      zero_row(vertical.get(), L * stride);
      zero_row(sums.get(), s.in_w * L + L * L);
      const auto row = [&](std::int64_t i) { return vertical.get() + (i - first) * stride; };
      const std::int64_t end = first_output(job.rows, first + count);
      for (std::int64_t y = first_output(job.rows, first - 1); y < end; ++y) {
        const Taps<T> t = taps<T>(job.rows, y);
        const Storage* from = source + y * s.out_w;
        if (t.lo < first)
          add_row<false, true>(from, s.out_w, T(0), t.w_hi, row(first), row(first));
        else if (t.hi == t.lo)
          add_row<true, false>(from, s.out_w, T(1), T(0), row(t.lo), row(t.lo));
        else if (t.hi >= first + count)
          add_row<true, false>(from, s.out_w, t.w_lo, T(0), row(t.lo), row(t.lo));
        else
          add_row<true, true>(from, s.out_w, t.w_lo, t.w_hi, row(t.lo), row(t.hi));
      }
      // Lanes are rows: transposed tiles of L columns, and back. Memory would idle meanwhile.
      const char* ahead = reinterpret_cast<const char*>(source + end * s.out_w);
      vec<T> tile[L];
      columns_adjoint(
          job.columns, 0, s.out_w,
          [&](std::int64_t x) {
            if (x % L == 0) {
              for (int k = 0; k < L; ++k) {
                __builtin_prefetch(ahead + (x + k) * 64);
                tile[k] = load_vec(vertical.get() + k * stride + x);
              }
              transpose<T>(tile);
            }
            return tile[x % L];
          },
          [&](std::int64_t i, vec<T> sum) {
            store_vec(sums.get() + i * L, load_vec(sums.get() + i * L) + sum);
          });
      for (std::int64_t i = 0; i < s.in_w; i += L) {
        for (int k = 0; k < L; ++k) tile[k] = load_vec(sums.get() + (i + k) * L);
        transpose<T>(tile);
        for (std::int64_t k = 0; k < count; ++k) {
          if (i + L <= s.in_w)
            store(target + k * s.in_w + i, tile[k]);
          else
            store_partial(target + k * s.in_w + i, tile[k], s.in_w - i);
        }
      }
    }
  });
}

// The sums of one source column and of the one to its right, over the pixels of an output row.
// Beyond the channels they hold zeros, up to a whole vector.
template <class T> struct ColumnSums {
  std::int64_t width;
  Buffer<T> first, second;
  T *lo, *hi;

  explicit ColumnSums(std::int64_t channels)
      : width((channels + kLanes<T> - 1) / kLanes<T> * kLanes<T>), first(width), second(width),
        lo(first.get()), hi(second.get()) {
    zero_row(lo, width);
    zero_row(hi, width);
  }
  // On to the next source column.
  void advance() {
    std::swap(lo, hi);
    zero_row(hi, width);
  }
};

// Adds kCount neighbouring pixels of C channels that lie between the same two source columns.
// `end`: of the whole map, which the last vector of its last pixel must not read over.
template <int kCount, class Storage, class T = compute_t<Storage>>
void add_pixels(const Storage* pixels, const Storage* end, std::int64_t C,
                const ResizeColumns<T>& columns, std::int64_t x, ColumnSums<T>& sums) {
  constexpr int L = kLanes<T>;
  T w_lo[kCount], w_hi[kCount];
  for (int k = 0; k < kCount; ++k) w_lo[k] = columns.w_lo(x + k), w_hi[k] = columns.w_hi(x + k);
  std::int64_t c = 0;
  for (; c + L <= C; c += L) {
    vec<T> lo = load_vec(sums.lo + c), hi = load_vec(sums.hi + c);
    for (int k = 0; k < kCount; ++k) {
      // Pixels in turns end too soon for a hardware prefetcher: their lines, in address order.
      __builtin_prefetch(pixels + kAhead / sizeof(Storage) + c * kCount + k * L);
      const vec<T> g = load(pixels + k * C + c);
      lo += g * w_lo[k];
      hi += g * w_hi[k];
    }
    store_vec(sums.lo + c, lo);
    store_vec(sums.hi + c, hi);
  }
  if (c == C) return;
  const ivec<T> inside = iota<T>() < isplat<T>(static_cast<lane_int<T>>(C - c));
  vec<T> lo = load_vec(sums.lo + c), hi = load_vec(sums.hi + c);
  for (int k = 0; k < kCount; ++k) {
    const Storage* p = pixels + k * C + c;
    const vec<T> g = end - p < L ? load_partial(p, C - c) : inside ? load(p) : vec<T>{};
    lo += g * w_lo[k];
    hi += g * w_hi[k];
  }
  store_vec(sums.lo + c, lo);
  store_vec(sums.hi + c, hi);
}

// Sums an output row into source columns: flush(column, sums) gets each column at most twice.
template <class Storage, class T = compute_t<Storage>, class Flush>
void add_pixel_row(const Storage* row, const Storage* end, std::int64_t C,
                   const ResizeColumns<T>& columns, ColumnSums<T>& sums, const Flush& flush) {
  std::int64_t at = columns.lo(0);
  for (std::int64_t x = 0; x < columns.out();) {
    const std::int64_t lo = columns.lo(x);
    if (lo != at) {
      flush(at, sums.lo);
      sums.advance();
      if (lo != at + 1) {
        flush(at + 1, sums.lo);
        sums.advance();
      }
      at = lo;
    }
    const auto pixels = row + x * C;
    if (x + 3 < columns.out() && columns.lo(x + 3) == lo)
      add_pixels<4>(pixels, end, C, columns, x, sums), x += 4;
    else if (x + 1 < columns.out() && columns.lo(x + 1) == lo)
      add_pixels<2>(pixels, end, C, columns, x, sums), x += 2;
    else
      add_pixels<1>(pixels, end, C, columns, x, sums), x += 1;
  }
  // At the right border hi is lo.
  flush(at, sums.lo);
  sums.advance();
  flush(std::min(at + 1, columns.in() - 1), sums.lo);
  sums.advance();
}

template <class Storage>
void backward_channels_last(const Storage* grad_out, Storage* grad_x, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  constexpr int L = kLanes<T>;
  const Job<Storage> job(s);
  const std::int64_t C = s.channels, in_row = job.in_row(), out_row = job.out_row();
  const std::int64_t parts = parts_of(s.in_h, s.batch, threads);
  const Storage* grad_end = grad_out + s.batch * s.out_h * out_row;
  parallel_for(s.batch * parts, threads, [&](std::int64_t task) {
    const std::int64_t n = task / parts, part = task % parts;
    const std::int64_t first = s.in_h * part / parts, end = s.in_h * (part + 1) / parts;
    const Storage* source = grad_out + n * s.out_h * out_row;
    Storage* target = grad_x + n * s.in_h * in_row;
    ColumnSums<T> sums(C);
    // A source column is whole vectors here, on boundaries of vectors.
    const std::int64_t line = s.in_w * sums.width;
    Buffer<T> above(line), below(line);
    zero_row(above.get(), line);
    zero_row(below.get(), line);
    T* current = above.get(); // the sum of source row `row`
    T* next = below.get();    // of source row `row` + 1
    std::int64_t row = first - 1;
    const auto finish_row = [&] {
      if (row >= first)
        for (std::int64_t x = 0; x < s.in_w; ++x)
          write_row(target + row * in_row + x * C, current + x * sums.width, C, false);
      std::swap(current, next);
      zero_row(next, line);
      ++row;
    };
    const std::int64_t last_output = first_output(job.rows, end);
    for (std::int64_t y = first_output(job.rows, first - 1); y < last_output; ++y) {
      const Taps<T> t = taps<T>(job.rows, y);
      while (row < t.lo) finish_row();
      const T w_lo = t.hi == t.lo ? T(1) : t.w_lo, w_hi = t.w_hi;
      const bool two = t.hi != t.lo;
      add_pixel_row(source + y * out_row, grad_end, C, job.columns, sums,
                    [&](std::int64_t column, const T* from) {
                      T* a = current + column * sums.width;
                      T* b = next + column * sums.width;
                      for (std::int64_t c = 0; c < sums.width; c += L) {
                        const vec<T> sum = load_vec(from + c);
                        store_vec(a + c, load_vec(a + c) + sum * w_lo);
                        if (two) store_vec(b + c, load_vec(b + c) + sum * w_hi);
                      }
                    });
    }
    while (row < end) finish_row();
  });
}

void forward(DType dtype, const void* x, void* out, const Shape& s, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    forward_typed(static_cast<const Storage*>(x), static_cast<Storage*>(out), s, threads);
  });
}

void backward(DType dtype, const void* grad_out, void* grad_x, const Shape& s, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const auto run = s.channels_last ? backward_channels_last<Storage> : backward_nchw<Storage>;
    run(static_cast<const Storage*>(grad_out), static_cast<Storage*>(grad_x), s, threads);
  });
}

} // namespace

const CpuKernels kernels{forward, backward};

} // namespace fastseg::upsample_bilinear::FASTSEG_CPU_LEVEL
