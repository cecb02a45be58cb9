#include <pybind11/stl.h>

#include <vector>

#include "common/bind.h"
#include "pyramid_pool/pyramid_pool.h"

namespace fastseg {

void bind_pyramid_pool(py::module_& m) {
  using namespace pyramid_pool;
  using Sizes = std::vector<std::int64_t>;
  py::module_ sub = m.def_submodule("pyramid_pool");
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t channels, std::int64_t in_h,
                       std::int64_t in_w, bool channels_last) {
             return Shape{batch, channels, in_h, in_w, channels_last};
           }),
           py::kw_only(), py::arg("batch"), py::arg("channels"), py::arg("in_h"), py::arg("in_w"),
           py::arg("channels_last"));
  sub.def(
      "cpu_forward",
      [](int dtype, std::uintptr_t x, std::uintptr_t out, const Shape& shape, const Sizes& bins,
         int threads) {
        cpu_kernels().forward(static_cast<DType>(dtype), pointer(x), pointer(out), shape,
                              {bins.data(), static_cast<std::int64_t>(bins.size())}, threads);
      },
      release_gil());
  sub.def(
      "cpu_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t grad_x, const Shape& shape,
         const Sizes& bins, int threads) {
        cpu_kernels().backward(static_cast<DType>(dtype), pointer(grad_out), pointer(grad_x), shape,
                               {bins.data(), static_cast<std::int64_t>(bins.size())}, threads);
      },
      release_gil());
}

} // namespace fastseg
