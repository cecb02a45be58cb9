#include <pybind11/stl.h>

#include <vector>

#include "common/bind.h"
#include "pyramid_pool/pyramid_pool.h"

namespace fastseg {

namespace {

using Sizes = std::vector<std::int64_t>;
pyramid_pool::Bins view(const Sizes& sizes) {
  return {sizes.data(), static_cast<std::int64_t>(sizes.size())};
}

} // namespace

void bind_pyramid_pool(py::module_& m) {
  using namespace pyramid_pool;
  py::module_ sub = m.def_submodule("pyramid_pool");
  sub.attr("cuda_max_windows") = cuda::kMaxWindows;
  sub.attr("cuda_max_axis") = cuda::kMaxAxis;
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t channels, std::int64_t in_h,
                       std::int64_t in_w, bool channels_last) {
             return Shape{batch, channels, in_h, in_w, channels_last};
           }),
           py::kw_only(), py::arg("batch"), py::arg("channels"), py::arg("in_h"), py::arg("in_w"),
           py::arg("channels_last"));
  // The CPU needs no workspace.
  sub.def("cpu_workspace_bytes", [](int, const Shape&, const Sizes&, int) { return 0; });
  sub.def(
      "cpu_forward",
      [](int dtype, std::uintptr_t x, std::uintptr_t out, std::uintptr_t, const Shape& shape,
         const Sizes& bins, int threads) {
        cpu_kernels().forward(static_cast<DType>(dtype), pointer(x), pointer(out), shape,
                              view(bins), threads);
      },
      release_gil());
  sub.def(
      "cpu_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t grad_x, const Shape& shape,
         const Sizes& bins, int threads) {
        cpu_kernels().backward(static_cast<DType>(dtype), pointer(grad_out), pointer(grad_x), shape,
                               view(bins), threads);
      },
      release_gil());
#ifdef FASTSEG_WITH_CUDA
  sub.def("cuda_workspace_bytes",
          [](int dtype, const Shape& shape, const Sizes& bins, std::uintptr_t) {
            return cuda::workspace_bytes(static_cast<DType>(dtype), shape, view(bins));
          });
  sub.def(
      "cuda_forward",
      [](int dtype, std::uintptr_t x, std::uintptr_t out, std::uintptr_t workspace,
         const Shape& shape, const Sizes& bins, std::uintptr_t stream) {
        cuda::forward(static_cast<DType>(dtype), pointer(x), pointer(out), pointer(workspace),
                      shape, view(bins), stream);
      },
      release_gil());
  sub.def(
      "cuda_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t grad_x, const Shape& shape,
         const Sizes& bins, std::uintptr_t stream) {
        cuda::backward(static_cast<DType>(dtype), pointer(grad_out), pointer(grad_x), shape,
                       view(bins), stream);
      },
      release_gil());
#endif
}

} // namespace fastseg
