// CPU twin: the labels of common/argmax_rows_cpu.h, counted as they come. Counts are integers, so
// their sum does not depend on the order in which threads add.
#include "upsample_confusion_matrix/upsample_confusion_matrix.h"

#include "common/argmax_rows_cpu.h"
#include "common/bands_cpu.h"
#include "common/parallel_cpu.h"
#include "common/rows_cpu.h"

namespace fastseg::upsample_confusion_matrix::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

// Up to this many classes every thread counts in a matrix of its own.
constexpr std::int64_t kPrivateClasses = 1024;

template <class Storage>
std::int64_t forward_typed(LabelType target_type, const Storage* logits, const void* target,
                           std::int64_t ignore_index, std::int64_t* counts, const Shape& s,
                           int threads) {
  using T = compute_t<Storage>;
  constexpr int L = kLanes<T>;
  const std::int64_t C = s.classes, cells = C * C;
  const ResizeAxis rows = resize_axis(s.in_h, s.out_h, s.align_corners, 0.0);
  const ResizeColumns<T> columns(resize_axis(s.in_w, s.out_w, s.align_corners, 0.0));
  const Bands bands(s.batch, s.in_h, threads);
  const bool shared = C > kPrivateClasses;
  Buffer<std::int64_t> own(shared ? 0 : cells * threads);
  Buffer<std::int64_t> bad(s.batch * bands.per_image);
  zero_row(own.get(), shared ? 0 : cells * threads);
  zero_row(counts, cells);
  parallel_for(s.batch * bands.per_image, threads, [&](std::int64_t task) {
    const std::int64_t n = bands.image(task);
    std::int64_t* const mine = shared ? counts : own.get() + thread_index() * cells;
    std::int64_t bad_target = -1;
    ArgmaxRows<Storage> argmax(logits + n * s.stride_n,
                               {s.stride_n, s.stride_c, s.stride_h, s.stride_w}, C, rows, columns);
    const auto count_block = [&](auto tag, std::int64_t y, std::int64_t b, ivec<T> found) {
      const std::int64_t at = (n * s.out_h + y) * s.out_w + b * L;
      const std::int64_t end = std::min<std::int64_t>(L, s.out_w - b * L);
      const auto* truth = static_cast<const typename decltype(tag)::type*>(target) + at;
      for (std::int64_t k = 0; k < end; ++k) {
        const auto t = static_cast<std::int64_t>(truth[k]);
        if (t == ignore_index) continue;
        if (t < 0 || t >= C) {
          if (bad_target < 0 || at + k < bad_target) bad_target = at + k;
          continue;
        }
        std::int64_t* cell = mine + t * C + found[k];
        if (shared)
          __atomic_fetch_add(cell, 1, __ATOMIC_RELAXED);
        else
          ++*cell;
      }
    };
    dispatch_label(target_type, [&](auto tag) {
      argmax.run(
          bands.first(task), bands.end(task),
          [&](std::int64_t y, std::int64_t b, ivec<T> found) { count_block(tag, y, b, found); });
    });
    bad[task] = bad_target;
  });
  for (std::int64_t i = 0; !shared && i < threads; ++i)
    for (std::int64_t cell = 0; cell < cells; ++cell) counts[cell] += own[i * cells + cell];
  for (std::int64_t task = 0; task < s.batch * bands.per_image; ++task)
    if (bad[task] >= 0) return bad[task];
  return -1;
}

std::int64_t forward(DType dtype, LabelType target_type, const void* logits, const void* target,
                     std::int64_t ignore_index, std::int64_t* counts, const Shape& s, int threads) {
  std::int64_t bad = -1;
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    bad = forward_typed(target_type, static_cast<const Storage*>(logits), target, ignore_index,
                        counts, s, threads);
  });
  return bad;
}

} // namespace

const CpuKernels kernels{forward};

} // namespace fastseg::upsample_confusion_matrix::FASTSEG_CPU_LEVEL
