#include <pybind11/stl.h>

#include <vector>

#include "common/bind.h"
#include "deformable_attention/deformable_attention.h"

namespace fastseg {

namespace {

// The levels as Python has them: [height, width, height, width, ...].
struct LevelSizes {
  std::vector<std::int64_t> heights, widths;
  explicit LevelSizes(const std::vector<std::int64_t>& shapes) {
    for (std::size_t i = 0; i + 1 < shapes.size(); i += 2) {
      heights.push_back(shapes[i]);
      widths.push_back(shapes[i + 1]);
    }
  }
  deformable_attention::Levels view() const {
    return {heights.data(), widths.data(), static_cast<std::int64_t>(heights.size())};
  }
};

} // namespace

void bind_deformable_attention(py::module_& m) {
  using namespace deformable_attention;
  py::module_ sub = m.def_submodule("deformable_attention");
  sub.attr("cuda_max_levels") = cuda::kMaxLevels;
  py::class_<LevelSizes>(sub, "Levels").def(py::init<const std::vector<std::int64_t>&>());
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t cells, std::int64_t heads,
                       std::int64_t channels, std::int64_t queries, std::int64_t points) {
             return Shape{batch, cells, heads, channels, queries, points};
           }),
           py::kw_only(), py::arg("batch"), py::arg("cells"), py::arg("heads"), py::arg("channels"),
           py::arg("queries"), py::arg("points"));
  sub.def(
      "cpu_forward",
      [](int dtype, std::uintptr_t value, std::uintptr_t locations, std::uintptr_t weights,
         std::uintptr_t out, const Shape& shape, const LevelSizes& levels, int threads) {
        cpu_kernels().forward(static_cast<DType>(dtype), pointer(value), pointer(locations),
                              pointer(weights), pointer(out), shape, levels.view(), threads);
      },
      release_gil());
  sub.def(
      "cpu_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t value, std::uintptr_t locations,
         std::uintptr_t weights, std::uintptr_t grad_value, std::uintptr_t grad_locations,
         std::uintptr_t grad_weights, const Shape& shape, const LevelSizes& levels, int threads) {
        cpu_kernels().backward(static_cast<DType>(dtype), pointer(grad_out), pointer(value),
                               pointer(locations), pointer(weights), pointer(grad_value),
                               pointer(grad_locations), pointer(grad_weights), shape, levels.view(),
                               threads);
      },
      release_gil());
#ifdef FASTSEG_WITH_CUDA
  sub.def("bins", [](const Shape& shape, const LevelSizes& levels) {
    return cuda::bins(shape, levels.view());
  });
  sub.def(
      "cuda_forward",
      [](int dtype, std::uintptr_t value, std::uintptr_t locations, std::uintptr_t weights,
         std::uintptr_t out, const Shape& shape, const LevelSizes& levels, std::uintptr_t stream) {
        cuda::forward(static_cast<DType>(dtype), pointer(value), pointer(locations),
                      pointer(weights), pointer(out), shape, levels.view(), stream);
      },
      release_gil());
  sub.def(
      "cuda_backward_points",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t value, std::uintptr_t locations,
         std::uintptr_t weights, std::uintptr_t grad_locations, std::uintptr_t grad_weights,
         std::uintptr_t bin, const Shape& shape, const LevelSizes& levels, std::uintptr_t stream) {
        cuda::backward_points(static_cast<DType>(dtype), pointer(grad_out), pointer(value),
                              pointer(locations), pointer(weights), pointer(grad_locations),
                              pointer(grad_weights), pointer(bin), shape, levels.view(), stream);
      },
      release_gil());
  sub.def(
      "cuda_backward_value",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t locations, std::uintptr_t weights,
         std::uintptr_t sorted, std::uintptr_t begins, std::uintptr_t grad_value,
         const Shape& shape, const LevelSizes& levels, std::uintptr_t stream) {
        cuda::backward_value(static_cast<DType>(dtype), pointer(grad_out), pointer(locations),
                             pointer(weights), pointer(sorted), pointer(begins),
                             pointer(grad_value), shape, levels.view(), stream);
      },
      release_gil());
#endif
}

} // namespace fastseg
