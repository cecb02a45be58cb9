// The lattice on a CUDA device. One lattice holds all images of a batch: each has vertices of its
// own, which are numbered as on the CPU and follow those of the image before.
//
// Python allocates all memory and does the two steps between the launches that are a library's: a
// prefix sum and a stable sort (torch.cumsum and torch.sort, which are CUB's radix sort).
//
// Lattices of more than kMaxPackedFeatures features, or with coordinates beyond 16 bits, are built
// on the CPU and copied: only list_entries and the filter see those.
#pragma once

#include "permutohedral_lattice/permutohedral_lattice.h"

namespace fastseg::permutohedral_lattice::cuda {

// A corner is a vertex of a pixel's simplex: number pixel * (D + 1) + remainder. Slots of the hash
// table are numbered in 32 bits, hence this limit for one lattice.
inline constexpr std::int64_t kMaxCorners = std::int64_t{1} << 30;

struct Shape {
  DType dtype; // of features and weights: float32 or float64
  std::int64_t batch;
  int features;
  std::int64_t pixels; // per image

  // pydensecrf takes its pixels four at a time and fills the last ones up with zero features. Their
  // vertices take no value, but pass values on in the blur.
  std::int64_t padded_pixels() const { return (pixels + 3) / 4 * 4; }
  std::int64_t padded_corners() const { return batch * padded_pixels() * (features + 1); }
  std::int64_t corners() const { return batch * pixels * (features + 1); }
  // 32-bit words of the simplices of all pixels.
  std::int64_t simplex_words() const { return batch * padded_pixels() * ((features + 1) / 2 + 1); }
  // Slots of the hash table: at most two thirds of them are taken, whatever the features are, so
  // that it never has to grow. The untouched ones cost 4 bytes and a part of a memset each.
  std::int64_t table_slots() const {
    std::int64_t slots = 1024;
    while (2 * slots < 3 * padded_corners()) slots *= 2;
    return slots;
  }
};

// A built lattice. As on the CPU, vertex v is row v + 1, and row 0 stands for one that is absent.
struct DeviceLattice {
  Shape shape;
  std::int64_t capacity;          // rows in memory, but for row 0
  const std::int32_t* count;      // [1]: vertices
  const std::int32_t* rows;       // [corners]
  const void* weights;            // [corners]
  const std::int32_t* neighbours; // [D + 1 axes, capacity, 2]: rows
  // The corners once more, in the order of their rows, those of one row in the order of pixels.
  const std::int32_t* entry_rows;   // [corners]
  const std::int32_t* entry_pixels; // [corners]: pixel of the batch
  const void* entry_weights;        // [corners]
  const std::int32_t* ranges;       // [capacity + 1, 2]: the entries of a row: first, end
};

// The simplices of all pixels, and the weights [corners]. bad [1], INT32_MAX before: the first
// pixel of the batch whose features are out of range; its weights are NaN.
void locate(const Shape& shape, const void* features, std::uint32_t* simplices, void* weights,
            std::int32_t* bad, std::uintptr_t stream);
// For each padded corner the first corner of the same vertex, and whether that is itself. The
// table, all bits set before, then maps keys to first corners.
void find_first(const Shape& shape, const std::uint32_t* simplices, std::uint32_t* table,
                std::int32_t* first, std::int32_t* is_first, std::uintptr_t stream);
// rows [corners]; vertices [corners and more]: the first corner of each. prefix: the inclusive sum
// of is_first.
void number(const Shape& shape, const std::int32_t* first, const std::int32_t* prefix,
            std::int32_t* rows, std::int32_t* vertices, std::uintptr_t stream);
// neighbours [D + 1, capacity, 2], zero before.
void link(const Shape& shape, const std::uint32_t* simplices, const std::uint32_t* table,
          const std::int32_t* prefix, const std::int32_t* vertices, std::int64_t capacity,
          std::int32_t* neighbours, std::uintptr_t stream);
// From the stably sorted rows and the corners in that order; ranges are zero before.
void list_entries(const Shape& shape, const std::int32_t* entry_rows, const std::int64_t* order,
                  const void* weights, std::int32_t* entry_pixels, void* entry_weights,
                  std::int32_t* ranges, std::uintptr_t stream);
// The gradient to features [batch, D, pixels] from that to the weights [corners]; the choice of the
// simplex counts as constant.
void backward(const Shape& shape, const void* features, const void* grad_weights,
              void* grad_features, std::uintptr_t stream);

} // namespace fastseg::permutohedral_lattice::cuda
