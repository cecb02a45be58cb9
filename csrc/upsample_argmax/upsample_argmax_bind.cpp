#include "common/bind.h"
#include "upsample_argmax/upsample_argmax.h"

namespace fastseg {

void bind_upsample_argmax(py::module_& m) {
  using namespace upsample_argmax;
  py::module_ sub = m.def_submodule("upsample_argmax");
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t classes, std::int64_t in_h,
                       std::int64_t in_w, std::int64_t out_h, std::int64_t out_w,
                       bool align_corners, std::int64_t stride_n, std::int64_t stride_c,
                       std::int64_t stride_h, std::int64_t stride_w) {
             return Shape{batch,         classes,  in_h,     in_w,     out_h,   out_w,
                          align_corners, stride_n, stride_c, stride_h, stride_w};
           }),
           py::kw_only(), py::arg("batch"), py::arg("classes"), py::arg("in_h"), py::arg("in_w"),
           py::arg("out_h"), py::arg("out_w"), py::arg("align_corners"), py::arg("stride_n"),
           py::arg("stride_c"), py::arg("stride_h"), py::arg("stride_w"));
  sub.def(
      "cpu_forward",
      [](int dtype, int label_type, std::uintptr_t logits, std::uintptr_t labels,
         const Shape& shape, int threads) {
        cpu_kernels().forward(static_cast<DType>(dtype), static_cast<LabelType>(label_type),
                              pointer(logits), pointer(labels), shape, threads);
      },
      release_gil());
#ifdef FASTSEG_WITH_CUDA
  sub.def(
      "cuda_forward",
      [](int dtype, int label_type, std::uintptr_t logits, std::uintptr_t labels,
         const Shape& shape, std::uintptr_t stream) {
        cuda::forward(static_cast<DType>(dtype), static_cast<LabelType>(label_type),
                      pointer(logits), pointer(labels), shape, stream);
      },
      release_gil());
#endif
}

} // namespace fastseg
