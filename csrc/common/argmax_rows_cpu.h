// The class with the largest upsampled logit, kLanes output columns at a time.
// Included only by *_cpu.cpp files; lives in the level's namespace.
//
// Between two source rows every upsampled logit lies between its values on them. A class whose
// larger end is below the smaller end of some other class cannot win there, so it is never
// interpolated: on real images that leaves one or two classes of most blocks.
#pragma once

#include <algorithm>

#include "common/logit_rows_cpu.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

// As torch.argmax: the first of equal values wins, and NaN is larger than everything.
template <class Storage> class ArgmaxRows {
  using T = compute_t<Storage>;
  using V = vec<T>;
  using I = ivec<T>;
  static constexpr int L = kLanes<T>;

public:
  ArgmaxRows(const Storage* logits, const MapStrides& strides, std::int64_t classes,
             const ResizeAxis& rows, const ResizeColumns<T>& columns)
      : logits_(logits, strides, classes, columns), classes_(classes), rows_(rows),
        columns_(columns), candidates_(classes) {}

  // Calls emit(y, block, labels) for every block of the output rows whose upper source row is in
  // [first, end); lanes beyond the last column repeat it.
  template <class Emit> void run(std::int64_t first, std::int64_t end, const Emit& emit) {
    const std::int64_t last = first_output(rows_, end);
    for (std::int64_t y = first_output(rows_, first); y < last;) {
      const Taps<T> t = taps<T>(rows_, y);
      std::int64_t y_end = y + 1; // the run of output rows between the same source rows
      while (y_end < last && taps<T>(rows_, y_end).lo == t.lo) ++y_end;
      logits_.move_to(t.lo, t.hi, [](T*) {});
      for (std::int64_t b = 0; b < columns_.blocks(); ++b) {
        const T* lo = logits_.lo(b);
        const T* hi = logits_.hi(b);
        const std::int64_t count = find_candidates(lo, hi);
        for (std::int64_t row = y; row < y_end; ++row) {
          if (count == 1) {
            emit(row, b, isplat<T>(static_cast<lane_int<T>>(candidates_[0])));
            continue;
          }
          const Taps<T> w = taps<T>(rows_, row);
          emit(row, b, count == 0 ? largest_with_nan(lo, hi, w) : largest(lo, hi, w, count));
        }
      }
      y = y_end;
    }
  }

private:
  // Fills candidates_ in ascending order; 0 where a value is not finite and the bound says nothing.
  std::int64_t find_candidates(const T* lo, const T* hi) {
    const std::int64_t C = classes_;
    V bound = vmin(load_vec(lo), load_vec(hi)), finite{};
    for (std::int64_t c = 0; c < C; ++c) {
      const V a = load_vec(lo + c * L), b = load_vec(hi + c * L);
      bound = vmax(bound, vmin(a, b));
      finite += (a - a) + (b - b); // NaN if a or b is not finite
    }
    if (any<T>(finite != finite)) return 0;
    std::int32_t* const candidates = candidates_.get();
    std::int64_t count = 0;
    for (std::int64_t c = 0; c < C; ++c) {
      candidates[count] = static_cast<std::int32_t>(c);
      count += any<T>(vmax(load_vec(lo + c * L), load_vec(hi + c * L)) >= bound) ? 1 : 0;
    }
    return count;
  }

  I largest(const T* lo, const T* hi, const Taps<T>& w, std::int64_t count) const {
    const std::int32_t* const candidates = candidates_.get();
    V best = blend(lo, hi, w, candidates[0]);
    I label = isplat<T>(static_cast<lane_int<T>>(candidates[0]));
    for (std::int64_t i = 1; i < count; ++i) {
      const V z = blend(lo, hi, w, candidates[i]);
      label = z > best ? isplat<T>(static_cast<lane_int<T>>(candidates[i])) : label;
      best = vmax(z, best);
    }
    return label;
  }

  I largest_with_nan(const T* lo, const T* hi, const Taps<T>& w) const {
    V best = blend(lo, hi, w, 0);
    I label{};
    for (std::int64_t c = 1; c < classes_; ++c) {
      const V z = blend(lo, hi, w, c);
      const I larger = (z > best) | ((z != z) & (best == best));
      label = larger ? isplat<T>(static_cast<lane_int<T>>(c)) : label;
      best = larger ? z : best;
    }
    return label;
  }

  static V blend(const T* lo, const T* hi, const Taps<T>& w, std::int64_t c) {
    return load_vec(lo + c * L) * w.w_lo + load_vec(hi + c * L) * w.w_hi;
  }

  LogitRows<Storage> logits_;
  std::int64_t classes_;
  const ResizeAxis& rows_;
  const ResizeColumns<T>& columns_;
  Buffer<std::int32_t> candidates_;
};

} // namespace fastseg::FASTSEG_CPU_LEVEL
