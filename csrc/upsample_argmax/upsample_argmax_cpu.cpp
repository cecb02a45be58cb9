// CPU twin: the labels of common/argmax_rows_cpu.h, written as they come.
#include "upsample_argmax/upsample_argmax.h"

#include "common/argmax_rows_cpu.h"
#include "common/bands_cpu.h"
#include "common/parallel_cpu.h"

namespace fastseg::upsample_argmax::FASTSEG_CPU_LEVEL {
namespace {

using namespace fastseg::FASTSEG_CPU_LEVEL;

template <class Label, class T> void write_labels(Label* out, ivec<T> labels, std::int64_t count) {
  constexpr int L = kLanes<T>;
  typedef Label Narrow __attribute__((vector_size(L * sizeof(Label))));
  const Narrow narrow = __builtin_convertvector(labels, Narrow);
  std::memcpy(out, &narrow, static_cast<std::size_t>(count) * sizeof(Label));
}

template <class Storage, class Label>
void forward_typed(const Storage* logits, Label* labels, const Shape& s, int threads) {
  using T = compute_t<Storage>;
  constexpr int L = kLanes<T>;
  const ResizeAxis rows = resize_axis(s.in_h, s.out_h, s.align_corners, 0.0);
  const ResizeColumns<T> columns(resize_axis(s.in_w, s.out_w, s.align_corners, 0.0));
  const Bands bands(s.batch, s.in_h, threads);
  parallel_for(s.batch * bands.per_image, threads, [&](std::int64_t task) {
    const std::int64_t n = bands.image(task);
    ArgmaxRows<Storage> argmax(logits + n * s.stride_n,
                               {s.stride_n, s.stride_c, s.stride_h, s.stride_w}, s.classes, rows,
                               columns);
    argmax.run(bands.first(task), bands.end(task),
               [&](std::int64_t y, std::int64_t b, ivec<T> found) {
                 Label* out = labels + (n * s.out_h + y) * s.out_w + b * L;
                 if ((b + 1) * L <= s.out_w)
                   write_labels<Label, T>(out, found, L);
                 else
                   write_labels<Label, T>(out, found, s.out_w - b * L);
               });
  });
}

void forward(DType dtype, LabelType label_type, const void* logits, void* labels, const Shape& s,
             int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const auto* source = static_cast<const Storage*>(logits);
    if (label_type == LabelType::uint8)
      forward_typed(source, static_cast<std::uint8_t*>(labels), s, threads);
    else if (label_type == LabelType::int32)
      forward_typed(source, static_cast<std::int32_t*>(labels), s, threads);
    else
      throw std::invalid_argument("fastseg: labels are uint8 or int32");
  });
}

} // namespace

const CpuKernels kernels{forward};

} // namespace fastseg::upsample_argmax::FASTSEG_CPU_LEVEL
