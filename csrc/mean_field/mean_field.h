// Mean-field inference in a fully connected CRF: every step filters the label probabilities with
// Gaussian kernels on permutohedral lattices, mixes the labels by a compatibility and adds the
// result to the logits. Source: Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected
// CRFs with Gaussian Edge Potentials", 2011.
#pragma once

#include "permutohedral_lattice/permutohedral_lattice.h"

namespace fastseg::mean_field {

using permutohedral_lattice::Lattice;

inline constexpr int kMaxKernels = 8;
// Corners of the simplices that a pixel lies in, one simplex for each kernel.
inline constexpr int kMaxCorners = 72;

enum class Compatibility : int { scalar = 0, diagonal = 1, full = 2 };

// One pairwise term: logits[l] += sum over m of compatibility[l, m] * filtered[m], where filtered =
// scale_out * lattice(scale_in * probabilities).
struct Kernel {
  const Lattice* lattice;
  const float* scale_in;  // [P]; null: 1
  const float* scale_out; // [P]; null: 1
  Compatibility kind;
  const float* compatibility; // [1], [L] or [L, L]
};

struct Shape {
  std::int64_t labels, pixels;
  int steps;
  int kernels; // per image
};

// One image. A null pointer means: not wanted.
struct Image {
  const float* logits; // [L, P]
  Kernel kernels[kMaxKernels];
  float* probabilities; // [L, P]
  std::int32_t* map;    // [P]: the most probable label
  float* saved;         // [steps, saved_floats]: what backward needs
};

struct Gradients {
  const float* probabilities;         // given: [L, P]
  float* logits;                      // [L, P]
  double* compatibility[kMaxKernels]; // as Kernel::compatibility
};

struct CpuKernels {
  std::int64_t (*saved_floats)(const Image& image, const Shape& shape);
  // Returns the first image whose logits or messages are not finite, or -1.
  std::int64_t (*forward)(const Image* images, std::int64_t batch, const Shape& shape, int threads);
  // Of the images that forward ran on, whose `saved` it filled.
  void (*backward)(const Image* images, const Gradients* gradients, std::int64_t batch,
                   const Shape& shape, int threads);
  // logits = -energies; returns whether all are finite.
  bool (*negate)(const float* energies, float* logits, std::int64_t count, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

} // namespace fastseg::mean_field
