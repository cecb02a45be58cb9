// Backward of the CUDA twin (see upsample_taps_cuda.h): a gather, deterministic.
//
// A block has one source row, some source columns and some channels. It sums the output rows that
// read the source row, once for each row of the kernel, into lines in shared memory; then each
// source column and tap sums its columns of those lines.
#include "upsample_taps/upsample_taps_cuda.h"

namespace fastseg::upsample_taps::cuda {
namespace {

constexpr int kRowBatch = 32;   // output rows whose weights are in shared memory at a time
constexpr int kRowsAtOnce = 4;  // of them, with their loads under way together
constexpr int kMaxWindow = 512; // positions whose sources are in shared memory at a time
constexpr std::int64_t kLineBytes = 24 * 1024;
constexpr std::int64_t kWantedBlocks = 512;

template <class Storage> struct Backward {
  const Storage* grad_out;
  Storage* grad_taps;
  Axis rows, columns;
  std::int64_t channels;
  std::int64_t lane_tiles, column_tiles; // blocks: batch * source rows * the product
  int lanes, columns_per_tile;
  int window; // positions at a time; a block with more of them makes several passes
};

// First position of hi >= source, or of lo > source: hi and lo never decrease.
template <bool kBeyond> FASTSEG_DEVICE std::int64_t first_position(const Axis& axis, int source) {
  std::int64_t low = 0, high = axis.resize.out;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    const Position<float> at = position_at<float>(axis, middle);
    if (kBeyond ? at.lo > source : at.hi >= source)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// What an output row gives to the source row, through each row of the kernel.
template <class T, int kKernel> struct RowWeights {
  unsigned mask; // bit k: it does
  T weight[kKernel];
};

template <class Storage, int kItems, int kKernel>
__global__ void __launch_bounds__(kThreads, 2) upsample_taps_bwd_kernel(const Backward<Storage> p) {
  using T = compute_t<Storage>;
  constexpr int kHalf = kKernel / 2, kTaps = kKernel * kKernel;
  FASTSEG_SHARED(bounds, std::int64_t[4]);
  FASTSEG_SHARED(row_weights, RowWeights<T, kKernel>[kRowBatch]);
  FASTSEG_SHARED(positions, Position<T>[kMaxWindow]);
  T* lines = dynamic_shared<T>(); // [kKernel, window + 2 * kHalf, lanes, kItems]
  const int lanes = p.lanes, line_step = lanes * kItems;
  const int line_size = (p.window + 2 * kHalf) * line_step;
  T* totals = lines + kKernel * line_size; // [columns, taps, lanes, kItems] with several passes

  Division at = divide(blockIdx.x, p.lane_tiles);
  const std::int64_t channel0 = at.remainder * line_step;
  at = divide(at.quotient, p.column_tiles);
  const int j0 = static_cast<int>(at.remainder) * p.columns_per_tile;
  at = divide(at.quotient, p.rows.resize.in);
  const int i = static_cast<int>(at.remainder);
  const std::int64_t n = at.quotient, out_h = p.rows.resize.out, out_w = p.columns.resize.out;
  const int width = min(p.columns_per_tile, static_cast<int>(p.columns.resize.in) - j0);
  if (threadIdx.x < 4) {
    const Axis axis = threadIdx.x < 2 ? p.rows : p.columns;
    const int first = threadIdx.x < 2 ? i : j0, last = threadIdx.x < 2 ? i : j0 + width - 1;
    bounds[threadIdx.x] = threadIdx.x % 2 == 0 ? first_position<false>(axis, first)
                                               : first_position<true>(axis, last);
  }
  __syncthreads();
  const std::int64_t y0 = max(bounds[0] - kHalf, std::int64_t(0));
  const std::int64_t y1 = min(max(bounds[1], bounds[0]) + kHalf, out_h);
  const std::int64_t end = bounds[3];
  const int lane = threadIdx.x % lanes, worker = threadIdx.x / lanes, workers = kThreads / lanes;
  const std::int64_t channel = channel0 + lane * kItems;
  const bool active = worker < workers && channel < p.channels;
  const std::int64_t row_step = out_w * p.channels;
  const Storage* grad_out = p.grad_out + n * out_h * row_step + channel;

  for (std::int64_t begin = bounds[2], pass = 0; pass == 0 || begin < end;
       begin += p.window, ++pass) {
    const bool is_last = begin + p.window >= end;
    const int count =
        static_cast<int>(max(min(std::int64_t(p.window), end - begin), std::int64_t(0)));
    __syncthreads(); // the previous pass is done with the tables
    for (int c = threadIdx.x; c < count; c += kThreads)
      positions[c] = position_at<T>(p.columns, begin + c);

    // Lines: column c is output column begin - kHalf + c.
    std::int64_t y = y0;
    do {
      const int batch =
          static_cast<int>(max(min(std::int64_t(kRowBatch), y1 - y), std::int64_t(0)));
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < batch) {
        RowWeights<T, kKernel> own{};
#pragma unroll
        for (int k = 0; k < kKernel; ++k) {
          const Position<T> down = position_at<T>(p.rows, y + threadIdx.x + k - kHalf);
          own.weight[k] = down.lo == i ? down.w_lo : down.w_hi;
          if (down.lo == i || down.hi == i) own.mask |= 1u << k;
        }
        row_weights[threadIdx.x] = own;
      }
      __syncthreads();
      for (int c = worker; active && c < count + 2 * kHalf; c += workers) {
        const std::int64_t x = begin - kHalf + c;
        T sums[kKernel][kItems] = {};
        T* line = lines + c * line_step + lane * kItems;
        if (y > y0)
#pragma unroll
          for (int k = 0; k < kKernel; ++k)
#pragma unroll
            for (int j = 0; j < kItems; ++j) sums[k][j] = line[k * line_size + j];
        if (x >= 0 && x < out_w) {
          const Storage* source = grad_out + y * row_step + x * p.channels;
          for (int r = 0; r < batch; r += kRowsAtOnce, source += kRowsAtOnce * row_step) {
            RawItems<Storage, kItems> values[kRowsAtOnce] = {};
#pragma unroll
            for (int q = 0; q < kRowsAtOnce; ++q)
              if (r + q < batch) values[q].read(source + q * row_step);
#pragma unroll
            for (int q = 0; q < kRowsAtOnce; ++q) {
              if (r + q >= batch) continue;
              const RowWeights<T, kKernel> own = row_weights[r + q];
#pragma unroll
              for (int k = 0; k < kKernel; ++k) {
                if ((own.mask >> k & 1) == 0) continue;
#pragma unroll
                for (int j = 0; j < kItems; ++j) sums[k][j] += values[q].value(j) * own.weight[k];
              }
            }
          }
        }
#pragma unroll
        for (int k = 0; k < kKernel; ++k)
#pragma unroll
          for (int j = 0; j < kItems; ++j) line[k * line_size + j] = sums[k][j];
      }
      y += kRowBatch;
    } while (y < y1);
    __syncthreads();

    for (int o = worker; active && o < width * kTaps; o += workers) {
      const int tap = o % kTaps, j = j0 + o / kTaps;
      int low = 0, high = count; // the first position of the window that reads column j
      while (low < high) {
        const int middle = (low + high) / 2;
        if (positions[middle].hi >= j)
          high = middle;
        else
          low = middle + 1;
      }
      // Position q is read through the kernel's column tap % kKernel from output column
      // q - tap % kKernel + kHalf.
      const T* line = lines + tap / kKernel * line_size + (2 * kHalf - tap % kKernel) * line_step +
                      lane * kItems;
      T sums[kItems] = {};
      for (int c = low; c < count; ++c) {
        const Position<T> across = positions[c];
        if (across.lo > j) break;
        const std::int64_t x = begin + c - tap % kKernel + kHalf;
        if (x < 0 || x >= out_w) continue;
        const T weight = across.lo == j ? across.w_lo : across.w_hi;
#pragma unroll
        for (int k = 0; k < kItems; ++k) sums[k] += line[c * line_step + k] * weight;
      }
      T* total = totals + o * line_step + lane * kItems;
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        if (pass > 0) sums[k] += total[k];
        if (!is_last) total[k] = sums[k];
      }
      if (is_last)
        store_items<kItems>(
            p.grad_taps +
                (((n * p.rows.resize.in + i) * p.columns.resize.in + j) * kTaps + tap) *
                    p.channels +
                channel,
            sums);
    }
  }
}

// Most positions that read one of `count` neighbouring sources.
std::int64_t touching(const ResizeAxis& axis, std::int64_t count) {
  if (axis.scale <= 0.0) return axis.out;
  const double positions = static_cast<double>(count + 1) / axis.scale + 3; // 3: rounding
  return positions < axis.out ? static_cast<std::int64_t>(positions) : axis.out;
}

template <class Storage, int kItems, int kKernel>
void launch_backward(Backward<Storage> p, const Shape& s, std::uintptr_t stream) {
  constexpr int kHalf = kKernel / 2;
  using T = compute_t<Storage>;
  const ResizeAxis &rows = p.rows.resize, &columns = p.columns.resize;
  // Many channels for long accesses, unless no more than one source column fits beside them, or
  // the blocks are too few.
  std::int64_t window = 0, width = 0;
  bool several_passes = false;
  for (p.lanes = kLanes<kItems>;; p.lanes /= 2) {
    const std::int64_t line_step = p.lanes * kItems;
    const std::int64_t most = std::min<std::int64_t>(
        kLineBytes / (kKernel * line_step * sizeof(T)) - 2 * kHalf, kMaxWindow);
    for (width = columns.in; width > 1 && touching(columns, width) > most;) width = (width + 1) / 2;
    several_passes = touching(columns, width) > most;
    window = std::min(touching(columns, width), most);
    p.lane_tiles = ceil_div(s.channels, line_step);
    p.column_tiles = ceil_div(columns.in, width);
    const bool narrow = width == 1 && columns.in > 1;
    const bool few = s.batch * rows.in * p.lane_tiles * p.column_tiles < kWantedBlocks;
    if (p.lanes <= 4 || !(narrow || several_passes || few)) break;
  }
  p.window = static_cast<int>(window);
  p.columns_per_tile = static_cast<int>(width);
  std::int64_t values = kKernel * (window + 2 * kHalf) * p.lanes * kItems;
  if (several_passes) values += width * kKernel * kKernel * p.lanes * kItems;
  launch("upsample_taps backward", upsample_taps_bwd_kernel<Storage, kItems, kKernel>,
         s.batch * rows.in * p.lane_tiles * p.column_tiles, kThreads,
         static_cast<std::size_t>(values) * sizeof(T), stream, p);
}

template <class Storage>
void backward_typed(const Storage* grad_out, Storage* grad_taps, std::int64_t h, std::int64_t w,
                    const Shape& s, std::uintptr_t stream) {
  constexpr int kItems = kVectorItems<Storage>;
  check_sizes(h, w, s);
  Backward<Storage> p{};
  p.grad_out = grad_out;
  p.grad_taps = grad_taps;
  p.rows = axis_of(h, s.out_h, s);
  p.columns = axis_of(w, s.out_w, s);
  p.channels = s.channels;
  const bool vectors = s.channels % kItems == 0 && is_aligned(grad_out, kItems * sizeof(Storage)) &&
                       is_aligned(grad_taps, kItems * sizeof(Storage));
  if (s.kernel == 1)
    vectors ? launch_backward<Storage, kItems, 1>(p, s, stream)
            : launch_backward<Storage, 1, 1>(p, s, stream);
  else
    vectors ? launch_backward<Storage, kItems, 3>(p, s, stream)
            : launch_backward<Storage, 1, 3>(p, s, stream);
}

} // namespace

void backward(DType dtype, const void* grad_out, void* grad_taps, std::int64_t h, std::int64_t w,
              const Shape& s, std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    backward_typed(static_cast<const Storage*>(grad_out), static_cast<Storage*>(grad_taps), h, w, s,
                   stream);
  });
}

} // namespace fastseg::upsample_taps::cuda
