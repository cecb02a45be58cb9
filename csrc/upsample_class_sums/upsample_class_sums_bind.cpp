#include "common/bind.h"
#include "upsample_class_sums/upsample_class_sums.h"

namespace fastseg {

namespace {
// `slots`: of each sum its place among the kept ones, or -1.
void read_slots(const py::list& slots, int (&result)[upsample_class_sums::kSums]) {
  if (slots.size() != upsample_class_sums::kSums)
    throw std::invalid_argument("fastseg: slots has a wrong length");
  for (int k = 0; k < upsample_class_sums::kSums; ++k) result[k] = slots[k].cast<int>();
}
} // namespace

void bind_upsample_class_sums(py::module_& m) {
  using namespace upsample_class_sums;
  py::module_ sub = m.def_submodule("upsample_class_sums");
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t classes, std::int64_t in_h,
                       std::int64_t in_w, std::int64_t out_h, std::int64_t out_w,
                       bool align_corners, std::int64_t stride_n, std::int64_t stride_c,
                       std::int64_t stride_h, std::int64_t stride_w, std::int64_t teacher_h,
                       std::int64_t teacher_w, bool sigmoid, std::int64_t ignore_index,
                       double gamma, double reduced_threshold) {
             return Shape{batch,    classes,          in_h,      in_w,     out_h,
                          out_w,    align_corners,    stride_n,  stride_c, stride_h,
                          stride_w, teacher_h,        teacher_w, sigmoid,  ignore_index,
                          gamma,    reduced_threshold};
           }),
           py::kw_only(), py::arg("batch"), py::arg("classes"), py::arg("in_h"), py::arg("in_w"),
           py::arg("out_h"), py::arg("out_w"), py::arg("align_corners"), py::arg("stride_n"),
           py::arg("stride_c"), py::arg("stride_h"), py::arg("stride_w"), py::arg("teacher_h"),
           py::arg("teacher_w"), py::arg("sigmoid"), py::arg("ignore_index"), py::arg("gamma"),
           py::arg("reduced_threshold"));
  sub.attr("number_of_sums") = static_cast<int>(kSums);
  // Returns the flat index of the first bad label, or -1.
  sub.def(
      "cpu_run",
      [](int dtype, int target_kind, int target_type, const Shape& shape, int threads,
         const py::list& slots, std::int64_t kept, std::uintptr_t logits, std::uintptr_t target,
         std::uintptr_t pixel_weight, std::uintptr_t sums, std::uintptr_t coefficients,
         std::uintptr_t grad_logits, bool grad_channels_last) {
        Arguments a{pointer(logits),
                    pointer(target),
                    static_cast<TargetKind>(target_kind),
                    static_cast<TargetType>(target_type),
                    pointer(pixel_weight),
                    {},
                    kept,
                    pointer<double>(sums),
                    pointer(coefficients),
                    pointer(grad_logits),
                    grad_channels_last};
        read_slots(slots, a.slots);
        py::gil_scoped_release release;
        return cpu_kernels().run(static_cast<DType>(dtype), a, shape, threads);
      },
      py::arg("dtype"), py::arg("target_kind"), py::arg("target_type"), py::arg("shape"),
      py::arg("threads"), py::kw_only(), py::arg("slots"), py::arg("kept"), py::arg("logits"),
      py::arg("target"), py::arg("pixel_weight"), py::arg("sums"), py::arg("coefficients"),
      py::arg("grad_logits"), py::arg("grad_channels_last"));
#ifdef FASTSEG_WITH_CUDA
  // With workspace 0 it returns the bytes that the workspace needs and launches nothing.
  sub.def(
      "cuda_run",
      [](int dtype, int target_kind, int target_type, const Shape& shape, std::uintptr_t stream,
         const py::list& slots, std::int64_t kept, std::uintptr_t logits, std::uintptr_t target,
         std::uintptr_t pixel_weight, std::uintptr_t sums, std::uintptr_t coefficients,
         std::uintptr_t grad_logits, bool grad_channels_last, std::uintptr_t workspace,
         std::uintptr_t bad) {
        Arguments a{pointer(logits),
                    pointer(target),
                    static_cast<TargetKind>(target_kind),
                    static_cast<TargetType>(target_type),
                    pointer(pixel_weight),
                    {},
                    kept,
                    pointer<double>(sums),
                    pointer(coefficients),
                    pointer(grad_logits),
                    grad_channels_last};
        read_slots(slots, a.slots);
        py::gil_scoped_release release;
        const DType type = static_cast<DType>(dtype);
        if (workspace == 0) return cuda::workspace_bytes(type, a, shape);
        if (grad_logits == 0)
          cuda::forward(type, a, shape, pointer(workspace), pointer<std::int64_t>(bad), stream);
        else
          cuda::backward(type, a, shape, pointer(workspace), stream);
        return std::int64_t{0};
      },
      py::arg("dtype"), py::arg("target_kind"), py::arg("target_type"), py::arg("shape"),
      py::arg("stream"), py::kw_only(), py::arg("slots"), py::arg("kept"), py::arg("logits"),
      py::arg("target"), py::arg("pixel_weight"), py::arg("sums"), py::arg("coefficients"),
      py::arg("grad_logits"), py::arg("grad_channels_last"), py::arg("workspace"), py::arg("bad"));
#endif
}

} // namespace fastseg
