// The permutohedral lattice of one set of features: which vertices the pixels touch, with which
// weights, and which vertices are neighbours. Source: Adams, Baek, Davis, "Fast High-Dimensional
// Filtering Using the Permutohedral Lattice", 2010.
#pragma once

#include <cstdint>

#include "common/cpu_level.h"
#include "common/dtype.h"

namespace fastseg::permutohedral_lattice {

// Of a lattice whose keys are packed; others are built by wide_lattice_cpu.h.
inline constexpr int kMaxPackedFeatures = 8;

// Pixels lie together in blocks of so many, whatever the vector width: a lattice outlives the
// choice of an instruction set. The last block is filled up with pixels of weight 0.
inline constexpr std::int64_t kBlock = 16;

// Vertex v is row v + 1 of any array of vertex values; row 0 holds zeros and stands for a neighbour
// that does not exist. Vertices are numbered in the order in which the pixels touch them.
struct Lattice {
  int features = 0;             // D
  DType dtype = DType::float32; // of the weights: float32 or float64
  std::int64_t pixels = 0, vertices = 0;
  std::int32_t* rows = nullptr; // [blocks, D + 1, kBlock]: the vertices of each pixel's simplex
  void* weights = nullptr;      // [blocks, D + 1, kBlock]: barycentric coordinates
  std::int32_t* neighbours = nullptr; // [D + 1 axes, vertices, 2]: rows

  std::int64_t blocks() const { return (pixels + kBlock - 1) / kBlock; }
};

enum class Status : int { ok = 0, out_of_range = 1 };

// Where a feature is not finite, or its coordinates do not fit into 32 bits.
struct BadFeature {
  std::int64_t image = -1, pixel = -1;
};

// Features (column, row, channels...) of an image's pixels, each divided by its width.
struct ImageFeatures {
  const std::uint8_t* values; // [H, W, C]
  std::int64_t height, width;
  int channels;        // C: 3, or 0 for positions alone
  const float* widths; // [2 + C]
};

struct CpuKernels {
  // Fills the lattices of `batch` images, whose arrays come from take_scratch, from features
  // [batch, D, P] of `dtype` (float32 or float64). out_of_range: *bad is the first image's first
  // such pixel, and nothing stays allocated. Throws std::bad_alloc: what was allocated stays the
  // owner's to give back.
  Status (*build)(DType dtype, const void* features, std::int64_t batch, int feature_count,
                  std::int64_t pixels, int threads, Lattice* const* lattices, BadFeature* bad);
  // The same for one image, of float32 features that are never stored.
  Status (*build_image)(const ImageFeatures& image, int threads, Lattice* lattice, BadFeature* bad);
  // The gradient to features [D, P] of a function with this gradient to the lattice's weights; the
  // choice of the simplex counts as constant.
  void (*backward)(DType dtype, const void* features, int feature_count, std::int64_t pixels,
                   const void* grad_weights, void* grad_features, int threads);
};
FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)

} // namespace fastseg::permutohedral_lattice
