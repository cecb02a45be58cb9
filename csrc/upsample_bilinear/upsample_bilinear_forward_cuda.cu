// Forward of the CUDA twin (see upsample_bilinear_cuda.h).
#include "upsample_bilinear/upsample_bilinear.h"

#include <algorithm>

#include "common/shifted_vectors_cuda.h"
#include "upsample_bilinear/upsample_bilinear_cuda.h"

namespace fastseg::upsample_bilinear::cuda {
namespace {

// A map is `lines` x rows x columns x `inner` values: lines are planes and inner is 1 in NCHW;
// lines are images and inner is the channels in NHWC.
template <class Storage> struct Forward {
  const Storage* x;
  Storage* out;
  ResizeAxis rows, columns;
  std::int64_t lines, inner;
  std::int64_t tiles; // blocks side by side; each has `chunks` blocks below one another
  int chunks, rows_per_chunk;
};
constexpr int kForwardRows = 64; // most rows of a chunk

// The values that a thread carries down the rows. Each kind below reads one source row, blended
// horizontally, and writes one output row. `index` counts the thread's 16-byte pieces, or its
// single values in steps of kThreads, from the start of a row, over all lines.

// Any layout, size and alignment: single values kThreads apart, so that a warp writes neighbours.
template <class Storage_> struct Scalars {
  using Storage = Storage_;
  using T = compute_t<Storage>;
  static constexpr int kItems = kScalarItems;
  static constexpr bool kManyRegisters = false;
  const Storage* left[kItems];
  const Storage* right[kItems];
  Storage* target[kItems];
  T w_hi[kItems];

  static constexpr int kBlockPieces = kThreads;
  static std::int64_t pieces(const Forward<Storage>& p) {
    return ceil_div(p.lines * p.columns.out * p.inner, kItems);
  }
  FASTSEG_DEVICE Scalars(const Forward<Storage>& p, std::int64_t tile) {
    const std::int64_t items = p.lines * p.columns.out * p.inner;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const std::int64_t index = (tile * kItems + k) * kThreads + threadIdx.x;
      target[k] = nullptr;
      if (index >= items) continue;
      const Division line = divide(index, p.columns.out * p.inner);
      const Division column = divide(line.remainder, p.inner);
      const Taps<T> t = taps<T>(p.columns, column.quotient);
      const Storage* x = p.x + line.quotient * p.rows.in * p.columns.in * p.inner;
      left[k] = x + t.lo * p.inner + column.remainder;
      right[k] = x + t.hi * p.inner + column.remainder;
      target[k] = p.out + line.quotient * p.rows.out * p.columns.out * p.inner + line.remainder;
      w_hi[k] = t.w_hi;
    }
  }
  FASTSEG_DEVICE bool any() const { return target[0] != nullptr; }
  FASTSEG_DEVICE void read(const Forward<Storage>& p, int row, T (&v)[kItems]) const {
    const std::int64_t offset = row * (p.columns.in * p.inner);
#pragma unroll
    for (int k = 0; k < kItems; ++k)
      if (target[k] != nullptr)
        v[k] = to_compute(load(left[k] + offset)) * (T(1) - w_hi[k]) +
               to_compute(load(right[k] + offset)) * w_hi[k];
  }
  FASTSEG_DEVICE void write(const Forward<Storage>& p, int y, const T (&v)[kItems]) const {
    const std::int64_t offset = y * (p.columns.out * p.inner);
#pragma unroll
    for (int k = 0; k < kItems; ++k)
      if (target[k] != nullptr) from_compute(v[k], target[k][offset]);
  }
};

// What the two 16-byte kinds share: one piece of a line, all of it inside.
template <class Storage_> struct Piece {
  using Storage = Storage_;
  using T = compute_t<Storage>;
  static constexpr int kItems = kPack<Storage>;
  Storage* target = nullptr;

  static constexpr int kBlockPieces = kThreads;
  static std::int64_t pieces(const Forward<Storage>& p) {
    return p.lines * (p.columns.out * p.inner / kItems);
  }
  FASTSEG_DEVICE bool any() const { return target != nullptr; }
  FASTSEG_DEVICE void write(const Forward<Storage>& p, int y, const T (&v)[kItems]) const {
    Pack<Storage> pack;
#pragma unroll
    for (int k = 0; k < kItems; ++k) from_compute(v[k], pack.v[k]);
    store_items<kPack<Storage>>(target + y * (p.columns.out * p.inner), pack);
  }
};

// NCHW: neighbouring columns of a line.
template <class Storage> struct Neighbours {
  using T = compute_t<Storage>;
  static constexpr int kItems = kPack<Storage>;
  const Storage* line;
  int lo[kItems];
  unsigned steps = 0; // bit k: hi - lo of column k
  T w_hi[kItems];

  // A column beyond the last reads what the last one does.
  FASTSEG_DEVICE void start(const Forward<Storage>& p, std::int64_t line_index,
                            std::int64_t column) {
    line = p.x + line_index * p.rows.in * p.columns.in;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const Taps<T> t = taps<T>(p.columns, min(column + k, p.columns.out - 1));
      lo[k] = static_cast<int>(t.lo);
      steps |= static_cast<unsigned>(t.hi - t.lo) << k;
      w_hi[k] = t.w_hi;
    }
  }
  FASTSEG_DEVICE void read(const Forward<Storage>& p, int row, T (&v)[kItems]) const {
    const Storage* source = line + row * p.columns.in;
#pragma unroll
    for (int k = 0; k < kItems; ++k)
      v[k] = to_compute(load(source + lo[k])) * (T(1) - w_hi[k]) +
             to_compute(load(source + lo[k] + (steps >> k & 1))) * w_hi[k];
  }
};

// NCHW, output width a multiple of 16 bytes.
template <class Storage> struct Columns : Piece<Storage> {
  using typename Piece<Storage>::T;
  using Piece<Storage>::kItems;
  static constexpr bool kManyRegisters = kItems == 8;
  Neighbours<Storage> columns;

  FASTSEG_DEVICE Columns(const Forward<Storage>& p, std::int64_t tile) {
    const std::int64_t index = tile * kThreads + threadIdx.x;
    const Division at = divide(index, p.columns.out / kItems);
    if (at.quotient >= p.lines) return;
    columns.start(p, at.quotient, at.remainder * kItems);
    this->target = p.out + at.quotient * p.rows.out * p.columns.out + at.remainder * kItems;
  }
  FASTSEG_DEVICE void read(const Forward<Storage>& p, int row, T (&v)[kItems]) const {
    columns.read(p, row, v);
  }
};

// NCHW, any width and alignment. A thread keeps its columns, as in Columns, and stores the aligned
// vector in which the first of them lies: in each row the vector begins at another column, and its
// first values are those of the thread before, which come through a shuffle. A line has a thread
// more where the last vector may begin beyond the columns of the others. The first lane of a warp
// works out the last one's columns of the warp before once more, so that no value crosses warps.
template <class Storage_> struct RaggedColumns {
  using Storage = Storage_;
  using T = compute_t<Storage>;
  static constexpr int kItems = kPack<Storage>;
  static constexpr bool kManyRegisters = kItems == 8;
  static constexpr int kWarp = 32, kBlockPieces = kThreads / kWarp * (kWarp - 1);
  Neighbours<Storage> columns;
  Storage* target = nullptr; // the thread's first column in row 0
  bool first;                // of the line
  int left;                  // columns of the line from there on, at most 2 * kItems

  static FASTSEG_HD std::int64_t line_pieces(const Forward<Storage>& p) {
    return (p.columns.out + kItems - 2) / kItems + 1;
  }
  static std::int64_t pieces(const Forward<Storage>& p) { return p.lines * line_pieces(p); }
  FASTSEG_DEVICE RaggedColumns(const Forward<Storage>& p, std::int64_t tile) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const std::int64_t index = tile * kBlockPieces + warp * (kWarp - 1) + lane - 1;
    const Division at = divide(max(index, std::int64_t(0)), line_pieces(p));
    if (at.quotient >= p.lines) return;
    const std::int64_t column = at.remainder * kItems;
    columns.start(p, at.quotient, column);
    target = p.out + at.quotient * p.rows.out * p.columns.out + column;
    first = lane > 0 && column == 0;
    left = lane > 0 ? static_cast<int>(min(p.columns.out - column, std::int64_t(2 * kItems)))
                    : -kItems; // stores nothing
  }
  FASTSEG_DEVICE bool any() const { return target != nullptr; }
  FASTSEG_DEVICE void read(const Forward<Storage>& p, int row, T (&v)[kItems]) const {
    columns.read(p, row, v);
  }
  FASTSEG_DEVICE void write(const Forward<Storage>& p, int y, const T (&v)[kItems]) const {
    constexpr int kBytes = sizeof(Storage);
    Pack<Storage> pack;
#pragma unroll
    for (int k = 0; k < kItems; ++k) from_compute(v[k], pack.v[k]);
    const Words own = words_of(pack);
    Words before; // threads beyond the last line have returned; they are the last of their warp
#pragma unroll
    for (int k = 0; k < 4; ++k) before.w[k] = __shfl_up_sync(0xffffffffu, own.w[k], 1);
    char* columns_at = reinterpret_cast<char*>(target + y * p.columns.out);
    const unsigned back = beyond_boundary(columns_at);
    const Words vector = shifted<kBytes>(before, own, back);
    char* at = columns_at - back;
    const int count = first ? 16 - static_cast<int>(back) : left * kBytes + static_cast<int>(back);
    if (count >= 16)
      store_items<kPack<Storage>>(reinterpret_cast<Storage*>(at), pack_of<Storage>(vector));
    else if (count > 0)
      store_end<kBytes>(at, vector, count, first);
  }
};

// NHWC, channels a multiple of 16 bytes: neighbouring channels of one pixel.
template <class Storage> struct Channels : Piece<Storage> {
  using typename Piece<Storage>::T;
  using Piece<Storage>::kItems;
  static constexpr bool kManyRegisters = false;
  const Storage* left;
  const Storage* right;
  T w_lo, w_hi;

  FASTSEG_DEVICE Channels(const Forward<Storage>& p, std::int64_t tile) {
    const std::int64_t index = tile * kThreads + threadIdx.x, pieces = p.inner / kItems;
    const Division line = divide(index, p.columns.out * pieces);
    if (line.quotient >= p.lines) return;
    const Division column = divide(line.remainder, pieces);
    const Taps<T> t = taps<T>(p.columns, column.quotient);
    const Storage* x = p.x + line.quotient * p.rows.in * p.columns.in * p.inner;
    left = x + t.lo * p.inner + column.remainder * kItems;
    right = x + t.hi * p.inner + column.remainder * kItems;
    this->target =
        p.out + line.quotient * p.rows.out * p.columns.out * p.inner + line.remainder * kItems;
    w_lo = t.w_lo;
    w_hi = t.w_hi;
  }
  FASTSEG_DEVICE void read(const Forward<Storage>& p, int row, T (&v)[kItems]) const {
    const std::int64_t offset = row * (p.columns.in * p.inner);
    const Pack<Storage> a = load_pack(left + offset), b = load_pack(right + offset);
#pragma unroll
    for (int k = 0; k < kItems; ++k) v[k] = to_compute(a.v[k]) * w_lo + to_compute(b.v[k]) * w_hi;
  }
};

template <class Items>
__global__ void __launch_bounds__(kThreads,
                                  kResidentBlocks<typename Items::T, Items::kManyRegisters>)
    upsample_bilinear_fwd_kernel(const Forward<typename Items::Storage> p) {
  using T = typename Items::T;
  constexpr int kItems = Items::kItems;
  FASTSEG_SHARED(rows, Row<T>[kForwardRows]);
  const Division block = divide(blockIdx.x, p.chunks); // chunks of one tile run side by side
  const int first = static_cast<int>(block.remainder) * p.rows_per_chunk;
  const int left_over = static_cast<int>(p.rows.out) - first;
  const int count = left_over < p.rows_per_chunk ? left_over : p.rows_per_chunk;
  for (int r = threadIdx.x; r < count; r += kThreads) rows[r] = row_at<T>(p.rows, first + r);
  __syncthreads();
  const Items items(p, block.quotient);
  if (!items.any()) return;
  T upper[kItems] = {}, lower[kItems] = {}; // source rows lo and hi
  int lo = -1, hi = -1;
  for (int r = 0; r < count; ++r) {
    const Row<T> row = rows[r];
    if (row.lo != lo) {
      if (row.lo == hi) {
#pragma unroll
        for (int k = 0; k < kItems; ++k) upper[k] = lower[k];
      } else {
        items.read(p, row.lo, upper);
      }
      if (row.hi == row.lo) {
#pragma unroll
        for (int k = 0; k < kItems; ++k) lower[k] = upper[k];
      } else {
        items.read(p, row.hi, lower);
      }
      lo = row.lo;
      hi = row.hi;
    }
    T blended[kItems];
#pragma unroll
    for (int k = 0; k < kItems; ++k) blended[k] = upper[k] * row.w_lo + lower[k] * row.w_hi;
    items.write(p, first + r, blended);
  }
}

template <class Items>
void launch_forward(Forward<typename Items::Storage> p, std::uintptr_t stream) {
  const std::int64_t threads = Items::pieces(p);
  const std::int64_t rows = ceil_div(p.rows.out * threads, kWantedThreads);
  p.rows_per_chunk = static_cast<int>(std::clamp<std::int64_t>(rows, 8, kForwardRows));
  p.chunks = static_cast<int>(ceil_div(p.rows.out, p.rows_per_chunk));
  p.tiles = ceil_div(threads, Items::kBlockPieces);
  launch("upsample_bilinear forward", upsample_bilinear_fwd_kernel<Items>, p.tiles * p.chunks,
         kThreads, 0, stream, p);
}

template <class Storage>
void forward_typed(const Storage* x, Storage* out, const Shape& s, std::uintptr_t stream) {
  Forward<Storage> p{};
  p.x = x;
  p.out = out;
  p.rows = resize_axis(s.in_h, s.out_h, s.align_corners, s.scale_h);
  p.columns = resize_axis(s.in_w, s.out_w, s.align_corners, s.scale_w);
  p.lines = s.channels_last ? s.batch : s.batch * s.channels;
  p.inner = s.channels_last ? s.channels : 1;
  if (s.channels_last && s.channels % kPack<Storage> == 0 && is_aligned_16(x) && is_aligned_16(out))
    launch_forward<Channels<Storage>>(p, stream);
  else if (!s.channels_last && s.out_w % kPack<Storage> == 0 && is_aligned_16(out))
    launch_forward<Columns<Storage>>(p, stream);
  else if (!s.channels_last && fills_vectors<Storage>(s.out_w))
    launch_forward<RaggedColumns<Storage>>(p, stream);
  else
    launch_forward<Scalars<Storage>>(p, stream);
}

} // namespace

void forward(DType dtype, const void* x, void* out, const Shape& s, std::uintptr_t stream) {
  check_sizes(s);
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    forward_typed(static_cast<const Storage*>(x), static_cast<Storage*>(out), s, stream);
  });
}

} // namespace fastseg::upsample_bilinear::cuda
