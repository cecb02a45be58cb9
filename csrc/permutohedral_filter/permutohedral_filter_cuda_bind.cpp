// The CUDA lattice and filter for Python, which owns their memory: see native_cuda.py.
#include "permutohedral_filter/permutohedral_filter_cuda.h"

#include "common/bind.h"

namespace fastseg {

namespace {

using Address = std::uintptr_t;

#ifdef FASTSEG_WITH_CUDA
void bind_lattice(py::module_& sub) {
  namespace lattice = permutohedral_lattice::cuda;
  sub.attr("max_corners") = lattice::kMaxCorners;
  sub.attr("max_features") = permutohedral_lattice::kMaxPackedFeatures; // of those built there
  py::class_<lattice::Shape>(sub, "LatticeShape")
      .def(py::init([](int dtype, std::int64_t batch, int features, std::int64_t pixels) {
             return lattice::Shape{static_cast<DType>(dtype), batch, features, pixels};
           }),
           py::kw_only(), py::arg("dtype"), py::arg("batch"), py::arg("features"),
           py::arg("pixels"))
      .def_property_readonly("padded_corners", &lattice::Shape::padded_corners)
      .def_property_readonly("corners", &lattice::Shape::corners)
      .def_property_readonly("simplex_words", &lattice::Shape::simplex_words)
      .def_property_readonly("table_slots", &lattice::Shape::table_slots);
  py::class_<lattice::DeviceLattice>(sub, "DeviceLattice")
      .def(py::init([](const lattice::Shape& shape, std::int64_t capacity, Address count,
                       Address rows, Address weights, Address neighbours, Address entry_rows,
                       Address entry_pixels, Address entry_weights, Address ranges) {
             using Index = const std::int32_t;
             return lattice::DeviceLattice{shape,
                                           capacity,
                                           pointer<Index>(count),
                                           pointer<Index>(rows),
                                           pointer(weights),
                                           pointer<Index>(neighbours),
                                           pointer<Index>(entry_rows),
                                           pointer<Index>(entry_pixels),
                                           pointer(entry_weights),
                                           pointer<Index>(ranges)};
           }),
           py::kw_only(), py::arg("shape"), py::arg("capacity"), py::arg("count"), py::arg("rows"),
           py::arg("weights"), py::arg("neighbours"), py::arg("entry_rows"),
           py::arg("entry_pixels"), py::arg("entry_weights"), py::arg("ranges"));
  sub.def(
      "cuda_locate",
      [](const lattice::Shape& shape, Address features, Address simplices, Address weights,
         Address bad, Address stream) {
        lattice::locate(shape, pointer(features), pointer<std::uint32_t>(simplices),
                        pointer(weights), pointer<std::int32_t>(bad), stream);
      },
      release_gil());
  sub.def(
      "cuda_find_first",
      [](const lattice::Shape& shape, Address simplices, Address table, Address first,
         Address is_first, Address stream) {
        lattice::find_first(shape, pointer<std::uint32_t>(simplices), pointer<std::uint32_t>(table),
                            pointer<std::int32_t>(first), pointer<std::int32_t>(is_first), stream);
      },
      release_gil());
  sub.def(
      "cuda_number",
      [](const lattice::Shape& shape, Address first, Address prefix, Address rows, Address vertices,
         Address stream) {
        lattice::number(shape, pointer<std::int32_t>(first), pointer<std::int32_t>(prefix),
                        pointer<std::int32_t>(rows), pointer<std::int32_t>(vertices), stream);
      },
      release_gil());
  sub.def(
      "cuda_link",
      [](const lattice::Shape& shape, Address simplices, Address table, Address prefix,
         Address vertices, std::int64_t capacity, Address neighbours, Address stream) {
        lattice::link(shape, pointer<std::uint32_t>(simplices), pointer<std::uint32_t>(table),
                      pointer<std::int32_t>(prefix), pointer<std::int32_t>(vertices), capacity,
                      pointer<std::int32_t>(neighbours), stream);
      },
      release_gil());
  sub.def(
      "cuda_list_entries",
      [](const lattice::Shape& shape, Address entry_rows, Address order, Address weights,
         Address entry_pixels, Address entry_weights, Address ranges, Address stream) {
        lattice::list_entries(shape, pointer<std::int32_t>(entry_rows),
                              pointer<std::int64_t>(order), pointer(weights),
                              pointer<std::int32_t>(entry_pixels), pointer(entry_weights),
                              pointer<std::int32_t>(ranges), stream);
      },
      release_gil());
  sub.def(
      "cuda_backward_features",
      [](const lattice::Shape& shape, Address features, Address grad_weights, Address grad_features,
         Address stream) {
        lattice::backward(shape, pointer(features), pointer(grad_weights), pointer(grad_features),
                          stream);
      },
      release_gil());
}

void bind_filter(py::module_& sub) {
  namespace lattice = permutohedral_lattice::cuda;
  namespace filter = permutohedral_filter::cuda;
  py::class_<filter::Shape>(sub, "Shape")
      .def(py::init([](int dtype, std::int64_t batch, std::int64_t labels, bool transpose) {
             return filter::Shape{static_cast<DType>(dtype), batch, labels, transpose};
           }),
           py::kw_only(), py::arg("dtype"), py::arg("batch"), py::arg("labels"),
           py::arg("transpose"));
  sub.def("workspace_bytes", &filter::workspace_bytes, py::arg("lattice"), py::arg("shape"),
          py::kw_only(), py::arg("backward"));
  sub.def(
      "cuda_forward",
      [](const lattice::DeviceLattice& of, const filter::Shape& shape, Address values, Address out,
         Address workspace, Address stream) {
        filter::forward(of, shape, pointer(values), pointer(out), pointer(workspace), stream);
      },
      release_gil());
  sub.def(
      "cuda_backward",
      [](const lattice::DeviceLattice& of, const filter::Shape& shape, Address values,
         Address grad_out, Address grad_values, Address grad_weights, Address workspace,
         Address stream) {
        filter::backward(of, shape, pointer(values), pointer(grad_out), pointer(grad_values),
                         pointer(grad_weights), pointer(workspace), stream);
      },
      release_gil());
}
#endif

} // namespace

void bind_permutohedral_filter_cuda([[maybe_unused]] py::module_& m) {
#ifdef FASTSEG_WITH_CUDA
  py::module_ sub = m.def_submodule("permutohedral_filter_cuda");
  bind_lattice(sub);
  bind_filter(sub);
#endif
}

} // namespace fastseg
