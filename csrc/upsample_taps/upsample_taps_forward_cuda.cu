// Forward of the CUDA twin (see upsample_taps_cuda.h).
//
// A thread goes down some rows of one output column, for one source after another; the sums of its
// rows are in shared memory meanwhile. For each row of the kernel it keeps two lines: source rows,
// resized, shifted and summed along the width. An output row blends them, and they change once per
// source row: as in the CPU twin the width is worked on at low resolution.
#include "upsample_taps/upsample_taps_cuda.h"

namespace fastseg::upsample_taps::cuda {
namespace {

constexpr int kRows = 8; // of a thread
constexpr int kHalf = 1; // rows and columns beside a tile, as the larger kernel needs

template <class Storage> struct Resized {
  const Storage* taps;
  Axis rows, columns;
};
template <class Storage> struct Forward {
  Resized<Storage> sources[kMaxSources];
  int count;
  const Storage* added; // or null
  Storage* out;
  std::int64_t channels, out_h, out_w;
  std::int64_t lane_tiles, column_tiles, row_chunks; // blocks: batch * the product
};

template <class Storage, int kItems, int kKernel>
__global__ void __launch_bounds__(kThreads, sizeof(Storage) == 8 ? 1 : 2)
    upsample_taps_fwd_kernel(const Forward<Storage> p) {
  using T = compute_t<Storage>;
  constexpr int kColumns = kThreads / kLanes<kItems>, kHalfKernel = kKernel / 2;
  FASTSEG_SHARED(rows, Position<T>[kMaxSources * (kRows + 2 * kHalf)]);
  FASTSEG_SHARED(columns, Position<T>[kMaxSources * (kColumns + 2 * kHalf)]);
  FASTSEG_SHARED(sums, T[kRows * kItems * kThreads]); // a thread touches its own
  Division at = divide(blockIdx.x, p.lane_tiles);
  const std::int64_t lane_tile = at.remainder;
  at = divide(at.quotient, p.column_tiles);
  const std::int64_t x0 = at.remainder * kColumns;
  at = divide(at.quotient, p.row_chunks);
  const std::int64_t y0 = at.remainder * kRows, n = at.quotient;
  const int count = static_cast<int>(min(std::int64_t(kRows), p.out_h - y0));

  constexpr int kRowPositions = kRows + 2 * kHalf, kColumnPositions = kColumns + 2 * kHalf;
  for (int i = threadIdx.x; i < p.count * kRowPositions; i += kThreads)
    rows[i] = position_at<T>(p.sources[i / kRowPositions].rows, y0 - kHalf + i % kRowPositions);
  for (int i = threadIdx.x; i < p.count * kColumnPositions; i += kThreads)
    columns[i] =
        position_at<T>(p.sources[i / kColumnPositions].columns, x0 - kHalf + i % kColumnPositions);
  __syncthreads();

  const int column = threadIdx.x / kLanes<kItems>;
  const std::int64_t channel = (lane_tile * kLanes<kItems> + threadIdx.x % kLanes<kItems>)*kItems;
  if (channel >= p.channels || x0 + column >= p.out_w) return;
  const std::int64_t row_step = p.out_w * p.channels;
  const std::int64_t first = (n * p.out_h + y0) * row_step + (x0 + column) * p.channels + channel;
  const auto sum_at = [&](int row, int k) -> T& {
    return sums[(row * kItems + k) * kThreads + threadIdx.x];
  };
#pragma unroll 2
  for (int row = 0; row < count; ++row) {
    Items<Storage, kItems> v{};
    if (p.added != nullptr) v = load_items<kItems>(p.added + first + row * row_step);
#pragma unroll
    for (int k = 0; k < kItems; ++k)
      sum_at(row, k) = p.added != nullptr ? to_compute(v.v[k]) : T(0);
  }

  for (int i = 0; i < p.count; ++i) {
    const ResizeAxis &height = p.sources[i].rows.resize, &width = p.sources[i].columns.resize;
    const std::int64_t pixel = kKernel * kKernel * p.channels;
    const Storage* image = p.sources[i].taps + n * height.in * width.in * pixel + channel;
    const auto line_step = static_cast<std::uint64_t>(width.in * pixel);
    Position<T> across[kKernel];
    const Storage* left[kKernel]; // of the first row, at lo; hi is the next pixel
#pragma unroll
    for (int k = 0; k < kKernel; ++k) {
      across[k] = columns[i * kColumnPositions + column + kHalf - kHalfKernel + k];
      left[k] = image + across[k].lo * pixel + k * p.channels;
    }

    // The line of row `tap_row` of the kernel.
    const auto resize_line = [&](int source_row, int tap_row, T(&line)[kItems]) {
      // A product of 32 and 64 bits: two instructions, half of what one of signed numbers takes.
      const std::uint64_t below = static_cast<std::uint32_t>(source_row) * line_step;
      const std::int64_t row = static_cast<std::int64_t>(below) + tap_row * kKernel * p.channels;
      RawItems<Storage, kItems> low[kKernel], high[kKernel];
#pragma unroll
      for (int k = 0; k < kKernel; ++k) {
        if (across[k].lo >= 0) low[k].read(left[k] + row);
        if (across[k].hi != across[k].lo) high[k].read(left[k] + row + pixel);
      }
#pragma unroll
      for (int j = 0; j < kItems; ++j) line[j] = 0;
#pragma unroll
      for (int k = 0; k < kKernel; ++k) {
#pragma unroll
        for (int j = 0; j < kItems; ++j) {
          if (across[k].lo >= 0) line[j] += low[k].value(j) * across[k].w_lo;
          if (across[k].hi != across[k].lo) line[j] += high[k].value(j) * across[k].w_hi;
        }
      }
    };

    T upper[kKernel][kItems], lower[kKernel][kItems]; // source rows lo and hi
    int lo[kKernel], hi[kKernel];
#pragma unroll
    for (int k = 0; k < kKernel; ++k) lo[k] = hi[k] = -1;
#pragma unroll 1
    for (int row = 0; row < count; ++row) {
      T sum[kItems] = {};
#pragma unroll
      for (int k = 0; k < kKernel; ++k) {
        const Position<T> down = rows[i * kRowPositions + row + kHalf - kHalfKernel + k];
        if (down.lo < 0) continue;
        if (down.lo != lo[k]) {
          if (down.lo == hi[k]) {
#pragma unroll
            for (int j = 0; j < kItems; ++j) upper[k][j] = lower[k][j];
          } else {
            resize_line(down.lo, k, upper[k]);
          }
          lo[k] = down.lo;
        }
        if (down.hi != down.lo && down.hi != hi[k]) {
          resize_line(down.hi, k, lower[k]);
          hi[k] = down.hi;
        }
#pragma unroll
        for (int j = 0; j < kItems; ++j) {
          sum[j] += upper[k][j] * down.w_lo;
          if (down.hi != down.lo) sum[j] += lower[k][j] * down.w_hi;
        }
      }
#pragma unroll
      for (int j = 0; j < kItems; ++j) sum_at(row, j) += sum[j];
    }
  }
  for (int row = 0; row < count; ++row) {
    T sum[kItems];
#pragma unroll
    for (int k = 0; k < kItems; ++k) sum[k] = sum_at(row, k);
    store_items<kItems>(p.out + first + row * row_step, sum);
  }
}

template <class Storage, int kItems>
void launch_forward(Forward<Storage> p, const Shape& s, std::uintptr_t stream) {
  p.lane_tiles = ceil_div(s.channels, kLanes<kItems> * kItems);
  p.column_tiles = ceil_div(s.out_w, kThreads / kLanes<kItems>);
  p.row_chunks = ceil_div(s.out_h, kRows);
  launch("upsample_taps forward",
         s.kernel == 1 ? upsample_taps_fwd_kernel<Storage, kItems, 1>
                       : upsample_taps_fwd_kernel<Storage, kItems, 3>,
         s.batch * p.lane_tiles * p.column_tiles * p.row_chunks, kThreads, 0, stream, p);
}

template <class Storage>
void forward_typed(const Source* sources, int count, const Storage* added, Storage* out,
                   const Shape& s, std::uintptr_t stream) {
  constexpr int kItems = kVectorItems<Storage>;
  Forward<Storage> p{};
  bool vectors = s.channels % kItems == 0;
  const auto check = [&](const void* map) {
    vectors = vectors && is_aligned(map, kItems * sizeof(Storage));
  };
  check(added);
  check(out);
  for (int i = 0; i < count; ++i) {
    check_sizes(sources[i].h, sources[i].w, s);
    check(sources[i].taps);
    p.sources[i] = {static_cast<const Storage*>(sources[i].taps), axis_of(sources[i].h, s.out_h, s),
                    axis_of(sources[i].w, s.out_w, s)};
  }
  p.count = count;
  p.added = added;
  p.out = out;
  p.channels = s.channels;
  p.out_h = s.out_h;
  p.out_w = s.out_w;
  vectors ? launch_forward<Storage, kItems>(p, s, stream)
          : launch_forward<Storage, 1>(p, s, stream);
}

} // namespace

void forward(DType dtype, const Source* sources, int count, const void* added, void* out,
             const Shape& s, std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    forward_typed(sources, count, static_cast<const Storage*>(added), static_cast<Storage*>(out), s,
                  stream);
  });
}

} // namespace fastseg::upsample_taps::cuda
