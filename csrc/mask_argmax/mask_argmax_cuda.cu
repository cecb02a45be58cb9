// CUDA twin. The sigmoids of a tile of pixels lie in shared memory, of all queries, resized as the
// scores would be (see mask_argmax_cpu.cpp); a warp sums kClasses classes at a time for them.
#include "mask_argmax/mask_argmax.h"

#include "common/bilinear_math.h"
#include "common/cuda_launch.h"
#include "common/cuda_vector.h"

namespace fastseg::mask_argmax::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr std::int64_t kSharedBytes = 48 << 10;

template <class Storage> struct Params {
  const Storage* masks;
  const compute_t<Storage>* probabilities;
  Shape shape;
  int queries, classes;
  bool second; // whether the scores are resized
  ResizeAxis mask_rows, mask_columns, score_rows, score_columns;
  std::int64_t tiles; // of a row
};

// One axis of an output pixel: up to two places of the resized masks, each between two of the
// masks.
template <class T> struct Reads {
  std::int64_t lo[2], hi[2]; // offsets in the masks
  T w_lo[2], w_hi[2];
  T weight[2];
  int count;
};
template <class T>
FASTSEG_DEVICE Reads<T> reads(bool second, const ResizeAxis& of_scores, const ResizeAxis& of_masks,
                              std::int64_t index, std::int64_t stride) {
  Reads<T> r{};
  Taps<T> t{index, index, T(1), T(0)};
  if (second) t = taps<T>(of_scores, index);
  r.count = t.hi == t.lo ? 1 : 2;
  r.weight[0] = t.hi == t.lo ? T(1) : t.w_lo;
  r.weight[1] = t.w_hi;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Taps<T> m = taps<T>(of_masks, i == 0 ? t.lo : t.hi);
    r.lo[i] = m.lo * stride;
    r.hi[i] = m.hi * stride;
    r.w_lo[i] = m.w_lo;
    r.w_hi[i] = m.w_hi;
  }
  return r;
}

// 1 / (1 + e^-x), without overflow.
FASTSEG_DEVICE float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
FASTSEG_DEVICE double sigmoid(double x) {
  const double e = exp(-fabs(x));
  return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

// Between two values; the second one does not count where both are the same place.
template <class T> FASTSEG_DEVICE T blend(T lo, T hi, T w_lo, T w_hi, bool same) {
  return same ? lo : lo * w_lo + hi * w_hi;
}

template <class Storage, class T = compute_t<Storage>>
FASTSEG_DEVICE T resized_sigmoid(const Storage* mask, const Reads<T>& rows,
                                 const Reads<T>& columns) {
  T sum(0);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (i >= rows.count || j >= columns.count) continue;
      const bool one_column = columns.lo[j] == columns.hi[j];
      const auto row = [&](std::int64_t offset) {
        return blend(to_compute(load(mask + offset + columns.lo[j])),
                     to_compute(load(mask + offset + columns.hi[j])), columns.w_lo[j],
                     columns.w_hi[j], one_column);
      };
      const T x = blend(row(rows.lo[i]), row(rows.hi[i]), rows.w_lo[i], rows.w_hi[i],
                        rows.lo[i] == rows.hi[i]);
      sum += rows.weight[i] * columns.weight[j] * sigmoid(x);
    }
  }
  return sum;
}

// As torch.argmax: NaN is larger than everything, and of equal values the first class wins.
template <class T> struct Best {
  T score;
  int label;
  FASTSEG_DEVICE void add(T z, int k) {
    const bool nan = z != z, top_nan = score != score;
    const bool equal = z == score || (nan && top_nan);
    if (equal ? k < label : (nan || z > score) && !top_nan) {
      score = z;
      label = k;
    }
  }
};

// A tile is 32 * kPixels output pixels of a row.
template <class Storage, class Label, int kPixels>
__global__ void __launch_bounds__(kThreads, sizeof(compute_t<Storage>) == 8 ? 2 : 3)
    mask_argmax_fwd_kernel(const Params<Storage> p, Label* labels) {
  using T = compute_t<Storage>;
  constexpr int kTile = 32 * kPixels;
  FASTSEG_SHARED(found, Best<T>[kWarps][kTile]);
  T* const sigmoids = dynamic_shared<T>(); // [queries, kTile]
  const Shape& s = p.shape;
  const Division tile = divide(blockIdx.x, p.tiles);
  const Division line = divide(tile.quotient, s.out_h);
  const std::int64_t first = tile.remainder * kTile;
  {
    const int pixel = static_cast<int>(threadIdx.x) % kTile;
    const std::int64_t x = min(first + pixel, s.out_w - 1);
    const Reads<T> rows = reads<T>(p.second, p.score_rows, p.mask_rows, line.remainder, s.stride_h);
    const Reads<T> columns = reads<T>(p.second, p.score_columns, p.mask_columns, x, s.stride_w);
    const Storage* const masks = p.masks + line.quotient * s.stride_n;
    for (int q = static_cast<int>(threadIdx.x) / kTile; q < p.queries; q += kThreads / kTile)
      sigmoids[q * kTile + pixel] = resized_sigmoid(masks + q * s.stride_q, rows, columns);
  }
  __syncthreads();

  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int padded = static_cast<int>((p.classes + kClasses - 1) / kClasses * kClasses);
  const T* const probabilities = p.probabilities + line.quotient * p.queries * padded;
  Best<T> best[kPixels];
#pragma unroll
  for (int j = 0; j < kPixels; ++j) best[j] = {T(-INFINITY), p.classes};
  for (int k = warp * static_cast<int>(kClasses); k < p.classes;
       k += kWarps * static_cast<int>(kClasses)) {
    constexpr int kCount = static_cast<int>(kClasses);
    T sum[kCount][kPixels] = {};
    for (int q = 0; q < p.queries; ++q) {
      T value[kPixels];
#pragma unroll
      for (int j = 0; j < kPixels; ++j) value[j] = sigmoids[q * kTile + j * 32 + lane];
#pragma unroll
      for (int i = 0; i < kCount; i += kPack<T>) {
        const auto pack = load_pack(probabilities + std::int64_t(q) * padded + k + i);
#pragma unroll
        for (int c = 0; c < kPack<T>; ++c)
#pragma unroll
          for (int j = 0; j < kPixels; ++j) sum[i + c][j] += pack.v[c] * value[j];
      }
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i)
#pragma unroll
      for (int j = 0; j < kPixels; ++j)
        if (k + i < p.classes) best[j].add(sum[i][j], k + i);
  }
#pragma unroll
  for (int j = 0; j < kPixels; ++j) found[warp][j * 32 + lane] = best[j];
  __syncthreads();
  const int pixel = static_cast<int>(threadIdx.x);
  if (pixel >= kTile || first + pixel >= s.out_w) return;
  Best<T> top = found[0][pixel];
  for (int w = 1; w < kWarps; ++w) top.add(found[w][pixel].score, found[w][pixel].label);
  labels[tile.quotient * s.out_w + first + pixel] = static_cast<Label>(top.label);
}

template <int kPixels, class Storage, class Label>
void launch_typed(Params<Storage> p, Label* labels, std::uintptr_t stream) {
  p.tiles = ceil_div(p.shape.out_w, 32 * kPixels);
  launch("mask_argmax", mask_argmax_fwd_kernel<Storage, Label, kPixels>,
         p.shape.batch * p.shape.out_h * p.tiles, kThreads,
         sizeof(compute_t<Storage>) * p.queries * 32 * kPixels, stream, p, labels);
}

template <class Storage, class Label>
void forward_typed(const Storage* masks, const compute_t<Storage>* probabilities, Label* labels,
                   const Shape& s, std::uintptr_t stream) {
  using T = compute_t<Storage>;
  Params<Storage> p{};
  p.masks = masks;
  p.probabilities = probabilities;
  p.shape = s;
  p.queries = static_cast<int>(s.queries);
  p.classes = static_cast<int>(s.classes);
  p.second = s.out_h != s.crop_h || s.out_w != s.crop_w;
  p.mask_rows = resize_axis(s.in_h, s.size_h, false, 0.0);
  p.mask_columns = resize_axis(s.in_w, s.size_w, false, 0.0);
  p.score_rows = resize_axis(s.crop_h, s.out_h, false, 0.0);
  p.score_columns = resize_axis(s.crop_w, s.out_w, false, 0.0);
  constexpr std::int64_t of_found = sizeof(Best<T>) * kWarps * 64; // static, of the larger tile
  if (sizeof(T) * s.queries * 64 + of_found <= kSharedBytes)
    launch_typed<2>(p, labels, stream);
  else
    launch_typed<1>(p, labels, stream);
}

} // namespace

std::int64_t max_queries(DType dtype) {
  std::int64_t most = 0;
  dispatch_dtype(dtype, [&](auto tag) {
    using T = compute_t<typename decltype(tag)::type>;
    most = (kSharedBytes - static_cast<std::int64_t>(sizeof(Best<T>)) * kWarps * 32) /
           (32 * static_cast<std::int64_t>(sizeof(T)));
  });
  return most;
}

void forward(DType dtype, LabelType label_type, const void* masks, const void* probabilities,
             void* labels, const Shape& s, std::uintptr_t stream) {
  if (s.queries > max_queries(dtype) || s.classes > (1 << 30))
    throw std::invalid_argument("fastseg: mask_argmax: too many queries or classes");
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const auto* source = static_cast<const Storage*>(masks);
    const auto* table = static_cast<const compute_t<Storage>*>(probabilities);
    if (label_type == LabelType::uint8)
      forward_typed(source, table, static_cast<std::uint8_t*>(labels), s, stream);
    else if (label_type == LabelType::int32)
      forward_typed(source, table, static_cast<std::int32_t*>(labels), s, stream);
    else
      throw std::invalid_argument("fastseg: labels are uint8 or int32");
  });
}

} // namespace fastseg::mask_argmax::cuda
