// Mean-field inference on a CUDA device, and the messages that its derivative passes back.
#pragma once

#include "mean_field/mean_field.h"
#include "permutohedral_lattice/permutohedral_lattice_cuda.h"

namespace fastseg::mean_field::cuda {

using permutohedral_lattice::cuda::DeviceLattice;

// A thread keeps its share of a pixel's labels in registers.
inline constexpr std::int64_t kMostLabels = 512;

// One pairwise term: logits[l] += factors[l] * (mixture of) filtered[l]. The normalisation is a
// part of the lattice's weights: those of the entries have its factor of the input, the others that
// of the output.
struct Term {
  DeviceLattice lattice;   // float32; of one image, or of the batch
  const float* factors;    // [stride]; null: 1
  const float* transposed; // [L, stride]: the full compatibility [L, L] by its columns; null: none
};

struct Shape {
  std::int64_t batch, labels, pixels;
  int steps;
  // Floats of a row of labels, which is filled up with anything finite.
  std::int64_t stride() const;
};

// Floats of device memory that forward works in.
std::int64_t workspace_floats(const Term* terms, int count, const Shape& shape);

// Floats of the filtered vertices of all terms after one step.
std::int64_t table_floats(const Term* terms, int count, const Shape& shape);

// logits and probabilities are rows [batch, pixels, stride]. The probabilities of the last step are
// written, or with `map` [batch, pixels] its most probable labels instead. bad [1], INT32_MAX
// before: the first image whose logits or messages are not finite. kept, or null:
// [steps, table_floats], the filtered vertices of every step; the next two functions make from them
// what the derivative needs.
void forward(const Term* terms, int count, const Shape& shape, const float* logits,
             float* probabilities, std::int32_t* map, std::int32_t* bad, float* kept,
             float* workspace, std::uintptr_t stream);
// The probabilities after a step, of what it kept (null: before the first one).
void probabilities_again(const Term* terms, int count, const Shape& shape, const float* logits,
                         float* kept, float* probabilities, float* workspace,
                         std::uintptr_t stream);
// out = what a step filtered for one of the terms, without its compatibility.
void filtered_again(const Term* terms, int count, const Shape& shape, int term, float* kept,
                    float* out, std::uintptr_t stream);
// out = the sum of the terms' messages for these rows, all [batch, pixels, stride]. transpose: the
// axes of the blurs in reverse order; with the weights of the terms exchanged and their
// compatibilities transposed it is the adjoint.
void messages(const Term* terms, int count, const Shape& shape, const float* rows, bool transpose,
              float* out, float* workspace, std::uintptr_t stream);

} // namespace fastseg::mean_field::cuda
