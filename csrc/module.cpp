// The native core as a Python module: build information, and one submodule per op.
#include <pybind11/pybind11.h>

#include "common/cpu_level.h"
#include "common/huge_pages.h"
#include "common/memory.h"
#include "common/scratch_pool.h"

namespace py = pybind11;

namespace fastseg {

// One line per op: declaration here, call below.
void bind_deformable_attention(py::module_& m);
void bind_dilated_conv2d(py::module_& m);
void bind_gaussian_filter(py::module_& m);
void bind_mask_argmax(py::module_& m);
void bind_mean_field(py::module_& m);
void bind_mean_field_cuda(py::module_& m);
void bind_permutohedral_filter(py::module_& m);
void bind_permutohedral_filter_cuda(py::module_& m);
void bind_pyramid_pool(py::module_& m);
void bind_upsample_argmax(py::module_& m);
void bind_upsample_bilinear(py::module_& m);
void bind_upsample_class_sums(py::module_& m);
void bind_upsample_confusion_matrix(py::module_& m);
void bind_upsample_cross_entropy(py::module_& m);
void bind_upsample_taps(py::module_& m);
void bind_window_filter(py::module_& m);

#ifdef FASTSEG_CUDA_ON_CPU
void bind_cuda_on_cpu(py::module_& m);
#endif

namespace {
struct ScratchBytes {
  explicit ScratchBytes(std::int64_t bytes)
      : count(bytes), memory(static_cast<std::uint8_t*>(take_scratch(array_bytes(bytes, 1)))) {}
  ~ScratchBytes() { give_scratch(memory); }
  ScratchBytes(const ScratchBytes&) = delete;
  ScratchBytes& operator=(const ScratchBytes&) = delete;
  std::int64_t count;
  std::uint8_t* memory;
};
} // namespace

} // namespace fastseg

PYBIND11_MODULE(_C, m) {
  using namespace fastseg;
  m.doc() = "fastseg's torch-free native core: kernels over plain pointers.";
  m.attr("version") = FASTSEG_VERSION;
  m.attr("compiler") = __VERSION__;
#ifdef FASTSEG_WITH_CUDA
  m.attr("with_cuda") = true;
#else
  m.attr("with_cuda") = false;
#endif
#ifdef _OPENMP
  m.attr("with_openmp") = true;
#else
  m.attr("with_openmp") = false;
#endif
  py::enum_<CpuLevel>(m, "CpuLevel")
      .value("baseline", CpuLevel::baseline)
      .value("avx2", CpuLevel::avx2)
      .value("avx512", CpuLevel::avx512);
  m.def("cpu_level", &cpu_level);
  m.def("best_cpu_level", &best_cpu_level);
  m.def("set_cpu_level", &set_cpu_level);
  m.def("advise_huge_pages", &advise_huge_pages);
  // Memory of the pool as a buffer of bytes: it goes back when the last array over it dies.
  py::class_<ScratchBytes>(m, "ScratchBytes", py::buffer_protocol())
      .def(py::init<std::int64_t>(), py::arg("bytes"))
      .def_buffer([](ScratchBytes& bytes) { return py::buffer_info(bytes.memory, bytes.count); });
  m.def("scratch_limit", &scratch_limit);
  m.def("set_scratch_limit", &set_scratch_limit, py::arg("bytes"));
  m.def("kept_scratch", &kept_scratch);
  bind_deformable_attention(m);
  bind_dilated_conv2d(m);
  bind_gaussian_filter(m);
  bind_mask_argmax(m);
  bind_mean_field(m);
  bind_mean_field_cuda(m);
  bind_permutohedral_filter(m);
  bind_permutohedral_filter_cuda(m);
  bind_pyramid_pool(m);
  bind_upsample_argmax(m);
  bind_upsample_bilinear(m);
  bind_upsample_class_sums(m);
  bind_upsample_confusion_matrix(m);
  bind_upsample_cross_entropy(m);
  bind_upsample_taps(m);
  bind_window_filter(m);
#ifdef FASTSEG_CUDA_ON_CPU
  bind_cuda_on_cpu(m);
#endif
}
