// CPU twin. Both directions are separable, and each does its cheap half on low-resolution rows: the
// forward resizes a source row along the width once and blends two of those for every output row;
// the backward sums output rows into source rows first, then along the width. The backward gathers:
// each task owns source rows and visits the output rows that touch them in ascending order, so the
// sum is the same bits however the work is split.
#include "upsample_bilinear/upsample_bilinear.h"

#include <algorithm>

#include "common/line_pair.h"
#include "common/parallel.h"
#include "common/resize_columns.h"
#include "common/rows.h"

namespace fastseg::upsample_bilinear::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

// What is worked on at a time along a row: it stays in the L1 cache with its partners.
constexpr std::int64_t kSegment = 2048;
// Output rows summed in one go: their weights stay in registers.
constexpr int kStreams = 4;

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

// ---- forward ------------------------------------------------------------------------------------

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

// ---- backward -----------------------------------------------------------------------------------

// A run of output rows between the same two source rows.
template <class T> struct Run {
  std::int64_t first, count;
  std::int64_t lo, hi; // hi == lo: w_lo holds the whole weight
  // How far ahead to prefetch, in elements: what is summed after these rows. Streams as short as
  // one row end before a hardware prefetcher follows them.
  std::int64_t ahead;
  T w_lo[kStreams], w_hi[kStreams];
};

template <class T> Run<T> next_run(const ResizeAxis& rows, std::int64_t first, std::int64_t end) {
  Run<T> run{first, 0, 0, 0, 0, {}, {}};
  for (std::int64_t y = first; y < end && run.count < kStreams; ++y) {
    const Taps<T> t = taps<T>(rows, y);
    if (run.count > 0 && (t.lo != run.lo || t.hi != run.hi)) break;
    run.lo = t.lo;
    run.hi = t.hi;
    run.w_lo[run.count] = t.lo == t.hi ? T(1) : t.w_lo;
    run.w_hi[run.count] = t.lo == t.hi ? T(0) : t.w_hi;
    ++run.count;
  }
  return run;
}

// lo[i] += sum of w_lo * row[i] over the rows of the run, and the same for hi, n values each.
template <int kCount, bool kLo, bool kHi, class Storage, class T = compute_t<Storage>>
void add_rows(const Run<T>& run, const Storage* source, std::int64_t stride, std::int64_t n, T* lo,
              T* hi) {
  T w_lo[kCount], w_hi[kCount];
  for (int r = 0; r < kCount; ++r) w_lo[r] = run.w_lo[r], w_hi[r] = run.w_hi[r];
  std::int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) {
    vec<T> a{}, b{};
    if (kLo) a = load_vec(lo + i);
    if (kHi) b = load_vec(hi + i);
    for (int r = 0; r < kCount; ++r) {
      __builtin_prefetch(source + r * stride + i + run.ahead);
      const vec<T> g = load(source + r * stride + i);
      if (kLo) a += g * w_lo[r];
      if (kHi) b += g * w_hi[r];
    }
    if (kLo) store_vec(lo + i, a);
    if (kHi) store_vec(hi + i, b);
  }
  for (; i < n; ++i)
    for (int r = 0; r < kCount; ++r) {
      const T g = to_compute(source[r * stride + i]);
      if (kLo) lo[i] += g * w_lo[r];
      if (kHi) hi[i] += g * w_hi[r];
    }
}

// Null: that source row is not wanted.
template <int kCount, class Storage, class T = compute_t<Storage>>
void add_rows(const Run<T>& run, const Storage* source, std::int64_t stride, std::int64_t n, T* lo,
              T* hi) {
  if (lo != nullptr && hi != nullptr)
    add_rows<kCount, true, true>(run, source, stride, n, lo, hi);
  else if (lo != nullptr)
    add_rows<kCount, true, false>(run, source, stride, n, lo, hi);
  else if (hi != nullptr)
    add_rows<kCount, false, true>(run, source, stride, n, lo, hi);
}

template <class Storage, class T = compute_t<Storage>>
void add_run(const Run<T>& run, const Storage* source, std::int64_t stride, std::int64_t n, T* lo,
             T* hi) {
  static_assert(kStreams == 4);
  switch (run.count) {
  case 1:
    return add_rows<1>(run, source, stride, n, lo, hi);
  case 2:
    return add_rows<2>(run, source, stride, n, lo, hi);
  case 3:
    return add_rows<3>(run, source, stride, n, lo, hi);
  default:
    return add_rows<4>(run, source, stride, n, lo, hi);
  }
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
  const std::int64_t stride = job.columns.blocks() * L;
  parallel_for(job.images * groups, threads, [&](std::int64_t task) {
    const std::int64_t plane = task / groups, first = task % groups * L;
    const std::int64_t count = std::min<std::int64_t>(L, s.in_h - first);
    const Storage* source = grad_out + plane * s.out_h * s.out_w;
    Storage* target = grad_x + (plane * s.in_h + first) * s.in_w;
    Buffer<T> vertical(L * stride);
    Buffer<T> sums(s.in_w * L + L * L);
    zero_row(vertical.get(), L * stride);
    zero_row(sums.get(), s.in_w * L + L * L);
    const auto row = [&](std::int64_t i) {
      return i >= first && i < first + count ? vertical.get() + (i - first) * stride : nullptr;
    };
    const std::int64_t end = first_output(job.rows, first + count);
    for (std::int64_t y = first_output(job.rows, first - 1); y < end;) {
      Run<T> run = next_run<T>(job.rows, y, end);
      run.ahead = run.count * s.out_w; // the next rows
      add_run(run, source + y * s.out_w, s.out_w, s.out_w, row(run.lo),
              run.hi == run.lo ? nullptr : row(run.hi));
      y += run.count;
    }
    // Lanes are rows: transposed tiles of L columns, and back.
    vec<T> tile[L];
    columns_adjoint(
        job.columns, 0, s.out_w,
        [&](std::int64_t x) {
          if (x % L == 0) {
            for (int k = 0; k < L; ++k) tile[k] = load_vec(vertical.get() + k * stride + x);
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
  });
}

template <class Storage>
void backward_channels_last(const Storage* grad_out, Storage* grad_x, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  constexpr int L = kLanes<T>;
  const Job<Storage> job(s);
  const std::int64_t C = s.channels, in_row = job.in_row(), out_row = job.out_row();
  const std::int64_t segment = std::max<std::int64_t>(kSegment / C, 1);
  // A chunk also visits the output rows of the source row above it: at least 8 rows keep that
  // small.
  const std::int64_t per_chunk = std::max<std::int64_t>(8, s.in_h / 16);
  const std::int64_t chunks = (s.in_h + per_chunk - 1) / per_chunk;
  parallel_for(s.batch * chunks, threads, [&](std::int64_t task) {
    const std::int64_t n = task / chunks, first = task % chunks * per_chunk;
    const std::int64_t end = std::min(first + per_chunk, s.in_h);
    const Storage* source = grad_out + n * s.out_h * out_row;
    Storage* target = grad_x + n * s.in_h * in_row;
    // L values beyond the end: the last vector of a pixel may read over it.
    Buffer<T> above(in_row), below(in_row), lo_sums(segment * C + L), hi_sums(segment * C + L);
    zero_row(above.get(), in_row);
    zero_row(below.get(), in_row);
    T* current = above.get(); // the sum of source row `row`
    T* next = below.get();    // of source row `row` + 1
    std::int64_t row = first - 1;
    const auto finish_row = [&] {
      if (row >= first) write_row(target + row * in_row, current, in_row, false);
      std::swap(current, next);
      zero_row(next, in_row);
      ++row;
    };
    const auto add_columns = [&](std::int64_t x0, std::int64_t x1, const T* sums, T* to) {
      for (std::int64_t c = 0; c < C; c += L)
        columns_adjoint(
            job.columns, x0, x1, [&](std::int64_t x) { return load_vec(sums + (x - x0) * C + c); },
            [&](std::int64_t i, vec<T> sum) {
              T* at = to + i * C + c;
              if (c + L <= C) return store_vec(at, load_vec(at) + sum);
              for (std::int64_t k = 0; c + k < C; ++k) at[k] += sum[k];
            });
    };
    const std::int64_t last_output = first_output(job.rows, end);
    for (std::int64_t y = first_output(job.rows, first - 1); y < last_output;) {
      Run<T> run = next_run<T>(job.rows, y, last_output);
      run.ahead = segment * C; // the next columns
      while (row < run.lo) finish_row();
      const bool above_owned = run.lo >= first, below_owned = run.hi != run.lo && run.hi < end;
      for (std::int64_t x = 0; x < s.out_w; x += segment) {
        const std::int64_t x1 = std::min(x + segment, s.out_w), values = (x1 - x) * C;
        zero_row(lo_sums.get(), values + L);
        zero_row(hi_sums.get(), values + L);
        add_run(run, source + y * out_row + x * C, out_row, values,
                above_owned ? lo_sums.get() : nullptr, below_owned ? hi_sums.get() : nullptr);
        if (above_owned) add_columns(x, x1, lo_sums.get(), current);
        if (below_owned) add_columns(x, x1, hi_sums.get(), next);
      }
      y += run.count;
    }
    while (row < end) finish_row();
  });
}

// ---- entry points -------------------------------------------------------------------------------

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
