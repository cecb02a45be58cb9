#include "common/bind.h"
#include "gaussian_filter/gaussian_filter.h"

namespace fastseg {

void bind_gaussian_filter(py::module_& m) {
  using namespace gaussian_filter;
  py::module_ sub = m.def_submodule("gaussian_filter");
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t labels, std::int64_t dims,
                       std::int64_t points) { return Shape{batch, labels, dims, points}; }),
           py::kw_only(), py::arg("batch"), py::arg("labels"), py::arg("dims"), py::arg("points"));
  sub.def(
      "cpu_forward",
      [](int dtype, std::uintptr_t values, std::uintptr_t features, std::uintptr_t out,
         const Shape& shape, int threads) {
        cpu_kernels().forward(static_cast<DType>(dtype), pointer(values), pointer(features),
                              pointer(out), shape, threads);
      },
      release_gil());
  sub.def(
      "cpu_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t values, std::uintptr_t features,
         std::uintptr_t grad_values, std::uintptr_t grad_features, const Shape& shape,
         int threads) {
        cpu_kernels().backward(static_cast<DType>(dtype), pointer(grad_out), pointer(values),
                               pointer(features), pointer(grad_values), pointer(grad_features),
                               shape, threads);
      },
      release_gil());
}

} // namespace fastseg
