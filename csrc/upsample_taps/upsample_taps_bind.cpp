#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>
#include <vector>

#include "common/bind.h"
#include "upsample_taps/upsample_taps.h"

namespace fastseg {

namespace {

// (address, h, w) of each.
using Sources = std::vector<std::tuple<std::uintptr_t, std::int64_t, std::int64_t>>;
int unpack(const Sources& sources, upsample_taps::Source* list) {
  if (sources.size() > upsample_taps::kMaxSources)
    throw std::invalid_argument("fastseg: upsample_taps: too many sources");
  int count = 0;
  for (const auto& [address, h, w] : sources) list[count++] = {pointer(address), h, w};
  return count;
}

} // namespace

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
  sub.def(
      "cpu_forward",
      [](int dtype, const Sources& sources, std::uintptr_t added, std::uintptr_t out,
         const Shape& shape, int threads) {
        Source list[kMaxSources];
        const int count = unpack(sources, list);
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
#ifdef FASTSEG_WITH_CUDA
  sub.def(
      "cuda_forward",
      [](int dtype, const Sources& sources, std::uintptr_t added, std::uintptr_t out,
         const Shape& shape, std::uintptr_t stream) {
        Source list[kMaxSources];
        const int count = unpack(sources, list);
        cuda::forward(static_cast<DType>(dtype), list, count, pointer(added), pointer(out), shape,
                      stream);
      },
      release_gil());
  sub.def(
      "cuda_backward",
      [](int dtype, std::uintptr_t grad_out, std::uintptr_t grad_taps, std::int64_t h,
         std::int64_t w, const Shape& shape, std::uintptr_t stream) {
        cuda::backward(static_cast<DType>(dtype), pointer(grad_out), pointer(grad_taps), h, w,
                       shape, stream);
      },
      release_gil());
#endif
}

} // namespace fastseg
