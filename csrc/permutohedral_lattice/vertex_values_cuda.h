// Values on the vertices of a lattice on a CUDA device: splat and blur.
//
// Values lie in rows: the labels of a pixel or vertex side by side, filled up with zeros so that
// `items` of them go in one access. A lattice of one image serves several images of values: these
// are its replicas.
#pragma once

#include "common/cuda_launch.h"
#include "permutohedral_lattice/permutohedral_lattice_cuda.h"

namespace fastseg::permutohedral_lattice::cuda {

struct RowLayout {
  std::int64_t replicas;
  std::int64_t labels, stride; // in a row: values that count, and all
  int items;
  std::int64_t lanes() const { return stride / items; } // threads per row
};
inline RowLayout row_layout(DType dtype, std::int64_t replicas, std::int64_t labels) {
  const int most = dtype == DType::float64 ? 2 : 4;
  const int items = labels > 2 ? most : labels == 2 ? 2 : 1;
  return {replicas, labels, ceil_div(labels, items) * items, items};
}
// Calls fn(TypeTag<T>, integral_constant<items>) for the rows' type and items.
template <class Fn> void dispatch_rows(DType dtype, const RowLayout& layout, const Fn& fn) {
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  if (dtype == DType::float64)
    return layout.items == 1 ? fn(TypeTag<double>{}, One{}) : fn(TypeTag<double>{}, Two{});
  if (layout.items == 4) return fn(TypeTag<float>{}, std::integral_constant<int, 4>{});
  layout.items == 1 ? fn(TypeTag<float>{}, One{}) : fn(TypeTag<float>{}, Two{});
}

// A thread of a block of kPlaceThreads owns kItems labels of one of `count` things of one replica.
inline constexpr int kPlaceThreads = 256;
struct Place {
  std::int64_t replica, index, offset; // offset < 0: no place
};
template <int kItems>
FASTSEG_DEVICE Place place(std::int64_t replicas, std::int64_t count, std::int64_t lanes) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kPlaceThreads + threadIdx.x;
  const Division lane = divide(thread, lanes), at = divide(lane.quotient, count);
  return {at.quotient, at.remainder, at.quotient < replicas ? lane.remainder * kItems : -1};
}

// Values of memory: rows of the pixels, a table of the vertices, and what the splat keeps
// meanwhile.
inline std::int64_t pixel_values(const Shape& shape, const RowLayout& layout) {
  return layout.replicas * shape.batch * shape.pixels * layout.stride;
}
inline std::int64_t table_values(const DeviceLattice& lattice, const RowLayout& layout) {
  return layout.replicas * (lattice.capacity + 1) * layout.stride;
}
std::int64_t splat_values(const Shape& shape, const RowLayout& layout);

// Splats and blurs the rows of pixels [replicas, batch * pixels, stride]. The result is in one of
// two tables, which is returned; row 0 of both is then zero. transpose: the adjoint, that is: the
// axes of the blur in reverse order.
void* spread(const DeviceLattice& lattice, const RowLayout& layout, const void* pixels,
             bool transpose, void* table, void* other, void* splat, std::uintptr_t stream);

} // namespace fastseg::permutohedral_lattice::cuda
