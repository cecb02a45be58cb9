// CPU twin. Both directions are separable: the vertical half works on whole rows (contiguous in
// either layout), the horizontal half runs once per source row where that is cheaper. The backward
// gathers: each task owns source rows and visits the output rows that touch them in ascending
// order, so the sum is the same bits however the work is split.
#include "upsample_bilinear/upsample_bilinear.h"

#include <algorithm>

#include "common/parallel.h"
#include "common/resize_columns.h"
#include "common/rows.h"

namespace fastseg::upsample_bilinear::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

// Tasks are (plane or image) x (chunk of rows); small maps are one chunk.
struct Chunks {
  std::int64_t rows, per_chunk, count;
  Chunks(std::int64_t rows_, std::int64_t bytes_per_row)
      : rows(rows_),
        per_chunk(std::clamp<std::int64_t>(
            (std::int64_t{1} << 18) / std::max<std::int64_t>(bytes_per_row, 1), 8, 1 << 20)),
        count((rows_ + per_chunk - 1) / per_chunk) {}
  std::int64_t begin(std::int64_t c) const { return c * per_chunk; }
  std::int64_t end(std::int64_t c) const { return std::min(rows, (c + 1) * per_chunk); }
};

// ---- forward ------------------------------------------------------------------------------------

template <class Storage>
void forward_nchw(const Storage* x, Storage* out, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const ResizeAxis rows = resize_axis(s.in_h, s.out_h, s.align_corners, s.scale_h);
  const ResizeColumns<T> columns(resize_axis(s.in_w, s.out_w, s.align_corners, s.scale_w));
  const std::int64_t planes = s.batch * s.channels;
  const bool stream = planes * s.out_h * s.out_w * std::int64_t(sizeof(Storage)) > kStreamBytes;
  const Chunks chunks(s.out_h, s.out_w * sizeof(Storage));
  parallel_for(planes * chunks.count, threads, [&](std::int64_t task) {
    const std::int64_t plane = task / chunks.count, chunk = task % chunks.count;
    const Storage* source = x + plane * s.in_h * s.in_w;
    Storage* target = out + plane * s.out_h * s.out_w;
    Buffer<T> blended(ResizeColumns<T>::padded(s.in_w));
    Buffer<T> line(columns.blocks() * kLanes<T>);
    for (std::int64_t y = chunks.begin(chunk); y < chunks.end(chunk); ++y) {
      const Taps<T> t = taps<T>(rows, y);
      blend_rows(blended.get(), source + t.lo * s.in_w, source + t.hi * s.in_w, t.w_lo, t.w_hi,
                 s.in_w);
      pad_row(blended.get(), s.in_w);
      for (std::int64_t b = 0; b < columns.blocks(); ++b)
        store_vec(line.get() + b * kLanes<T>, resize_block<T>(blended.get(), columns.block(b)));
      write_row(target + y * s.out_w, line.get(), s.out_w, stream);
    }
    if (stream) stream_fence();
  });
}

template <class Storage>
void forward_channels_last(const Storage* x, Storage* out, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const ResizeAxis rows = resize_axis(s.in_h, s.out_h, s.align_corners, s.scale_h);
  const ResizeColumns<T> columns(resize_axis(s.in_w, s.out_w, s.align_corners, s.scale_w));
  const std::int64_t C = s.channels, in_row = s.in_w * C, out_row = s.out_w * C;
  const bool stream = s.batch * s.out_h * out_row * std::int64_t(sizeof(Storage)) > kStreamBytes;
  const Chunks chunks(s.out_h, out_row * sizeof(Storage));
  // Columns per pass: their results stay in the L1 cache until they are written.
  const std::int64_t pass = std::max<std::int64_t>(1, 2048 / C);
  parallel_for(s.batch * chunks.count, threads, [&](std::int64_t task) {
    const std::int64_t n = task / chunks.count, chunk = task % chunks.count;
    const Storage* source = x + n * s.in_h * in_row;
    Storage* target = out + n * s.out_h * out_row;
    Buffer<T> blended(in_row);
    Buffer<T> line(pass * C);
    for (std::int64_t y = chunks.begin(chunk); y < chunks.end(chunk); ++y) {
      const Taps<T> t = taps<T>(rows, y);
      blend_rows(blended.get(), source + t.lo * in_row, source + t.hi * in_row, t.w_lo, t.w_hi,
                 in_row);
      for (std::int64_t x0 = 0; x0 < s.out_w; x0 += pass) {
        const std::int64_t x1 = std::min(x0 + pass, s.out_w);
        for (std::int64_t i = x0; i < x1; ++i) {
          const T* left = blended.get() + columns.lo(i) * C;
          const T* right = blended.get() + columns.hi(i) * C;
          T* pixel = line.get() + (i - x0) * C;
          blend_rows(pixel, left, right, columns.w_lo(i), columns.w_hi(i), C);
        }
        write_row(target + y * out_row + x0 * C, line.get(), (x1 - x0) * C, stream);
      }
    }
    if (stream) stream_fence();
  });
}

// ---- backward -----------------------------------------------------------------------------------

// Horizontal adjoint of up to kLanes rows at once: lanes are rows, so that no lane ever waits for
// its neighbour. rows[k] are `out` long and zero-padded to whole blocks; the result goes to
// sums[i * kLanes + k] for source column i.
template <class T>
void columns_adjoint(const ResizeColumns<T>& columns, const T* rows, std::int64_t stride, T* sums) {
  zero_row(sums, columns.in() * kLanes<T>);
  for (std::int64_t b = 0; b < columns.blocks(); ++b) {
    vec<T> tile[kLanes<T>];
    for (int k = 0; k < kLanes<T>; ++k) tile[k] = load_vec(rows + k * stride + b * kLanes<T>);
    transpose<T>(tile);
    for (int k = 0; k < kLanes<T>; ++k) {
      const std::int64_t i = b * kLanes<T> + k;
      T* left = sums + columns.lo(i) * kLanes<T>;
      T* right = sums + columns.hi(i) * kLanes<T>;
      store_vec(left, load_vec(left) + tile[k] * columns.w_lo(i));
      store_vec(right, load_vec(right) + tile[k] * columns.w_hi(i));
    }
  }
}

template <class Storage>
void backward_nchw(const Storage* grad_out, Storage* grad_x, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const ResizeAxis rows = resize_axis(s.in_h, s.out_h, s.align_corners, s.scale_h);
  const ResizeColumns<T> columns(resize_axis(s.in_w, s.out_w, s.align_corners, s.scale_w));
  const std::int64_t planes = s.batch * s.channels;
  const std::int64_t groups = (s.in_h + kLanes<T> - 1) / kLanes<T>; // kLanes source rows each
  const std::int64_t stride = columns.blocks() * kLanes<T>;
  parallel_for(planes * groups, threads, [&](std::int64_t task) {
    const std::int64_t plane = task / groups, first = task % groups * kLanes<T>;
    const std::int64_t count = std::min<std::int64_t>(kLanes<T>, s.in_h - first);
    const Storage* source = grad_out + plane * s.out_h * s.out_w;
    Storage* target = grad_x + (plane * s.in_h + first) * s.in_w;
    Buffer<T> vertical(kLanes<T> * stride);
    Buffer<T> sums(s.in_w * kLanes<T>);
    zero_row(vertical.get(), kLanes<T> * stride);
    const std::int64_t end = first_output(rows, first + count);
    for (std::int64_t y = first_output(rows, first - 1); y < end; ++y) {
      const Taps<T> t = taps<T>(rows, y);
      const Storage* line = source + y * s.out_w;
      if (t.lo >= first)
        add_scaled_row(vertical.get() + (t.lo - first) * stride, line, t.w_lo, s.out_w);
      if (t.hi >= first && t.hi < first + count)
        add_scaled_row(vertical.get() + (t.hi - first) * stride, line, t.w_hi, s.out_w);
    }
    columns_adjoint(columns, vertical.get(), stride, sums.get());
    for (std::int64_t k = 0; k < count; ++k)
      for (std::int64_t i = 0; i < s.in_w; ++i)
        target[k * s.in_w + i] = from_compute<Storage>(sums[i * kLanes<T> + k]);
  });
}

template <class Storage>
void backward_channels_last(const Storage* grad_out, Storage* grad_x, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  const ResizeAxis rows = resize_axis(s.in_h, s.out_h, s.align_corners, s.scale_h);
  const ResizeColumns<T> columns(resize_axis(s.in_w, s.out_w, s.align_corners, s.scale_w));
  const std::int64_t C = s.channels, in_row = s.in_w * C, out_row = s.out_w * C;
  const std::int64_t whole = C / kLanes<T> * kLanes<T>;
  // A chunk also visits the output rows of the source row above it: at least 8 rows keep that
  // small.
  const std::int64_t per_chunk = std::max<std::int64_t>(8, s.in_h / 16);
  const std::int64_t chunks = (s.in_h + per_chunk - 1) / per_chunk;
  parallel_for(s.batch * chunks, threads, [&](std::int64_t task) {
    const std::int64_t n = task / chunks, first = task % chunks * per_chunk;
    const std::int64_t end = std::min(first + per_chunk, s.in_h);
    const Storage* source = grad_out + n * s.out_h * out_row;
    Storage* target = grad_x + n * s.in_h * in_row;
    Buffer<T> horizontal(in_row), above(in_row), below(in_row);
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
    const std::int64_t last_output = first_output(rows, end);
    for (std::int64_t y = first_output(rows, first - 1); y < last_output; ++y) {
      const Taps<T> t = taps<T>(rows, y);
      while (row < t.lo) finish_row();
      zero_row(horizontal.get(), in_row);
      const Storage* line = source + y * out_row;
      for (std::int64_t i = 0; i < s.out_w; ++i) {
        const Storage* pixel = line + i * C;
        T* left = horizontal.get() + columns.lo(i) * C;
        T* right = horizontal.get() + columns.hi(i) * C;
        const T w_lo = columns.w_lo(i), w_hi = columns.w_hi(i);
        std::int64_t c = 0;
        for (; c < whole; c += kLanes<T>) {
          const vec<T> g = load(pixel + c);
          store_vec(left + c, load_vec(left + c) + g * w_lo);
          store_vec(right + c, load_vec(right + c) + g * w_hi);
        }
        for (; c < C; ++c) {
          const T g = to_compute(pixel[c]);
          left[c] += g * w_lo;
          right[c] += g * w_hi;
        }
      }
      add_scaled_row(current, horizontal.get(), t.w_lo, in_row);
      add_scaled_row(t.hi == t.lo ? current : next, horizontal.get(), t.w_hi, in_row);
    }
    while (row < end) finish_row();
  });
}

// ---- entry points -------------------------------------------------------------------------------

void forward(DType dtype, const void* x, void* out, const Shape& s, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const auto run = s.channels_last ? forward_channels_last<Storage> : forward_nchw<Storage>;
    run(static_cast<const Storage*>(x), static_cast<Storage*>(out), s, threads);
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
