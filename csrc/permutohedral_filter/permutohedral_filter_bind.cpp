#include <pybind11/stl.h>

#include <vector>

#include "common/bind.h"
#include "permutohedral_filter/permutohedral_filter.h"
#include "permutohedral_lattice/owned_lattice.h"

namespace fastseg {

namespace {

using permutohedral_lattice::Lattice;
using permutohedral_lattice::LatticeList;
using permutohedral_lattice::OwnedLattice;
using permutohedral_lattice::Status;

std::vector<const Lattice*> addresses(const LatticeList& lattices) {
  std::vector<const Lattice*> each;
  for (const auto& lattice : lattices) each.push_back(lattice.get());
  return each;
}

} // namespace

void bind_permutohedral_filter(py::module_& m) {
  using namespace permutohedral_filter;
  py::module_ sub = m.def_submodule("permutohedral_filter");
  sub.attr("block") = permutohedral_lattice::kBlock;
  // The arrays are handed out as addresses: they live as long as the object.
  py::class_<OwnedLattice, std::shared_ptr<OwnedLattice>>(sub, "Lattice")
      .def_readonly("features", &OwnedLattice::features)
      .def_readonly("pixels", &OwnedLattice::pixels)
      .def_readonly("vertices", &OwnedLattice::vertices)
      .def_property_readonly("dtype",
                             [](const OwnedLattice& l) { return static_cast<int>(l.dtype); })
      .def_property_readonly(
          "rows", [](const OwnedLattice& l) { return reinterpret_cast<std::uintptr_t>(l.rows); })
      .def_property_readonly(
          "weights",
          [](const OwnedLattice& l) { return reinterpret_cast<std::uintptr_t>(l.weights); })
      .def_property_readonly("neighbours", [](const OwnedLattice& l) {
        return reinterpret_cast<std::uintptr_t>(l.neighbours);
      });
  // Returns ([lattice of each image], None), or (None, (image, pixel)) of the first that cannot be
  // placed.
  sub.def(
      "cpu_build",
      [](int dtype, std::uintptr_t features, std::int64_t batch, int feature_count,
         std::int64_t pixels, int threads) -> py::tuple {
        LatticeList lattices;
        std::vector<Lattice*> each;
        for (std::int64_t n = 0; n < batch; ++n) {
          lattices.push_back(std::make_shared<OwnedLattice>());
          each.push_back(lattices.back().get());
        }
        permutohedral_lattice::BadFeature bad;
        Status status;
        {
          py::gil_scoped_release release;
          status = permutohedral_lattice::cpu_kernels().build(
              static_cast<DType>(dtype), pointer(features), batch, feature_count, pixels, threads,
              each.data(), &bad);
        }
        if (status != Status::ok)
          return py::make_tuple(py::none(), py::make_tuple(bad.image, bad.pixel));
        return py::make_tuple(lattices, py::none());
      },
      py::arg("dtype"), py::arg("features"), py::arg("batch"), py::arg("feature_count"),
      py::arg("pixels"), py::arg("threads"));
  // The same for one image uint8 [H, W, C]: (lattice, None) or (None, pixel).
  sub.def(
      "cpu_build_image",
      [](std::uintptr_t values, std::int64_t height, std::int64_t width, int channels,
         const std::vector<float>& widths, int threads) -> py::tuple {
        auto lattice = std::make_shared<OwnedLattice>();
        permutohedral_lattice::BadFeature bad;
        Status status;
        {
          py::gil_scoped_release release;
          status = permutohedral_lattice::cpu_kernels().build_image(
              {pointer<const std::uint8_t>(values), height, width, channels, widths.data()},
              threads, lattice.get(), &bad);
        }
        if (status != Status::ok) return py::make_tuple(py::none(), bad.pixel);
        return py::make_tuple(lattice, py::none());
      },
      py::arg("values"), py::arg("height"), py::arg("width"), py::arg("channels"),
      py::arg("widths"), py::arg("threads"));
  sub.def("cpu_filter", [](const LatticeList& lattices, std::int64_t batch, std::int64_t labels,
                           std::uintptr_t values, std::uintptr_t out, bool transpose, int threads) {
    const auto each = addresses(lattices);
    py::gil_scoped_release release;
    cpu_kernels().filter({each.data(), static_cast<std::int64_t>(each.size())}, batch, labels,
                         pointer(values), pointer(out), transpose, threads);
  });
  // factor: 0 the norm, 1 its reciprocal, 2 that of its root; out: [lattices, P].
  sub.def("cpu_norm", [](const LatticeList& lattices, int factor, std::uintptr_t out, int threads) {
    const auto each = addresses(lattices);
    py::gil_scoped_release release;
    cpu_kernels().norm(each.data(), static_cast<std::int64_t>(each.size()),
                       static_cast<NormFactor>(factor), pointer(out), threads);
  });
  sub.def("cpu_backward",
          [](const LatticeList& lattices, std::int64_t batch, std::int64_t labels,
             std::uintptr_t values, std::uintptr_t grad_out, std::uintptr_t grad_values,
             std::uintptr_t grad_weights, bool transpose, int threads) {
            const auto each = addresses(lattices);
            py::gil_scoped_release release;
            cpu_kernels().backward({each.data(), static_cast<std::int64_t>(each.size())}, batch,
                                   labels, pointer(values), pointer(grad_out), pointer(grad_values),
                                   pointer(grad_weights), transpose, threads);
          });
  sub.def(
      "cpu_backward_features",
      [](int dtype, std::uintptr_t features, int feature_count, std::int64_t pixels,
         std::uintptr_t grad_weights, std::uintptr_t grad_features, int threads) {
        permutohedral_lattice::cpu_kernels().backward(static_cast<DType>(dtype), pointer(features),
                                                      feature_count, pixels, pointer(grad_weights),
                                                      pointer(grad_features), threads);
      },
      release_gil());
}

} // namespace fastseg
