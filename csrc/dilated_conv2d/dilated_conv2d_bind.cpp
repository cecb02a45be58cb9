#include "common/bind.h"
#include "dilated_conv2d/dilated_conv2d.h"

namespace fastseg {

void bind_dilated_conv2d(py::module_& m) {
  using namespace dilated_conv2d;
  using Pair = std::pair<std::int64_t, std::int64_t>;
  py::module_ sub = m.def_submodule("dilated_conv2d");
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t channels, Pair in, Pair out, Pair kernel,
                       Pair stride, Pair padding, Pair dilation, bool channels_last) {
             return Shape{batch,          channels,        in.first,      in.second,
                          out.first,      out.second,      kernel.first,  kernel.second,
                          stride.first,   stride.second,   padding.first, padding.second,
                          dilation.first, dilation.second, channels_last};
           }),
           py::kw_only(), py::arg("batch"), py::arg("channels"), py::arg("in_size"),
           py::arg("out_size"), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
           py::arg("dilation"), py::arg("channels_last"));
  sub.def("cpu_workspace_bytes", [](int dtype, const Shape& shape, int) {
    return cpu_kernels().workspace_bytes(static_cast<DType>(dtype), shape);
  });
  sub.def(
      "cpu_forward",
      [](int dtype, std::uintptr_t x, std::uintptr_t weight, std::uintptr_t bias,
         std::uintptr_t out, const Shape& shape, int threads) {
        cpu_kernels().forward(static_cast<DType>(dtype), pointer(x), pointer(weight), pointer(bias),
                              pointer(out), shape, threads);
      },
      release_gil());
  sub.def(
      "cpu_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t x, std::uintptr_t weight,
         std::uintptr_t grad_x, std::uintptr_t grad_weight, std::uintptr_t grad_bias,
         std::uintptr_t workspace, const Shape& shape, int threads) {
        cpu_kernels().backward(static_cast<DType>(dtype), pointer(grad_out), pointer(x),
                               pointer(weight), pointer(grad_x), pointer(grad_weight),
                               pointer(grad_bias), pointer(workspace), shape, threads);
      },
      release_gil());
#ifdef FASTSEG_WITH_CUDA
  sub.def("cuda_workspace_bytes", [](int dtype, const Shape& shape, std::uintptr_t) {
    return cuda::workspace_bytes(static_cast<DType>(dtype), shape);
  });
  sub.def(
      "cuda_forward",
      [](int dtype, std::uintptr_t x, std::uintptr_t weight, std::uintptr_t bias,
         std::uintptr_t out, const Shape& shape, std::uintptr_t stream) {
        cuda::forward(static_cast<DType>(dtype), pointer(x), pointer(weight), pointer(bias),
                      pointer(out), shape, stream);
      },
      release_gil());
  sub.def(
      "cuda_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t x, std::uintptr_t weight,
         std::uintptr_t grad_x, std::uintptr_t grad_weight, std::uintptr_t grad_bias,
         std::uintptr_t workspace, const Shape& shape, std::uintptr_t stream) {
        cuda::backward(static_cast<DType>(dtype), pointer(grad_out), pointer(x), pointer(weight),
                       pointer(grad_x), pointer(grad_weight), pointer(grad_bias),
                       pointer(workspace), shape, stream);
      },
      release_gil());
#endif
}

} // namespace fastseg
