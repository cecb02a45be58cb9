// Gaussian filtering on a permutohedral lattice: splat, blur, slice.
#pragma once

#include "permutohedral_lattice/permutohedral_lattice.h"

namespace fastseg::permutohedral_filter {

using permutohedral_lattice::Lattice;

// Images n = 0..batch-1 with one lattice each, or one for all of them.
struct Lattices {
  const Lattice* const* each;
  std::int64_t count; // batch or 1
  const Lattice& of(std::int64_t image) const { return *each[count == 1 ? 0 : image]; }
};

// What a normalised filter multiplies with: of the norm, the filter of ones.
enum class NormFactor : int { none = 0, reciprocal = 1, reciprocal_root = 2 };

// values, out, grad_out and grad_values are [N, L, P] in the type of the lattices' weights.
struct CpuKernels {
  // transpose: the adjoint, that is: the axes of the blur in reverse order.
  void (*filter)(const Lattices& lattices, std::int64_t batch, std::int64_t labels,
                 const void* values, void* out, bool transpose, int threads);
  // Gradients to the values and to the weights [N, blocks, D + 1, kBlock].
  void (*backward)(const Lattices& lattices, std::int64_t batch, std::int64_t labels,
                   const void* values, const void* grad_out, void* grad_values, void* grad_weights,
                   bool transpose, int threads);
  // The norms of `count` lattices of one size [count, P], or those factors of them.
  void (*norm)(const Lattice* const* lattices, std::int64_t count, NormFactor factor, void* out,
               int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

} // namespace fastseg::permutohedral_filter
