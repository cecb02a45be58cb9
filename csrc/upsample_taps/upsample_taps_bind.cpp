#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>
#include <vector>

#include "common/bind.h"
#include "upsample_taps/upsample_taps.h"

namespace fastseg {

void bind_upsample_taps(py::module_& m) {
  using namespace upsample_taps;
  py::module_ sub = m.def_submodule("upsample_taps");
  sub.attr("max_sources") = kMaxSources;
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t channels, std::int64_t out_h,
                       std::int64_t out_w, int kernel, bool nearest, bool align_corners) {
             return Shape{batch, channels, out_h, out_w, kernel, nearest, align_corners};
           }),
           py::kw_only(), py::arg("batch"), py::arg("channels"), py::arg("out_h"), py::arg("out_w"),
           py::arg("kernel"), py::arg("nearest"), py::arg("align_corners"));
  // sources: (address, h, w) of each.
  using Sources = std::vector<std::tuple<std::uintptr_t, std::int64_t, std::int64_t>>;
  sub.def(
      "cpu_forward",
      [](int dtype, const Sources& sources, std::uintptr_t added, std::uintptr_t out,
         const Shape& shape, int threads) {
        if (sources.size() > kMaxSources)
          throw std::invalid_argument("fastseg: upsample_taps: too many sources");
        Source list[kMaxSources];
        int count = 0;
        for (const auto& [address, h, w] : sources) list[count++] = {pointer(address), h, w};
        cpu_kernels().forward(static_cast<DType>(dtype), list, count, pointer(added), pointer(out),
                              shape, threads);
      },
      release_gil());
  sub.def(
      "cpu_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t grad_taps, std::int64_t h,
         std::int64_t w, const Shape& shape, int threads) {
        cpu_kernels().backward(static_cast<DType>(dtype), pointer(grad_out), pointer(grad_taps), h,
                               w, shape, threads);
      },
      release_gil());
}

} // namespace fastseg
