// What the vertices of all kernels hold, and what happens to them between two passes over the
// pixels: sum of the chunks, blur, compatibility. Included only by *_cpu.cpp files; lives in the
// level's namespace.
#pragma once

#include "common/buffer_cpu.h"
#include "common/parallel_cpu.h"
#include "common/scratch_cpu.h"
#include "mean_field/mean_field_block_cpu.h"

namespace fastseg::mean_field::FASTSEG_CPU_LEVEL {

// Calls fn(integral_constant<W>) with the narrowest row that holds `labels`, at most 32.
template <class Fn> inline void dispatch_width(std::int64_t labels, const Fn& fn) {
  if (labels <= 4) return fn(std::integral_constant<int, 4>{});
  if (labels <= 8) return fn(std::integral_constant<int, 8>{});
  if (labels <= 16) return fn(std::integral_constant<int, 16>{});
  if (labels <= 24) return fn(std::integral_constant<int, 24>{});
  return fn(std::integral_constant<int, 32>{});
}

// The labels go in groups of 32 and a smaller last one; `at` label l begins a group.
struct Layout {
  explicit Layout(std::int64_t count) : labels(count) {
    groups = (labels + 31) / 32;
    const std::int64_t rest = labels - 32 * (groups - 1);
    dispatch_width(rest, [&](auto width) { padded = 32 * (groups - 1) + width(); });
  }
  std::int64_t labels, groups, padded;

  // Calls fn(width, first label) for every group.
  template <class Fn> void each_group(const Fn& fn) const {
    for (std::int64_t g = 0; g < groups; ++g)
      dispatch_width(labels - 32 * g, [&](auto width) { fn(width, 32 * g); });
  }
};

// Arrays of `rows` rows of all labels: group after group, in each the main part, then the tail.
struct Array {
  float* memory = nullptr;
  std::int64_t rows = 0;
  template <int W> RowArray<float, W> group(std::int64_t first_label) const {
    return RowArray<float, W>(memory + rows * first_label, rows);
  }
};

// A part of a row that is blurred by itself: the main part or the tail of a group.
struct Plane {
  int width;
  std::int64_t first; // label
  // Where its rows from `row` on lie.
  float* of(const Array& array, std::int64_t row) const {
    return array.memory + array.rows * first + row * width;
  }
};

// Calls fn(integral_constant<W>) for the width of a plane.
template <class Fn> inline void dispatch_plane(int width, const Fn& fn) {
  if (width == 4) return fn(std::integral_constant<int, 4>{});
  if (width == 8) return fn(std::integral_constant<int, 8>{});
  if (width == 16) return fn(std::integral_constant<int, 16>{});
  return fn(std::integral_constant<int, 32>{});
}

class Vertices {
public:
  Vertices(const Image& image, const Shape& shape, int threads)
      : layout(shape.labels), kernels(shape.kernels), blocks((shape.pixels + kBlock - 1) / kBlock),
        planes_(2 * layout.groups), last_rows_(kernels * blocks) {
    std::int64_t largest = 0;
    for (int k = 0; k < kernels; ++k) {
      lattices_[k] = LatticeView<float>(*image.kernels[k].lattice);
      first_row[k] = rows;
      rows += lattices_[k].vertices + 1;
      largest = std::max(largest, lattices_[k].vertices);
    }
    rows = whole_lines(rows);
    chunks = chunk_count(blocks, largest);
    layout.each_group([&](auto width, std::int64_t first) {
      using Width = RowWidth<width()>;
      planes_[plane_count++] = {Width::kMain, first};
      if (Width::kTail > 0) planes_[plane_count++] = {Width::kTail, first + Width::kMain};
    });
    parallel_for(kernels * chunks, threads, [&](std::int64_t task) {
      const int k = static_cast<int>(task / chunks);
      const std::int64_t c = task % chunks;
      RowRange all{INT64_MAX, 0};
      for (std::int64_t b = chunk_begin(c); b < chunk_begin(c + 1); ++b) {
        const RowRange own =
            touched_rows(lattices_[k].rows + lattices_[k].at(b), lattices_[k].corners * kBlock);
        last_rows_[k * blocks + b] = static_cast<std::int32_t>(own.end - 1);
        all = {std::min(all.first, own.first), std::max(all.end, own.end)};
      }
      touched_[k][c] = all;
    });
  }

  const LatticeView<float>& lattice(int k) const { return lattices_[k]; }
  std::int64_t chunk_begin(std::int64_t c) const { return blocks * c / chunks; }
  const Plane& plane(std::int64_t i) const { return planes_[i]; }
  // Floats of an array with all rows of all kernels.
  std::int64_t size() const { return rows * layout.padded; }

  // Calls fn(plane, kernel) for each pair, in threads.
  template <class Fn> void each_plane(int threads, const Fn& fn) const {
    parallel_for(plane_count * kernels, threads, [&](std::int64_t task) {
      fn(planes_[task / kernels], static_cast<int>(task % kernels));
    });
  }

  // The rows that chunk c will add to become zero.
  void clear(const Array& sums, std::int64_t c) const {
    for (std::int64_t i = 0; i < plane_count; ++i)
      for (int k = 0; k < kernels; ++k) {
        const RowRange range = touched_[k][c];
        std::fill_n(planes_[i].of(sums, first_row[k] + range.first),
                    (range.end - range.first) * planes_[i].width, 0.0f);
      }
  }

  // out = the sum of the chunks' arrays, which become zero again.
  template <int W> void merge(const Plane& plane, int k, const Array* sums, float* out) const {
    using R = Row<float, W>;
    const RowArray<float, W> to(out, 0);
    RowArray<float, W> from[8];
    for (std::int64_t c = 0; c < chunks; ++c) from[c].main = plane.of(sums[c], first_row[k]);
    for (std::int64_t row = 0; row <= lattices_[k].vertices; ++row) {
      R sum = R::zero();
      for (std::int64_t c = 0; c < chunks; ++c)
        if (row >= touched_[k][c].first && row < touched_[k][c].end) {
          sum.add(R::load(from[c], row));
          R::zero().store(from[c], row);
        }
      sum.store(to, row);
    }
    R::zero().store(to, 0);
  }

  // out, an array of this size, = blur of the sum of the chunks, times `scale`; `spare`: another
  // one.
  template <int W>
  void exchange(const Plane& plane, int k, const Array* sums, bool transpose, float scale,
                float* out, float* spare) const {
    const bool odd = lattices_[k].corners % 2 != 0; // after as many exchanges the result is in out
    merge<W>(plane, k, sums, odd ? spare : out);
    blur<W>(k, odd ? spare : out, odd ? out : spare, transpose, scale);
  }

  // Blurs `here`, with `other` as second buffer: in turn, once per axis.
  template <int W> void blur(int k, float* here, float* other, bool transpose, float scale) const {
    const LatticeView<float>& lattice = lattices_[k];
    RowArray<float, W> in(here, 0), out(other, 0);
    Row<float, W>::zero().store(out, 0);
    for (int i = 0; i < lattice.corners; ++i) {
      const int axis = transpose ? lattice.corners - 1 - i : i;
      blur_axis<float, W>(lattice, axis, in, out, i + 1 == lattice.corners ? scale : 1.0f, 0,
                          lattice.vertices);
      std::swap(in, out);
    }
  }

  void fill(const Image& image, std::int64_t block, Stencil& stencil) const {
    stencil.fill(image.kernels, lattices_, kernels, first_row, block);
  }

  // The last row that block b touches, of those of kernel k.
  std::int64_t last_row(int k, std::int64_t b) const { return last_rows_[k * blocks + b]; }

  Layout layout;
  int kernels;
  std::int64_t blocks, rows = 0, chunks = 0, plane_count = 0;
  std::int64_t first_row[kMaxKernels];

private:
  LatticeView<float> lattices_[kMaxKernels];
  RowRange touched_[kMaxKernels][8];
  Buffer<Plane> planes_;
  Buffer<std::int32_t> last_rows_;
};

// Asks for rows some time before a chunk of the pixels touches them for the first time. Vertices
// are numbered in that order, so these are the rows after those that were asked for before. (The
// others are in the cache, or the processor finds them early enough.)
class RowPrefetch {
public:
  RowPrefetch(const Vertices& vertices, std::int64_t chunk)
      : vertices_(vertices), end_(vertices.chunk_begin(chunk + 1)) {
    for (int k = 0; k < vertices.kernels; ++k)
      next_[k] = vertices.last_row(k, vertices.chunk_begin(chunk)) + 1;
  }

  // Before block b. `read`, `added_to`: arrays, or empty ones.
  __attribute__((always_inline)) void operator()(std::int64_t b, const Array& read,
                                                 const Array& added_to) {
    constexpr std::int64_t kAhead = 4;
    if (b + kAhead >= end_) return;
    for (int k = 0; k < vertices_.kernels; ++k) {
      const std::int64_t end = vertices_.last_row(k, b + kAhead) + 1;
      if (end <= next_[k]) continue;
      const std::int64_t from = vertices_.first_row[k] + next_[k],
                         to = vertices_.first_row[k] + end;
      for (std::int64_t i = 0; i < vertices_.plane_count; ++i) {
        const Plane& plane = vertices_.plane(i);
        if (read.memory != nullptr)
          for (const float* p = plane.of(read, from); p < plane.of(read, to); p += 16)
            __builtin_prefetch(p);
        if (added_to.memory != nullptr)
          for (const float* p = plane.of(added_to, from); p < plane.of(added_to, to); p += 16)
            __builtin_prefetch(p, 1);
      }
      next_[k] = end;
    }
  }

private:
  const Vertices& vertices_;
  std::int64_t end_;
  std::int64_t next_[kMaxKernels];
};

} // namespace fastseg::mean_field::FASTSEG_CPU_LEVEL
