// The CUDA mean field for Python, which owns its memory: see fastseg/crf/mean_field_cuda.py.
#include <pybind11/stl.h>

#include <vector>

#include "common/bind.h"
#include "mean_field/mean_field_cuda.h"

namespace fastseg {

void bind_mean_field_cuda([[maybe_unused]] py::module_& m) {
#ifdef FASTSEG_WITH_CUDA
  using namespace mean_field::cuda;
  using Address = std::uintptr_t;
  using Terms = std::vector<Term>;
  py::module_ sub = m.def_submodule("mean_field_cuda");
  sub.attr("most_labels") = kMostLabels;
  py::class_<Term>(sub, "Term")
      .def(py::init([](DeviceLattice lattice, Address weights, Address entry_weights,
                       Address factors, Address transposed) {
             lattice.weights = pointer(weights);
             lattice.entry_weights = pointer(entry_weights);
             return Term{lattice, pointer<float>(factors), pointer<float>(transposed)};
           }),
           py::kw_only(), py::arg("lattice"), py::arg("weights"), py::arg("entry_weights"),
           py::arg("factors"), py::arg("transposed"));
  py::class_<Shape>(sub, "Shape")
      .def(py::init([](std::int64_t batch, std::int64_t labels, std::int64_t pixels, int steps) {
             return Shape{batch, labels, pixels, steps};
           }),
           py::kw_only(), py::arg("batch"), py::arg("labels"), py::arg("pixels"), py::arg("steps"))
      .def_property_readonly("stride", &Shape::stride);
  sub.def("workspace_floats", [](const Terms& terms, const Shape& shape) {
    return workspace_floats(terms.data(), static_cast<int>(terms.size()), shape);
  });
  sub.def("table_floats", [](const Terms& terms, const Shape& shape) {
    return table_floats(terms.data(), static_cast<int>(terms.size()), shape);
  });
  sub.def(
      "cuda_forward",
      [](const Terms& terms, const Shape& shape, Address logits, Address probabilities, Address map,
         Address bad, Address kept, Address workspace, Address stream) {
        forward(terms.data(), static_cast<int>(terms.size()), shape, pointer<float>(logits),
                pointer<float>(probabilities), pointer<std::int32_t>(map),
                pointer<std::int32_t>(bad), pointer<float>(kept), pointer<float>(workspace),
                stream);
      },
      release_gil());
  sub.def(
      "cuda_probabilities_again",
      [](const Terms& terms, const Shape& shape, Address logits, Address kept,
         Address probabilities, Address workspace, Address stream) {
        probabilities_again(terms.data(), static_cast<int>(terms.size()), shape,
                            pointer<float>(logits), pointer<float>(kept),
                            pointer<float>(probabilities), pointer<float>(workspace), stream);
      },
      release_gil());
  sub.def(
      "cuda_filtered_again",
      [](const Terms& terms, const Shape& shape, int term, Address kept, Address out,
         Address stream) {
        filtered_again(terms.data(), static_cast<int>(terms.size()), shape, term,
                       pointer<float>(kept), pointer<float>(out), stream);
      },
      release_gil());
  sub.def(
      "cuda_messages",
      [](const Terms& terms, const Shape& shape, bool transpose, Address rows, Address out,
         Address workspace, Address stream) {
        messages(terms.data(), static_cast<int>(terms.size()), shape, pointer<float>(rows),
                 transpose, pointer<float>(out), pointer<float>(workspace), stream);
      },
      release_gil());
#endif
}

} // namespace fastseg
