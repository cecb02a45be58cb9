#include "common/bind.h"
#include "mask_argmax/mask_argmax.h"

namespace fastseg {

void bind_mask_argmax(py::module_& m) {
  using namespace mask_argmax;
  py::module_ sub = m.def_submodule("mask_argmax");
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t queries, std::int64_t classes,
                       std::int64_t in_h, std::int64_t in_w, std::int64_t size_h,
                       std::int64_t size_w, std::int64_t crop_h, std::int64_t crop_w,
                       std::int64_t out_h, std::int64_t out_w, std::int64_t stride_n,
                       std::int64_t stride_q, std::int64_t stride_h, std::int64_t stride_w) {
             return Shape{batch,  queries, classes, in_h,     in_w,     size_h,   size_w,  crop_h,
                          crop_w, out_h,   out_w,   stride_n, stride_q, stride_h, stride_w};
           }),
           py::kw_only(), py::arg("batch"), py::arg("queries"), py::arg("classes"), py::arg("in_h"),
           py::arg("in_w"), py::arg("size_h"), py::arg("size_w"), py::arg("crop_h"),
           py::arg("crop_w"), py::arg("out_h"), py::arg("out_w"), py::arg("stride_n"),
           py::arg("stride_q"), py::arg("stride_h"), py::arg("stride_w"));
  sub.def(
      "cpu_forward",
      [](int dtype, int label_type, std::uintptr_t masks, std::uintptr_t probabilities,
         std::uintptr_t labels, const Shape& shape, int threads) {
        cpu_kernels().forward(static_cast<DType>(dtype), static_cast<LabelType>(label_type),
                              pointer(masks), pointer(probabilities), pointer(labels), shape,
                              threads);
      },
      release_gil());
#ifdef FASTSEG_WITH_CUDA
  sub.attr("class_multiple") = cuda::kClasses;
  sub.def("max_queries", [](int dtype) { return cuda::max_queries(static_cast<DType>(dtype)); });
  sub.def(
      "cuda_forward",
      [](int dtype, int label_type, std::uintptr_t masks, std::uintptr_t probabilities,
         std::uintptr_t labels, const Shape& shape, std::uintptr_t stream) {
        cuda::forward(static_cast<DType>(dtype), static_cast<LabelType>(label_type), pointer(masks),
                      pointer(probabilities), pointer(labels), shape, stream);
      },
      release_gil());
#endif
}

} // namespace fastseg
