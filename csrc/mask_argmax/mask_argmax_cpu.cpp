// CPU twin. The second resize is linear, as the sum over the queries is: the sigmoids of the
// queries are resized, instead of the scores of the classes, and the scores of a tile of pixels
// live in registers.
#include "mask_argmax/mask_argmax.h"

#include <algorithm>
#include <limits>

#include "common/buffer_cpu.h"
#include "common/line_pair_cpu.h"
#include "common/parallel_cpu.h"
#include "common/resize_columns_cpu.h"
#include "common/rows_cpu.h"
#include "common/vec_math_cpu.h"

namespace fastseg::mask_argmax::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

constexpr std::int64_t kRows = 8;                  // output rows of a task
constexpr int kClasses = 6;                        // whose scores are in registers at a time
constexpr int kVectors = kSimdBytes == 64 ? 4 : 2; // of pixels, as well
constexpr int kTile = 256 / kSimdBytes; // vectors of pixels whose sigmoids are kept at a time

// 1 / (1 + e^-x), without overflow.
template <class T> inline vec<T> sigmoid(vec<T> x) {
  constexpr lane_int<T> kSign = std::numeric_limits<lane_int<T>>::min();
  const ivec<T> bits = reinterpret_cast<ivec<T>>(x);
  const vec<T> e = exp_nonpositive(reinterpret_cast<vec<T>>(bits | kSign));
  const vec<T> one = vec<T>{} + T(1);
  return (bits < 0 ? e : one) / (e + one);
}

// Probabilities [Q, C] as [groups of kClasses, Q, kClasses], zeros beyond the last class.
template <class T>
void pack(const T* probabilities, std::int64_t queries, std::int64_t classes, T* packed) {
  for (std::int64_t first = 0; first < classes; first += kClasses)
    for (std::int64_t q = 0; q < queries; ++q)
      for (int i = 0; i < kClasses; ++i)
        *packed++ = first + i < classes ? probabilities[q * classes + first + i] : T(0);
}

// The largest score so far of kVectors vectors of pixels. As torch.argmax: the first of equal
// values wins, and NaN is larger than everything.
template <class T> struct Best {
  vec<T> score[kTile];
  ivec<T> label[kTile];
};

// Scores of `count` classes from `first` on, for the pixels of vectors [v, v + kVectors).
template <class T>
inline void add_classes(const T* sigmoids, const T* packed, std::int64_t queries,
                        std::int64_t first, int count, int v, Best<T>& best) {
  using V = vec<T>;
  constexpr int L = kLanes<T>;
  V sum[kClasses][kVectors] = {};
  const T* pixels = sigmoids + v * L;
  for (std::int64_t q = 0; q < queries; ++q, packed += kClasses, pixels += kTile * L) {
    V s[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) s[j] = load_vec(pixels + j * L);
#pragma GCC unroll 6
    for (int i = 0; i < kClasses; ++i) {
      const V p = packed[i] - V{}; // splat() adds 0, an instruction more
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] += p * s[j];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kClasses; ++i) {
    if (i >= count) break;
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      V& top = best.score[v + j];
      const V z = sum[i][j];
      ivec<T> larger = (z > top) | ((z != z) & (top == top));
      if (first + i == 0) larger = ~ivec<T>{};
      top = larger ? z : top;
      best.label[v + j] =
          larger ? isplat<T>(static_cast<lane_int<T>>(first + i)) : best.label[v + j];
    }
  }
}

// Rows of queries' masks, or of their sigmoids, before the last resize along the width.
template <class Storage> class Lines {
  using T = compute_t<Storage>;

public:
  // `columns`: of the resize of the masks; `second`: whether the sigmoids are resized as well.
  Lines(const Storage* masks, const Shape& s, const ResizeAxis& rows,
        const ResizeColumns<T>& columns, bool second)
      : masks_(masks), s_(s), rows_(rows), columns_(columns), length_(columns.padded(s.in_w)),
        sigmoids_length_(columns.padded(s.crop_w)), masks_row_(s.queries * length_), above_(s.in_w),
        below_(s.in_w), pair_(second ? s.queries * sigmoids_length_ : 0),
        sigmoids_row_(second ? s.queries * sigmoids_length_ : 0) {}

  // Row y of the resized masks, before the resize along the width: [Q, padded(in_w)].
  const T* masks_row(std::int64_t y) {
    const Taps<T> t = taps<T>(rows_, y);
    for (std::int64_t q = 0; q < s_.queries; ++q) {
      T* const to = masks_row_.get() + q * length_;
      const Storage* const mask = masks_ + q * s_.stride_q;
      read_line(t.hi == t.lo ? to : above_.get(), mask + t.lo * s_.stride_h, s_.stride_w, s_.in_w);
      if (t.hi != t.lo) {
        read_line(below_.get(), mask + t.hi * s_.stride_h, s_.stride_w, s_.in_w);
        blend_rows(to, above_.get(), below_.get(), t.w_lo, t.w_hi, s_.in_w);
      }
      pad_row(to, s_.in_w);
    }
    return masks_row_.get();
  }
  std::int64_t masks_length() const { return length_; }

  // Between two rows of the crop's sigmoids: [Q, padded(crop_w)].
  const T* sigmoids_row(const Taps<T>& t) {
    pair_.move_to(t.lo, t.hi, [&](std::int64_t row, T* out) {
      const T* const from = masks_row(row);
      for (std::int64_t q = 0; q < s_.queries; ++q, out += sigmoids_length_) {
        for (std::int64_t b = 0; b * kLanes<T> < s_.crop_w; ++b) {
          const vec<T> x = sigmoid<T>(resize_block<T>(from + q * length_, columns_.block(b)));
          const std::int64_t rest = s_.crop_w - b * kLanes<T>;
          if (rest >= kLanes<T>)
            store_vec(out + b * kLanes<T>, x);
          else
            store_partial(out + b * kLanes<T>, x, rest);
        }
        pad_row(out, s_.crop_w);
      }
    });
    if (t.hi == t.lo) return pair_.lo();
    blend_rows(sigmoids_row_.get(), pair_.lo(), pair_.hi(), t.w_lo, t.w_hi,
               s_.queries * sigmoids_length_);
    return sigmoids_row_.get();
  }
  std::int64_t sigmoids_length() const { return sigmoids_length_; }

private:
  const Storage* masks_;
  const Shape& s_;
  const ResizeAxis& rows_;
  const ResizeColumns<T>& columns_;
  std::int64_t length_, sigmoids_length_;
  Buffer<T> masks_row_, above_, below_;
  LinePair<T> pair_;
  Buffer<T> sigmoids_row_;
};

template <class Label, class T>
inline void write_labels(Label* out, const ivec<T>& labels, std::int64_t count) {
  lane_int<T> lanes[kLanes<T>];
  std::memcpy(lanes, &labels, sizeof lanes);
  for (std::int64_t i = 0; i < std::min<std::int64_t>(count, kLanes<T>); ++i)
    out[i] = static_cast<Label>(lanes[i]);
}

template <class Storage, class Label>
void forward_typed(const Storage* masks, const compute_t<Storage>* probabilities, Label* labels,
                   const Shape& s, int threads) {
  using T = compute_t<Storage>;
  constexpr int L = kLanes<T>;
  const bool second = s.out_h != s.crop_h || s.out_w != s.crop_w;
  const ResizeAxis mask_rows = resize_axis(s.in_h, s.size_h, false, 0.0);
  const ResizeAxis score_rows = resize_axis(s.crop_h, s.out_h, false, 0.0);
  const ResizeColumns<T> mask_columns(resize_axis(s.in_w, s.size_w, false, 0.0));
  const ResizeColumns<T> score_columns(resize_axis(s.crop_w, s.out_w, false, 0.0));
  const ResizeColumns<T>& last = second ? score_columns : mask_columns;
  const std::int64_t groups = (s.classes + kClasses - 1) / kClasses;
  const std::int64_t packed_size = groups * s.queries * kClasses;
  Buffer<T> packed(s.batch * packed_size);
  for (std::int64_t n = 0; n < s.batch; ++n)
    pack(probabilities + n * s.queries * s.classes, s.queries, s.classes,
         packed.get() + n * packed_size);
  const std::int64_t bands = (s.out_h + kRows - 1) / kRows;
  parallel_for(s.batch * bands, threads, [&](std::int64_t task) {
    const std::int64_t n = task / bands, begin = task % bands * kRows;
    const T* const table = packed.get() + n * packed_size;
    Lines<Storage> lines(masks + n * s.stride_n, s, mask_rows, mask_columns, second);
    const std::int64_t length = second ? lines.sigmoids_length() : lines.masks_length();
    Buffer<T> sigmoids(s.queries * kTile * L);
    Best<T> best;
    for (std::int64_t y = begin; y < std::min(s.out_h, begin + kRows); ++y) {
      const T* const row = second ? lines.sigmoids_row(taps<T>(score_rows, y)) : lines.masks_row(y);
      Label* const out = labels + (n * s.out_h + y) * s.out_w;
      for (std::int64_t b = 0; b * L < s.out_w; b += kTile) {
        const int blocks =
            static_cast<int>(std::min<std::int64_t>(kTile, (s.out_w - b * L + L - 1) / L));
        for (int v = 0; v < kTile; ++v) {
          const auto block = last.block(b + std::min(v, blocks - 1));
          T* const to = sigmoids.get() + v * L;
          const std::int64_t queries = s.queries;
          if (second)
            for (std::int64_t q = 0; q < queries; ++q)
              store_vec(to + q * kTile * L, resize_block<T>(row + q * length, block));
          else
            for (std::int64_t q = 0; q < queries; ++q)
              store_vec(to + q * kTile * L, sigmoid<T>(resize_block<T>(row + q * length, block)));
          if (v + 1 >= blocks && (v + 1) % kVectors == 0) break; // nobody reads the others
        }
        for (std::int64_t g = 0; g < groups; ++g)
          for (int v = 0; v < blocks; v += kVectors)
            add_classes(
                sigmoids.get(), table + g * s.queries * kClasses, s.queries, g * kClasses,
                static_cast<int>(std::min<std::int64_t>(kClasses, s.classes - g * kClasses)), v,
                best);
        for (int v = 0; v < blocks; ++v)
          write_labels<Label, T>(out + (b + v) * L, best.label[v], s.out_w - (b + v) * L);
      }
    }
  });
}

void forward(DType dtype, LabelType label_type, const void* masks, const void* probabilities,
             void* labels, const Shape& s, int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const auto* source = static_cast<const Storage*>(masks);
    const auto* table = static_cast<const compute_t<Storage>*>(probabilities);
    if (label_type == LabelType::uint8)
      forward_typed(source, table, static_cast<std::uint8_t*>(labels), s, threads);
    else if (label_type == LabelType::int32)
      forward_typed(source, table, static_cast<std::int32_t*>(labels), s, threads);
    else
      throw std::invalid_argument("fastseg: labels are uint8 or int32");
  });
}

} // namespace

const CpuKernels kernels{forward};

} // namespace fastseg::mask_argmax::FASTSEG_CPU_LEVEL
