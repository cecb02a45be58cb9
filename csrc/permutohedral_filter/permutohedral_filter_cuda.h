// permutohedral_filter on a CUDA device, with lattices built by permutohedral_lattice_cuda.h.
#pragma once

#include "permutohedral_lattice/permutohedral_lattice_cuda.h"

namespace fastseg::permutohedral_filter::cuda {

using permutohedral_lattice::cuda::DeviceLattice;

// values, out and their gradients are [batch, labels, pixels]. A lattice of one image filters all.
struct Shape {
  DType dtype; // of the values; the lattice's is float64 where this is, and float32 elsewhere
  std::int64_t batch, labels;
  bool transpose; // the adjoint, that is: the axes of the blur in reverse order
};

// Bytes of device memory that forward or backward works in. It does not grow beyond 64 labels.
std::int64_t workspace_bytes(const DeviceLattice& lattice, const Shape& shape, bool backward);

void forward(const DeviceLattice& lattice, const Shape& shape, const void* values, void* out,
             void* workspace, std::uintptr_t stream);
// Gradients to the values and to the weights of the lattice [lattice batch, pixels, D + 1].
void backward(const DeviceLattice& lattice, const Shape& shape, const void* values,
              const void* grad_out, void* grad_values, void* grad_weights, void* workspace,
              std::uintptr_t stream);

} // namespace fastseg::permutohedral_filter::cuda
