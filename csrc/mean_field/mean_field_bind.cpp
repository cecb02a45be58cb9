#include <pybind11/stl.h>

#include <vector>

#include "common/bind.h"
#include "mean_field/mean_field.h"
#include "permutohedral_lattice/owned_lattice.h"

namespace fastseg {

namespace {

using permutohedral_lattice::LatticeList;

// A pairwise term of a whole batch: one lattice per image or one for all; scales [lattices, P];
// the compatibility serves every image.
struct Term {
  LatticeList lattices;
  std::uintptr_t scale_in, scale_out;
  int kind;
  std::uintptr_t compatibility;
};

std::vector<mean_field::Image> make_images(const std::vector<Term>& terms, std::int64_t batch,
                                           const mean_field::Shape& shape, std::uintptr_t logits) {
  std::vector<mean_field::Image> images(batch);
  const std::int64_t size = shape.labels * shape.pixels;
  for (std::int64_t n = 0; n < batch; ++n) {
    images[n].logits = pointer<const float>(logits) + n * size;
    for (int k = 0; k < shape.kernels; ++k) {
      const Term& term = terms[k];
      const std::int64_t i = term.lattices.size() == 1 ? 0 : n;
      const auto scale = [&](std::uintptr_t address) {
        return address == 0 ? nullptr : pointer<const float>(address) + i * shape.pixels;
      };
      images[n].kernels[k] = {term.lattices[i].get(), scale(term.scale_in), scale(term.scale_out),
                              static_cast<mean_field::Compatibility>(term.kind),
                              pointer<const float>(term.compatibility)};
    }
  }
  return images;
}

} // namespace

void bind_mean_field(py::module_& m) {
  using namespace mean_field;
  py::module_ sub = m.def_submodule("mean_field");
  sub.attr("max_kernels") = kMaxKernels;
  sub.attr("max_corners") = kMaxCorners;
  py::class_<Term>(sub, "Term")
      .def(py::init([](LatticeList lattices, std::uintptr_t scale_in, std::uintptr_t scale_out,
                       int kind, std::uintptr_t compatibility) {
             return Term{std::move(lattices), scale_in, scale_out, kind, compatibility};
           }),
           py::kw_only(), py::arg("lattices"), py::arg("scale_in"), py::arg("scale_out"),
           py::arg("kind"), py::arg("compatibility"));
  // Floats that the forward of each image saves, all steps together.
  sub.def("saved_floats", [](const std::vector<Term>& terms, std::int64_t batch,
                             std::int64_t labels, std::int64_t pixels, int steps) {
    const Shape shape{labels, pixels, steps, static_cast<int>(terms.size())};
    std::vector<std::int64_t> floats;
    for (const Image& image : make_images(terms, batch, shape, 0))
      floats.push_back(steps * cpu_kernels().saved_floats(image, shape));
    return floats;
  });
  // Returns the first image with something that is not finite, or -1. saved: one after the other.
  sub.def(
      "cpu_forward",
      [](const std::vector<Term>& terms, std::int64_t batch, std::int64_t labels,
         std::int64_t pixels, int steps, int threads, std::uintptr_t logits,
         std::uintptr_t probabilities, std::uintptr_t map, std::uintptr_t saved) {
        py::gil_scoped_release release;
        const Shape shape{labels, pixels, steps, static_cast<int>(terms.size())};
        std::vector<Image> images = make_images(terms, batch, shape, logits);
        float* next = pointer<float>(saved);
        for (std::int64_t n = 0; n < batch; ++n) {
          if (probabilities != 0)
            images[n].probabilities = pointer<float>(probabilities) + n * labels * pixels;
          if (map != 0) images[n].map = pointer<std::int32_t>(map) + n * pixels;
          images[n].saved = next;
          if (next != nullptr) next += steps * cpu_kernels().saved_floats(images[n], shape);
        }
        return cpu_kernels().forward(images.data(), batch, shape, threads);
      },
      py::arg("terms"), py::arg("batch"), py::arg("labels"), py::arg("pixels"), py::arg("steps"),
      py::arg("threads"), py::kw_only(), py::arg("logits"), py::arg("probabilities"),
      py::arg("map"), py::arg("saved"));
  sub.def(
      "cpu_negate",
      [](std::uintptr_t energies, std::uintptr_t logits, std::int64_t count, int threads) {
        return cpu_kernels().negate(pointer<const float>(energies), pointer<float>(logits), count,
                                    threads);
      },
      py::arg("energies"), py::arg("logits"), py::arg("count"), py::arg("threads"), release_gil());
  // grad_compatibility: for each term the address of doubles [N, size of the compatibility], or 0.
  sub.def(
      "cpu_backward",
      [](const std::vector<Term>& terms, std::int64_t batch, std::int64_t labels,
         std::int64_t pixels, int steps, int threads, std::uintptr_t logits, std::uintptr_t saved,
         std::uintptr_t grad_probabilities, std::uintptr_t grad_logits,
         const std::vector<std::uintptr_t>& grad_compatibility) {
        py::gil_scoped_release release;
        const Shape shape{labels, pixels, steps, static_cast<int>(terms.size())};
        std::vector<Image> images = make_images(terms, batch, shape, logits);
        std::vector<Gradients> gradients(batch);
        float* next = pointer<float>(saved);
        const std::int64_t sizes[] = {1, labels, labels * labels};
        for (std::int64_t n = 0; n < batch; ++n) {
          images[n].saved = next;
          next += steps * cpu_kernels().saved_floats(images[n], shape);
          gradients[n].probabilities =
              pointer<const float>(grad_probabilities) + n * labels * pixels;
          gradients[n].logits = pointer<float>(grad_logits) + n * labels * pixels;
          for (int k = 0; k < shape.kernels; ++k)
            gradients[n].compatibility[k] =
                grad_compatibility[k] == 0
                    ? nullptr
                    : pointer<double>(grad_compatibility[k]) + n * sizes[terms[k].kind];
        }
        cpu_kernels().backward(images.data(), gradients.data(), batch, shape, threads);
      },
      py::arg("terms"), py::arg("batch"), py::arg("labels"), py::arg("pixels"), py::arg("steps"),
      py::arg("threads"), py::kw_only(), py::arg("logits"), py::arg("saved"),
      py::arg("grad_probabilities"), py::arg("grad_logits"), py::arg("grad_compatibility"));
}

} // namespace fastseg
