// CPU twin, channels_last: every step is a sum of a few weighted rows of channels.
//
// Both directions are separable, with the width at low resolution: the forward resizes, shifts and
// sums the taps of a source row along the width once for each row of the kernel, and blends those
// lines for every output row; the backward sums output rows for a source row and a row of the
// kernel first, then along the width. A tap that would read outside of the resized map is left out,
// which is the convolution's zero padding. The backward gathers: what an element sums, and in which
// order, depends on its place alone.
#include "upsample_taps/upsample_taps.h"

#include <algorithm>

#include "common/buffer_cpu.h"
#include "common/parallel_cpu.h"
#include "common/rows_cpu.h"
#include "upsample_taps/upsample_taps_math.h"

namespace fastseg::upsample_taps::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

constexpr int kMaxKernel = 3;
// Values of a line that are worked on at a time. The forward keeps two lines for each source and
// row of the kernel in the L2 cache; the backward keeps one for each row of the kernel, and works
// out more columns than it owns.
constexpr std::int64_t kForwardValues = 4096, kBackwardValues = 8192;

// Two source pixels for each row or column of the kernel.
constexpr int kTerms = 2 * kMaxKernel;

template <class Storage> struct Terms {
  const Storage* row[kTerms];
  compute_t<Storage> weight[kTerms];
  int count = 0;
  void add(const Storage* r, compute_t<Storage> w) {
    row[count] = r;
    weight[count++] = w;
  }
};

// dst[i] = sum of weight * row[i], or += where kAdd.
template <int kCount, bool kAdd, class Storage, class T = compute_t<Storage>>
void sum_rows(T* dst, const Terms<Storage>& terms, std::int64_t n) {
  const Storage* row[kCount];
  T weight[kCount];
  for (int k = 0; k < kCount; ++k) row[k] = terms.row[k], weight[k] = terms.weight[k];
  std::int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) {
    vec<T> sum = load(row[0] + i) * weight[0];
    for (int k = 1; k < kCount; ++k) sum += load(row[k] + i) * weight[k];
    store_vec(dst + i, kAdd ? load_vec(dst + i) + sum : sum);
  }
  for (; i < n; ++i) {
    T sum = to_compute(row[0][i]) * weight[0];
    for (int k = 1; k < kCount; ++k) sum += to_compute(row[k][i]) * weight[k];
    dst[i] = kAdd ? dst[i] + sum : sum;
  }
}

template <bool kAdd, class Storage, class T = compute_t<Storage>>
void sum_terms(T* dst, const Terms<Storage>& terms, std::int64_t n) {
  static_assert(kTerms == 6);
  switch (terms.count) {
  case 0:
    if (!kAdd) zero_row(dst, n);
    return;
  case 1:
    return sum_rows<1, kAdd>(dst, terms, n);
  case 2:
    return sum_rows<2, kAdd>(dst, terms, n);
  case 3:
    return sum_rows<3, kAdd>(dst, terms, n);
  case 4:
    return sum_rows<4, kAdd>(dst, terms, n);
  case 5:
    return sum_rows<5, kAdd>(dst, terms, n);
  default:
    return sum_rows<6, kAdd>(dst, terms, n);
  }
}

// A sum of any number of rows, a few at a time.
template <class Storage> class LongSum {
  using T = compute_t<Storage>;

public:
  LongSum(T* dst, std::int64_t n) : dst_(dst), n_(n) {}
  void add(const Storage* row, T weight) {
    if (terms_.count == kTerms) flush();
    terms_.add(row, weight);
  }
  void finish() {
    if (terms_.count > 0 || !begun_) flush();
  }

private:
  void flush() {
    begun_ ? sum_terms<true>(dst_, terms_, n_) : sum_terms<false>(dst_, terms_, n_);
    begun_ = true;
    terms_.count = 0;
  }
  T* dst_;
  std::int64_t n_;
  Terms<Storage> terms_;
  bool begun_ = false;
};

// How many of `rows` rows a task does: all, if the threads have `columns` tasks enough. A task
// works out lines above and below its rows too, and allocates.
inline std::int64_t rows_per_task(std::int64_t rows, std::int64_t columns, int threads) {
  const std::int64_t wanted = 4 * static_cast<std::int64_t>(threads);
  const std::int64_t chunks =
      std::clamp<std::int64_t>((wanted + columns - 1) / std::max<std::int64_t>(columns, 1), 1,
                               std::max<std::int64_t>(rows / 8, 1));
  return (rows + chunks - 1) / chunks;
}

template <class T>
void fill_axis(Taps<T>* table, std::int64_t in, std::int64_t out, const Shape& s) {
  const ResizeAxis axis = resize_axis(in, out, s.align_corners, 0.0);
  for (std::int64_t i = 0; i < out; ++i) {
    Taps<T> t = s.nearest ? nearest_taps<T>(in, out, i) : taps<T>(axis, i);
    if (t.lo == t.hi) t.w_lo = T(1), t.w_hi = T(0);
    table[i] = t;
  }
}

// Also the way back: which outputs read a source.
template <class T> class Axis {
public:
  Axis(std::int64_t in, std::int64_t out, const Shape& s) : table_(out), begin_(in), end_(in) {
    fill_axis(table_.get(), in, out, s);
    std::int64_t first = 0, last = 0; // lo and hi never decrease
    for (std::int64_t i = 0; i < in; ++i) {
      while (first < out && table_[first].hi < i) ++first;
      while (last < out && table_[last].lo <= i) ++last;
      begin_[i] = first;
      end_[i] = last;
    }
  }
  std::int64_t begin(std::int64_t source) const { return begin_[source]; }
  std::int64_t end(std::int64_t source) const { return end_[source]; }
  T weight(std::int64_t output, std::int64_t source) const {
    const Taps<T>& t = table_[output];
    return t.lo == source ? t.w_lo : t.w_hi;
  }

private:
  Buffer<Taps<T>> table_;
  Buffer<std::int64_t> begin_, end_;
};

template <class Storage> struct Resized {
  const Storage* taps;
  std::int64_t h, w;
  const Taps<compute_t<Storage>>* rows; // by output row
  const Taps<compute_t<Storage>>* columns;
};

// A source row, resized, shifted and summed over the columns of the kernel.
template <class T> struct Line {
  T* values = nullptr;
  std::int64_t source_row = -1;
};

// Output columns [begin, end) of the line of one row of taps. `row`: the source row's taps there.
template <class Storage, class T = compute_t<Storage>>
void resize_line(const Resized<Storage>& from, const Storage* row, const Shape& s,
                 std::int64_t begin, std::int64_t end, T* line) {
  const std::int64_t pixel = s.kernel * s.kernel * s.channels;
  for (std::int64_t x = begin; x < end; ++x) {
    Terms<Storage> terms;
    for (int k = 0; k < s.kernel; ++k) {
      const std::int64_t column = x + k - s.kernel / 2;
      if (column < 0 || column >= s.out_w) continue;
      const Taps<T>& t = from.columns[column];
      const Storage* tap = row + k * s.channels;
      terms.add(tap + t.lo * pixel, t.w_lo);
      if (t.hi != t.lo) terms.add(tap + t.hi * pixel, t.w_hi);
    }
    sum_terms<false>(line + (x - begin) * s.channels, terms, s.channels);
  }
}

template <class Storage>
void forward_typed(const Source* sources, int count, const Storage* added, Storage* out,
                   const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const int K = s.kernel;
  const std::int64_t C = s.channels, axes = s.out_h + s.out_w;
  Buffer<Taps<T>> tables(count * axes);
  Resized<Storage> resized[kMaxSources];
  for (int i = 0; i < count; ++i) {
    Taps<T>* rows = tables.get() + i * axes;
    resized[i] = {static_cast<const Storage*>(sources[i].taps), sources[i].h, sources[i].w, rows,
                  rows + s.out_h};
    fill_axis(rows, sources[i].h, s.out_h, s);
    fill_axis(rows + s.out_h, sources[i].w, s.out_w, s);
  }
  const bool stream =
      s.batch * s.out_h * s.out_w * C * static_cast<std::int64_t>(sizeof(Storage)) > kStreamBytes;
  const std::int64_t segment = std::clamp<std::int64_t>(kForwardValues / C, 1, s.out_w);
  const std::int64_t segments = (s.out_w + segment - 1) / segment;
  const std::int64_t chunk = rows_per_task(s.out_h, s.batch * segments, threads);
  const std::int64_t chunks = (s.out_h + chunk - 1) / chunk;
  parallel_for(s.batch * segments * chunks, threads, [&](std::int64_t task) {
    const std::int64_t n = task / (segments * chunks);
    const std::int64_t begin = task / chunks % segments * segment;
    const std::int64_t end = std::min(begin + segment, s.out_w), values = (end - begin) * C;
    const std::int64_t first = task % chunks * chunk, last = std::min(first + chunk, s.out_h);
    Buffer<T> memory((2 * K * count + 1) * segment * C);
    T* const sum = memory.get();
    T* unused = sum + segment * C;
    Line<T> lines[kMaxSources][kMaxKernel][2]; // by parity of the source row
    for (int i = 0; i < count; ++i)
      for (int k = 0; k < K; ++k)
        for (Line<T>& line : lines[i][k]) line.values = unused, unused += segment * C;
    const auto line_of = [&](int i, int k, std::int64_t source_row) {
      Line<T>& line = lines[i][k][source_row % 2];
      if (line.source_row != source_row) {
        const Resized<Storage>& from = resized[i];
        const Storage* row = from.taps + (n * from.h + source_row) * from.w * K * K * C + k * K * C;
        resize_line(from, row, s, begin, end, line.values);
        line.source_row = source_row;
      }
      return line.values;
    };
    for (std::int64_t y = first; y < last; ++y) {
      const std::int64_t at = ((n * s.out_h + y) * s.out_w + begin) * C;
      if (added != nullptr) read_line(sum, added + at, 1, values);
      for (int i = 0; i < count; ++i) {
        Terms<T> terms;
        for (int k = 0; k < K; ++k) {
          const std::int64_t row = y + k - K / 2;
          if (row < 0 || row >= s.out_h) continue;
          const Taps<T>& t = resized[i].rows[row];
          terms.add(line_of(i, k, t.lo), t.w_lo);
          if (t.hi != t.lo) terms.add(line_of(i, k, t.hi), t.w_hi);
        }
        i > 0 || added != nullptr ? sum_terms<true>(sum, terms, values)
                                  : sum_terms<false>(sum, terms, values);
      }
      write_row(out + at, sum, values, stream);
    }
    if (stream) stream_fence();
  });
}

template <class Storage>
void backward_typed(const Storage* grad_out, Storage* grad_taps, std::int64_t h, std::int64_t w,
                    const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const int K = s.kernel, half = K / 2;
  const std::int64_t C = s.channels;
  const Axis<T> rows(h, s.out_h, s), columns(w, s.out_w, s);
  const std::int64_t segment = std::clamp<std::int64_t>(kBackwardValues / C * w / s.out_w, 1, w);
  const std::int64_t segments = (w + segment - 1) / segment;
  const std::int64_t chunk = rows_per_task(h, s.batch * segments, threads);
  const std::int64_t chunks = (h + chunk - 1) / chunk;
  parallel_for(s.batch * segments * chunks, threads, [&](std::int64_t task) {
    const std::int64_t n = task / (segments * chunks);
    const std::int64_t first = task / chunks % segments * segment;
    const std::int64_t last = std::min(first + segment, w); // source columns
    const std::int64_t begin = std::max<std::int64_t>(columns.begin(first) - half, 0);
    const std::int64_t end = std::min(columns.end(last - 1) + half, s.out_w); // output columns
    const std::int64_t values = std::max<std::int64_t>(end - begin, 0) * C;
    Buffer<T> lines(K * values), sum(C);
    const std::int64_t top = task % chunks * chunk, bottom = std::min(top + chunk, h);
    for (std::int64_t i = top; i < bottom; ++i) {
      for (int k = 0; k < K; ++k) {
        LongSum<Storage> line(lines.get() + k * values, values);
        for (std::int64_t row = rows.begin(i); row < rows.end(i); ++row) {
          const std::int64_t y = row - k + half;
          if (y < 0 || y >= s.out_h) continue;
          line.add(grad_out + ((n * s.out_h + y) * s.out_w + begin) * C, rows.weight(row, i));
        }
        line.finish();
      }
      Storage* target = grad_taps + ((n * h + i) * w + first) * K * K * C;
      for (std::int64_t j = first; j < last; ++j)
        for (int k = 0; k < K * K; ++k, target += C) {
          LongSum<T> tap(sum.get(), C);
          for (std::int64_t column = columns.begin(j); column < columns.end(j); ++column) {
            const std::int64_t x = column - k % K + half;
            if (x < 0 || x >= s.out_w) continue;
            tap.add(lines.get() + k / K * values + (x - begin) * C, columns.weight(column, j));
          }
          tap.finish();
          write_row(target, sum.get(), C, false);
        }
    }
  });
}

void forward(DType dtype, const Source* sources, int count, const void* added, void* out,
             const Shape& s, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    forward_typed(sources, count, static_cast<const Storage*>(added), static_cast<Storage*>(out), s,
                  threads);
  });
}

void backward(DType dtype, const void* grad_out, void* grad_taps, std::int64_t h, std::int64_t w,
              const Shape& s, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    backward_typed(static_cast<const Storage*>(grad_out), static_cast<Storage*>(grad_taps), h, w, s,
                   threads);
  });
}

} // namespace

const CpuKernels kernels{forward, backward};

} // namespace fastseg::upsample_taps::FASTSEG_CPU_LEVEL
