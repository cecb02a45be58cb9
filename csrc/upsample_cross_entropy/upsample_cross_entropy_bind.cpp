#include "common/bind.h"
#include "upsample_cross_entropy/upsample_cross_entropy.h"

namespace fastseg {

void bind_upsample_cross_entropy(py::module_& m) {
  using namespace upsample_cross_entropy;
  py::module_ sub = m.def_submodule("upsample_cross_entropy");
  py::class_<Shape>(sub, "Shape")
      .def(
          py::init([](std::int64_t batch, std::int64_t classes, std::int64_t in_h,
                      std::int64_t in_w, std::int64_t out_h, std::int64_t out_w, bool align_corners,
                      std::int64_t stride_n, std::int64_t stride_c, std::int64_t stride_h,
                      std::int64_t stride_w, std::int64_t ignore_index, double label_smoothing) {
            return Shape{batch,    classes,       in_h,           in_w,     out_h,
                         out_w,    align_corners, stride_n,       stride_c, stride_h,
                         stride_w, ignore_index,  label_smoothing};
          }),
          py::kw_only(), py::arg("batch"), py::arg("classes"), py::arg("in_h"), py::arg("in_w"),
          py::arg("out_h"), py::arg("out_w"), py::arg("align_corners"), py::arg("stride_n"),
          py::arg("stride_c"), py::arg("stride_h"), py::arg("stride_w"), py::arg("ignore_index"),
          py::arg("label_smoothing"));
  // Returns (sum of pixel losses, sum of class weights, flat index of the first bad target or -1).
  sub.def(
      "cpu_run",
      [](int dtype, int target_type, const Shape& shape, int threads, std::uintptr_t logits,
         std::uintptr_t target, std::uintptr_t class_weight, std::uintptr_t pixel_scale,
         std::uintptr_t pixel_loss, std::uintptr_t grad_logits, bool grad_channels_last) {
        double sums[2];
        std::int64_t bad = -1;
        {
          py::gil_scoped_release release;
          const Arguments arguments{pointer(logits),
                                    pointer(target),
                                    pointer(class_weight),
                                    pointer(pixel_scale),
                                    sums,
                                    pointer(pixel_loss),
                                    pointer(grad_logits),
                                    grad_channels_last};
          bad = cpu_kernels().run(static_cast<DType>(dtype), static_cast<LabelType>(target_type),
                                  arguments, shape, threads);
        }
        return py::make_tuple(sums[0], sums[1], bad);
      },
      py::arg("dtype"), py::arg("target_type"), py::arg("shape"), py::arg("threads"), py::kw_only(),
      py::arg("logits"), py::arg("target"), py::arg("class_weight"), py::arg("pixel_scale"),
      py::arg("pixel_loss"), py::arg("grad_logits"), py::arg("grad_channels_last"));
#ifdef FASTSEG_WITH_CUDA
  sub.def("cuda_partial_sums", &cuda::partial_sums);
  sub.def(
      "cuda_forward",
      [](int dtype, int target_type, const Shape& shape, std::uintptr_t stream,
         std::uintptr_t logits, std::uintptr_t target, std::uintptr_t class_weight, bool mean,
         std::uintptr_t partials, std::uintptr_t sums, std::uintptr_t pixel_loss,
         std::uintptr_t loss, std::uintptr_t total_weight, std::uintptr_t bad) {
        cuda::forward(static_cast<DType>(dtype), static_cast<LabelType>(target_type),
                      {pointer(logits), pointer(target), pointer(class_weight), mean,
                       pointer<double>(partials), pointer(sums), pointer(pixel_loss), pointer(loss),
                       pointer<double>(total_weight), pointer<std::int64_t>(bad)},
                      shape, stream);
      },
      release_gil(), py::arg("dtype"), py::arg("target_type"), py::arg("shape"), py::arg("stream"),
      py::kw_only(), py::arg("logits"), py::arg("target"), py::arg("class_weight"), py::arg("mean"),
      py::arg("partials"), py::arg("sums"), py::arg("pixel_loss"), py::arg("loss"),
      py::arg("total_weight"), py::arg("bad"));
  sub.def(
      "cuda_backward",
      [](int dtype, int target_type, const Shape& shape, std::uintptr_t stream,
         std::uintptr_t logits, std::uintptr_t target, std::uintptr_t class_weight,
         std::uintptr_t sums, std::uintptr_t grad_loss, bool per_pixel, std::uintptr_t total_weight,
         std::uintptr_t grad_logits, bool grad_channels_last) {
        cuda::backward(static_cast<DType>(dtype), static_cast<LabelType>(target_type),
                       {pointer(logits), pointer(target), pointer(class_weight), pointer(sums),
                        pointer(grad_loss), per_pixel, pointer<double>(total_weight),
                        pointer(grad_logits), grad_channels_last},
                       shape, stream);
      },
      release_gil(), py::arg("dtype"), py::arg("target_type"), py::arg("shape"), py::arg("stream"),
      py::kw_only(), py::arg("logits"), py::arg("target"), py::arg("class_weight"), py::arg("sums"),
      py::arg("grad_loss"), py::arg("per_pixel"), py::arg("total_weight"), py::arg("grad_logits"),
      py::arg("grad_channels_last"));
#endif
}

} // namespace fastseg
