// The compatibility of a kernel, applied to what its vertices hold.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include "mean_field/mean_field_vertices_cpu.h"

namespace fastseg::mean_field::FASTSEG_CPU_LEVEL {

// The group of labels that begins at `first`, in a block by label [padded, kBlock].
template <int W> inline BlockRows<float, W>& block_at(float* x, std::int64_t first) {
  return *reinterpret_cast<BlockRows<float, W>*>(x + first * kBlock);
}

// A scalar compatibility.
inline float scalar_of(const Kernel& kernel) {
  return kernel.kind == Compatibility::scalar ? kernel.compatibility[0] : 1.0f;
}

// Multiplies each row of a plane with a scalar or diagonal compatibility.
template <int W>
inline void scale_plane(const Kernel& kernel, const Plane& plane, std::int64_t labels, float* rows,
                        std::int64_t count) {
  float diagonal[W] = {};
  for (std::int64_t l = plane.first; l < std::min(labels, plane.first + W); ++l)
    diagonal[l - plane.first] = kernel.compatibility[kernel.kind == Compatibility::scalar ? 0 : l];
  for (std::int64_t row = 0; row < count; ++row)
    for (int l = 0; l < W; ++l) rows[row * W + l] *= diagonal[l];
}

// row = compatibility * row for each row of a kernel, which begin at `first_row` of `values`.
inline void mix_labels(const Kernel& kernel, const Vertices& vertices, const Array& values,
                       std::int64_t first_row, int k, bool transpose, int threads) {
  constexpr int kTogether = 4; // rows that share the loads of the matrix
  const std::int64_t labels = vertices.layout.labels, padded = vertices.layout.padded;
  const std::int64_t count = vertices.lattice(k).vertices;
  // [m, l]: what label m adds to label l, by groups as the rows are.
  Buffer<float> matrix(labels * padded);
  std::fill_n(matrix.get(), labels * padded, 0.0f);
  const Array columns{matrix.get(), labels};
  for (std::int64_t i = 0; i < vertices.plane_count; ++i) {
    const Plane& plane = vertices.plane(i);
    for (std::int64_t m = 0; m < labels; ++m)
      for (std::int64_t l = plane.first; l < std::min(labels, plane.first + plane.width); ++l)
        plane.of(columns, m)[l - plane.first] =
            kernel.compatibility[transpose ? m * labels + l : l * labels + m];
  }
  const std::int64_t task_rows = 256, tasks = (count + task_rows - 1) / task_rows;
  parallel_for(tasks, threads, [&](std::int64_t task) {
    Buffer<float> before(kTogether * padded);
    const std::int64_t end = std::min(count, (task + 1) * task_rows);
    for (std::int64_t v = task * task_rows; v < end; v += kTogether) {
      const std::int64_t n = std::min<std::int64_t>(kTogether, end - v);
      const std::int64_t row = first_row + 1 + v;
      std::fill_n(before.get(), kTogether * padded, 0.0f);
      for (std::int64_t i = 0; i < vertices.plane_count; ++i)
        for (std::int64_t j = 0; j < n; ++j)
          std::copy_n(vertices.plane(i).of(values, row + j), vertices.plane(i).width,
                      before.get() + j * padded + vertices.plane(i).first);
      vertices.layout.each_group([&](auto width, std::int64_t first) {
        using R = Row<float, width()>;
        const auto mix = columns.group<width()>(first);
        R after[kTogether];
        for (R& r : after) r = R::zero();
        for (std::int64_t m = 0; m < labels; ++m) {
          const R column = R::load(mix, m);
          for (int j = 0; j < kTogether; ++j) after[j].add(column, before[j * padded + m]);
        }
        for (std::int64_t j = 0; j < n; ++j) after[j].store(values.group<width()>(first), row + j);
      });
    }
  });
}

} // namespace fastseg::mean_field::FASTSEG_CPU_LEVEL
