#include "common/bind.h"
#include "window_filter/window_filter.h"

namespace fastseg {

void bind_window_filter(py::module_& m) {
  using namespace window_filter;
  py::module_ sub = m.def_submodule("window_filter");
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t labels, std::int64_t dims,
                       std::int64_t height, std::int64_t width, std::int64_t radius) {
             return Shape{batch, labels, dims, height, width, radius};
           }),
           py::kw_only(), py::arg("batch"), py::arg("labels"), py::arg("dims"), py::arg("height"),
           py::arg("width"), py::arg("radius"));
  py::class_<Map<void>>(sub, "Map")
      .def(py::init([](std::uintptr_t data, std::int64_t image, std::int64_t plane,
                       std::int64_t row, std::int64_t column) {
        return Map<void>{pointer(data), {image, plane, row, column}};
      }));
  sub.def(
      "cpu_forward",
      [](int dtype, const Map<void>& values, const Map<void>& features, std::uintptr_t out,
         const Shape& shape, int threads) {
        cpu_kernels().forward(static_cast<DType>(dtype), values, features, pointer(out), shape,
                              threads);
      },
      release_gil());
  sub.def(
      "cpu_feature_gradient",
      [](int dtype, const Map<void>& grad_out, const Map<void>& values, const Map<void>& features,
         std::uintptr_t grad_features, const Shape& shape, int threads) {
        cpu_kernels().feature_gradient(static_cast<DType>(dtype), grad_out, values, features,
                                       pointer(grad_features), shape, threads);
      },
      release_gil());
#ifdef FASTSEG_WITH_CUDA
  sub.attr("cuda_max_dims") = cuda::kMaxDims;
  sub.def(
      "cuda_forward",
      [](int dtype, const Map<void>& values, const Map<void>& features, std::uintptr_t out,
         const Shape& shape, std::uintptr_t stream) {
        cuda::forward(static_cast<DType>(dtype), values, features, pointer(out), shape, stream);
      },
      release_gil());
  sub.def(
      "cuda_feature_gradient",
      [](int dtype, const Map<void>& grad_out, const Map<void>& values, const Map<void>& features,
         std::uintptr_t grad_features, const Shape& shape, std::uintptr_t stream) {
        cuda::feature_gradient(static_cast<DType>(dtype), grad_out, values, features,
                               pointer(grad_features), shape, stream);
      },
      release_gil());
#endif
}

} // namespace fastseg
