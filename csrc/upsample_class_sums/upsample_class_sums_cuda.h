// What the kernels of the CUDA twin share: where a pixel reads, and its probability, target and
// terms for one class.
//
// With a softmax, a first kernel takes a thread per pixel and keeps the largest logit and the sum
// of e^(z - largest) of each; for a backward also what the derivatives of all classes have in
// common. The sums then take blocks of pixels, class after class; the gradient a thread per source
// cell and class, which gathers from the pixels that read the cell. Everything is deterministic.
#pragma once

#include <algorithm>
#include <cmath>

#include "common/bilinear_math.h"
#include "common/cuda_launch.h"
#include "common/cuda_vector.h"
#include "upsample_class_sums/upsample_class_sums.h"

namespace fastseg::upsample_class_sums::cuda {

constexpr int kThreads = 256;

// An output on one axis: (1 - w) * x[lo] + w * x[lo + step].
template <class T> struct Tap {
  int lo, step;
  T w;
};

// The workspace: tables of both axes, and one number per pixel where they are wanted.
template <class T> struct Workspace {
  Tap<T>*rows, *columns, *teacher_rows, *teacher_columns;
  int *row_ends, *column_ends; // [i]: first output whose lo is >= i - 1, for i up to in + 1
  T *largest, *sum, *teacher_largest, *teacher_sum, *common;
  double* partials; // [blocks, kept, C]
};

constexpr int kPixels = 2; // of a thread of the sums
inline std::int64_t blocks_per_image(const Shape& s) {
  return ceil_div(s.out_h * s.out_w, std::int64_t{kThreads} * kPixels);
}

// Divides `memory` up; returns the bytes that it needs.
template <class T>
std::int64_t divide_memory(const Arguments& a, const Shape& s, char* memory, Workspace<T>& w) {
  std::int64_t used = 0;
  const auto take = [&](auto*& pointer, std::int64_t count) {
    using Item = std::remove_reference_t<decltype(*pointer)>;
    pointer = reinterpret_cast<Item*>(memory + used);
    used += ceil_div(count * static_cast<std::int64_t>(sizeof(Item)), 16) * 16;
  };
  const bool teacher = a.target_kind == TargetKind::logits, backward = a.grad_logits != nullptr;
  const std::int64_t pixels = s.sigmoid ? 0 : s.batch * s.out_h * s.out_w;
  take(w.rows, s.out_h);
  take(w.columns, s.out_w);
  take(w.teacher_rows, teacher ? s.out_h : 0);
  take(w.teacher_columns, teacher ? s.out_w : 0);
  take(w.row_ends, s.in_h + 2);
  take(w.column_ends, s.in_w + 2);
  take(w.largest, pixels);
  take(w.sum, pixels);
  take(w.teacher_largest, teacher ? pixels : 0);
  take(w.teacher_sum, teacher ? pixels : 0);
  take(w.common, backward ? pixels : 0);
  take(w.partials, backward ? 0 : s.batch * blocks_per_image(s) * a.kept * s.classes);
  return used;
}

template <class Storage> struct Problem {
  using T = compute_t<Storage>;
  const Storage* logits;
  Arguments a;
  Shape s;
  Workspace<T> w;
  T gamma, threshold, scale; // of the focal weights
  long long* bad;
};

template <class Storage>
Problem<Storage> problem(const Arguments& a, const Shape& s, void* workspace, std::int64_t* bad) {
  using T = compute_t<Storage>;
  Problem<Storage> p{
      static_cast<const Storage*>(a.logits),
      a,
      s,
      {},
      static_cast<T>(s.gamma),
      static_cast<T>(s.reduced_threshold),
      static_cast<T>(s.reduced_threshold > 0.0 ? std::pow(s.reduced_threshold, -s.gamma) : 1.0),
      reinterpret_cast<long long*>(bad)};
  divide_memory(a, s, static_cast<char*>(workspace), p.w);
  return p;
}

template <class T, class Storage>
FASTSEG_DEVICE T resized(const Storage* plane, std::int64_t stride_h, std::int64_t stride_w,
                         const Tap<T>& row, const Tap<T>& column) {
  // Equal ones are not blended: infinities, and a border, whose second source is the first.
  const auto blend = [](T a, T b, T w) { return a == b ? a : a * (T(1) - w) + b * w; };
  const auto along = [&](const Storage* line) {
    return blend(to_compute(load(line)), to_compute(load(line + column.step * stride_w)), column.w);
  };
  const Storage* line = plane + row.lo * stride_h + column.lo * stride_w;
  return blend(along(line), along(line + row.step * stride_h), row.w);
}

// A pixel of image n, at flat index `at` of [N, out_h, out_w].
template <class T> struct Pixel {
  std::int64_t n, at;
  Tap<T> row, column;
  int label; // -1: does not count; -2: bad. 0 with other targets
  T weight;
};
template <class Storage, class T = compute_t<Storage>>
FASTSEG_DEVICE Pixel<T> pixel_at(const Problem<Storage>& p, std::int64_t n, int y, int x) {
  Pixel<T> pixel{n, (n * p.s.out_h + y) * p.s.out_w + x, p.w.rows[y], p.w.columns[x], 0, T(1)};
  if (p.a.target_kind == TargetKind::labels) {
    const std::int64_t t =
        load_label(p.a.target, static_cast<LabelType>(p.a.target_type), pixel.at);
    const std::int64_t labels = p.s.sigmoid && p.s.classes == 1 ? 2 : p.s.classes;
    pixel.label = t == p.s.ignore_index ? -1 : t < 0 || t >= labels ? -2 : static_cast<int>(t);
  }
  if (p.a.pixel_weight != nullptr)
    pixel.weight = load(static_cast<const T*>(p.a.pixel_weight) + pixel.at);
  return pixel;
}

template <class Storage, class T>
FASTSEG_DEVICE T logit(const Problem<Storage>& p, const Pixel<T>& pixel, int c) {
  return resized(p.logits + pixel.n * p.s.stride_n + c * p.s.stride_c, p.s.stride_h, p.s.stride_w,
                 pixel.row, pixel.column);
}
// `y`, `x`: of the pixel, for the teacher's tables.
template <class Storage, class T>
FASTSEG_DEVICE T teacher_logit(const Problem<Storage>& p, const Pixel<T>& pixel, int c) {
  const int at = static_cast<int>(divide(pixel.at, p.s.out_h * p.s.out_w).remainder);
  const int width = static_cast<int>(p.s.out_w);
  const std::int64_t plane = p.s.teacher_h * p.s.teacher_w;
  return resized(static_cast<const T*>(p.a.target) + (pixel.n * p.s.classes + c) * plane,
                 p.s.teacher_w, 1, p.w.teacher_rows[at / width], p.w.teacher_columns[at % width]);
}

// One class of a pixel.
template <class T> struct Element {
  T p, q, y;        // probability, 1 - p, target
  T loss, negative; // -log p, -log q
  bool counts;
  bool bad; // an integer that is neither 0, 1 nor ignore_index, with sigmoid
};
// Flat index of class c of a pixel in a target [N, C, out_h, out_w].
template <class Storage, class T>
FASTSEG_DEVICE std::int64_t value_index(const Problem<Storage>& p, const Pixel<T>& pixel, int c) {
  return pixel.at + (pixel.n * (p.s.classes - 1) + c) * p.s.out_h * p.s.out_w;
}
template <class Storage, class T>
FASTSEG_DEVICE Element<T> element(const Problem<Storage>& p, const Pixel<T>& pixel, int c) {
  Element<T> e{0, 0, 0, 0, 0, pixel.label != -1, false};
  if (p.a.target_kind == TargetKind::labels) {
    e.y = pixel.label == (p.s.sigmoid && p.s.classes == 1 ? 1 : c) ? T(1) : T(0);
  } else if (p.a.target_kind == TargetKind::values) {
    const std::int64_t at = value_index(p, pixel, c);
    e.y = p.a.target_type == TargetType::compute
              ? load(static_cast<const T*>(p.a.target) + at)
              : static_cast<T>(load_label(p.a.target, static_cast<LabelType>(p.a.target_type), at));
    if (p.s.sigmoid) e.counts = e.y != static_cast<T>(p.s.ignore_index);
    e.bad = p.s.sigmoid && p.a.target_type != TargetType::compute && e.counts && e.y != T(0) &&
            e.y != T(1);
  } else {
    e.y =
        exp(teacher_logit(p, pixel, c) - p.w.teacher_largest[pixel.at]) / p.w.teacher_sum[pixel.at];
  }
  const T z = logit(p, pixel, c);
  if (p.s.sigmoid) {
    const T power = exp(z < T(0) ? z : -z), inverse = T(1) / (T(1) + power);
    const T small = power * inverse, log_sum = log1p(power);
    e.p = z < T(0) ? small : inverse;
    e.q = z < T(0) ? inverse : small;
    e.loss = (z < T(0) ? -z : T(0)) + log_sum;
    e.negative = (z > T(0) ? z : T(0)) + log_sum;
  } else {
    const T shifted = z - p.w.largest[pixel.at], sum = p.w.sum[pixel.at];
    e.p = exp(shifted) / sum;
    e.q = T(1) - e.p;
    e.loss = log(sum) - shifted;
  }
  return e;
}

// The focal weight w(t) and its derivative, rest = 1 - t.
template <class T> struct Focal {
  T weight, slope;
};
template <class Storage, class T>
FASTSEG_DEVICE Focal<T> focal(const Problem<Storage>& p, T t, T rest) {
  if (p.threshold > T(0) && t < p.threshold) return {T(1), T(0)};
  if (p.gamma == T(2)) return {rest * rest * p.scale, T(-2) * rest * p.scale};
  if (p.gamma == T(0)) return {T(1), T(0)};
  rest = rest < T(0) ? T(0) : rest;
  return {pow(rest, p.gamma) * p.scale, -p.gamma * pow(rest, p.gamma - T(1)) * p.scale};
}

// What a pixel adds to a sum, before its weight. `k` is known at compile time.
template <class Storage, class T>
FASTSEG_DEVICE T term(const Problem<Storage>& p, int k, const Element<T>& e) {
  const auto times = [](T share, T x) { return share == T(0) ? T(0) : share * x; };
  switch (k) {
  case kProbability:
    return e.p;
  case kOverlap:
    return e.p * e.y;
  case kTarget:
    return e.y;
  case kCount:
    return T(1);
  case kSquare:
    return e.p * e.p;
  case kLoss:
    return times(e.y, e.loss);
  case kNegativeLoss:
    return times(T(1) - e.y, e.negative);
  case kEveryLoss:
    return e.loss;
  case kNegativeEveryLoss:
    return e.negative;
  case kFocal:
    return times(e.y, focal(p, e.p, e.q).weight * e.loss);
  case kNegativeFocal:
    return times(T(1) - e.y, focal(p, e.q, e.p).weight * e.negative);
  case kFocalWeight:
    return times(e.y, focal(p, e.p, e.q).weight);
  case kNegativeFocalWeight:
    return times(T(1) - e.y, focal(p, e.q, e.p).weight);
  case kMinimum:
    return e.p < e.y ? e.p : e.y;
  default: // kNegativeEntropy
    return e.y == T(0) ? T(0) : e.y * log(e.y);
  }
}

// d(term) / d(log p), and what comes to d(term) / d(logit) through log(1 - p).
template <class T> struct Slopes {
  T by_log_p = 0, by_logit = 0;
};
template <class Storage, class T>
FASTSEG_DEVICE Slopes<T> slopes(const Problem<Storage>& p, int k, const Element<T>& e) {
  const T none = T(1) - e.y;
  switch (k) {
  case kProbability:
    return {e.p, 0};
  case kOverlap:
    return {e.p * e.y, 0};
  case kSquare:
    return {T(2) * e.p * e.p, 0};
  case kLoss:
    return {-e.y, 0};
  case kEveryLoss:
    return {T(-1), 0};
  case kMinimum:
    return {e.p == e.y ? T(0.5) * e.p : e.p < e.y ? e.p : T(0), 0};
  case kNegativeLoss:
    return {0, none * e.p};
  case kNegativeEveryLoss:
    return {0, e.p};
  case kFocal: {
    const Focal<T> f = focal(p, e.p, e.q);
    return {e.y == T(0) ? T(0) : e.y * (e.p * f.slope * e.loss - f.weight), 0};
  }
  case kFocalWeight:
    return {e.y == T(0) ? T(0) : e.y * e.p * focal(p, e.p, e.q).slope, 0};
  case kNegativeFocal: {
    const Focal<T> f = focal(p, e.q, e.p);
    return {0, none == T(0) ? T(0) : none * (f.weight * e.p - f.slope * e.p * e.q * e.negative)};
  }
  case kNegativeFocalWeight:
    return {0, none == T(0) ? T(0) : -none * focal(p, e.q, e.p).slope * e.p * e.q};
  default:
    return {};
  }
}

// The same for all sums that are kept, times their coefficients. `coefficients` of the class: one
// per kept sum, `step` apart.
template <class Storage, class T>
FASTSEG_DEVICE Slopes<T> slopes(const Problem<Storage>& p, const Element<T>& e,
                                const T* coefficients, std::int64_t step) {
  Slopes<T> total;
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    if (p.a.slots[k] < 0) continue;
    const T coefficient = load(coefficients + p.a.slots[k] * step);
    const Slopes<T> one = slopes(p, k, e);
    total.by_log_p += coefficient * one.by_log_p;
    total.by_logit += coefficient * one.by_logit;
  }
  return total;
}

// Fills the tables and the numbers per pixel.
template <class Storage> void prepare(const Problem<Storage>& p, std::uintptr_t stream);

} // namespace fastseg::upsample_class_sums::cuda
