#include "common/bind.h"
#include "upsample_confusion_matrix/upsample_confusion_matrix.h"

namespace fastseg {

// Shapes are those of upsample_argmax.
void bind_upsample_confusion_matrix(py::module_& m) {
  using namespace upsample_confusion_matrix;
  py::module_ sub = m.def_submodule("upsample_confusion_matrix");
  sub.def(
      "cpu_forward",
      [](int dtype, int target_type, std::uintptr_t logits, std::uintptr_t target,
         std::int64_t ignore_index, std::uintptr_t counts, const Shape& shape, int threads) {
        return cpu_kernels().forward(static_cast<DType>(dtype), static_cast<LabelType>(target_type),
                                     pointer(logits), pointer(target), ignore_index,
                                     pointer<std::int64_t>(counts), shape, threads);
      },
      release_gil());
#ifdef FASTSEG_WITH_CUDA
  sub.def(
      "cuda_forward",
      [](int dtype, int target_type, std::uintptr_t logits, std::uintptr_t target,
         std::int64_t ignore_index, std::uintptr_t counts, std::uintptr_t bad, const Shape& shape,
         std::uintptr_t stream) {
        cuda::forward(static_cast<DType>(dtype), static_cast<LabelType>(target_type),
                      pointer(logits), pointer(target), ignore_index, pointer<std::int64_t>(counts),
                      pointer<std::int64_t>(bad), shape, stream);
      },
      release_gil());
#endif
}

} // namespace fastseg
