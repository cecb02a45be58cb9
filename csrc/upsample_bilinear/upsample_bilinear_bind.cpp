#include "common/bind.h"
#include "upsample_bilinear/upsample_bilinear.h"

namespace fastseg {

void bind_upsample_bilinear(py::module_& m) {
  using namespace upsample_bilinear;
  py::module_ sub = m.def_submodule("upsample_bilinear");
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t channels, std::int64_t in_h,
                       std::int64_t in_w, std::int64_t out_h, std::int64_t out_w,
                       bool align_corners, double scale_h, double scale_w, bool channels_last) {
             return Shape{batch, channels,      in_h,    in_w,    out_h,
                          out_w, align_corners, scale_h, scale_w, channels_last};
           }),
           py::kw_only(), py::arg("batch"), py::arg("channels"), py::arg("in_h"), py::arg("in_w"),
           py::arg("out_h"), py::arg("out_w"), py::arg("align_corners"), py::arg("scale_h"),
           py::arg("scale_w"), py::arg("channels_last"));
  sub.def(
      "cpu_forward",
      [](int dtype, std::uintptr_t x, std::uintptr_t out, const Shape& shape, int threads) {
        cpu_kernels().forward(static_cast<DType>(dtype), pointer(x), pointer(out), shape, threads);
      },
      release_gil());
  sub.def(
      "cpu_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t grad_x, const Shape& shape,
         int threads) {
        cpu_kernels().backward(static_cast<DType>(dtype), pointer(grad_out), pointer(grad_x), shape,
                               threads);
      },
      release_gil());
#ifdef FASTSEG_WITH_CUDA
  sub.def(
      "cuda_forward",
      [](int dtype, std::uintptr_t x, std::uintptr_t out, const Shape& shape,
         std::uintptr_t stream) {
        cuda::forward(static_cast<DType>(dtype), pointer(x), pointer(out), shape, stream);
      },
      release_gil());
  sub.def(
      "cuda_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t grad_x, const Shape& shape,
         std::uintptr_t stream) {
        cuda::backward(static_cast<DType>(dtype), pointer(grad_out), pointer(grad_x), shape,
                       stream);
      },
      release_gil());
#endif
}

} // namespace fastseg
