// The derivative of the mean-field steps, from the last to the first. The probabilities of a step
// are computed again from the vertex values that the forward saved. Included only by
// mean_field_cpu.cpp; lives in the level's namespace.
#pragma once

#include "mean_field/mean_field_compatibility_cpu.h"

namespace fastseg::mean_field::FASTSEG_CPU_LEVEL {

class Backward {
public:
  Backward(const Image& image, const Gradients& gradients, const Shape& shape, int threads)
      : image_(image), gradients_(gradients), shape_(shape), threads_(threads),
        vertices_(image, shape, threads), sums_memory_(vertices_.chunks * vertices_.size()),
        slopes_memory_(2 * vertices_.size()), values_memory_(vertices_.size()) {
    for (std::int64_t c = 0; c < vertices_.chunks; ++c)
      sums_[c] = {sums_memory_.get() + c * vertices_.size(), vertices_.rows};
    slopes_ = {slopes_memory_.get(), 2 * vertices_.rows};
    values_ = {values_memory_.get(), vertices_.rows};
    for (int k = 0; k < vertices_.kernels; ++k)
      if (gradients_.compatibility[k] != nullptr)
        std::fill_n(gradients_.compatibility[k], compatibility_size(k), 0.0);
  }

  void run() {
    // After `step` steps the probabilities depend on the vertices of step - 1.
    for (int step = shape_.steps; step >= 0; --step) {
      if (step > 0) restore(step - 1);
      parallel_for(vertices_.chunks, threads_, [&](std::int64_t c) { pass(c, step); });
      if (step > 0) exchange(step - 1);
    }
  }

private:
  std::int64_t compatibility_size(int k) const {
    switch (image_.kernels[k].kind) {
    case Compatibility::scalar:
      return 1;
    case Compatibility::diagonal:
      return shape_.labels;
    default:
      return shape_.labels * shape_.labels;
    }
  }

  Array saved(int step) const { return {image_.saved + step * vertices_.size(), vertices_.rows}; }

  // values_ = what the slice of `step` reads.
  void restore(int step) {
    vertices_.each_plane(threads_, [&](const Plane& plane, int k) {
      const std::int64_t rows = vertices_.lattice(k).vertices + 1;
      float* to = plane.of(values_, vertices_.first_row[k]);
      std::copy_n(plane.of(saved(step), vertices_.first_row[k]), rows * plane.width, to);
      scale(plane, k, to, rows);
    });
    for (int k = 0; k < vertices_.kernels; ++k)
      if (image_.kernels[k].kind == Compatibility::full)
        mix_labels(image_.kernels[k], vertices_, values_, vertices_.first_row[k], k, false,
                   threads_);
  }

  void scale(const Plane& plane, int k, float* rows, std::int64_t count) const {
    if (image_.kernels[k].kind != Compatibility::full)
      dispatch_plane(plane.width, [&](auto width) {
        scale_plane<width()>(image_.kernels[k], plane, shape_.labels, rows, count);
      });
  }

  void pass(std::int64_t c, int step) {
    if (step == shape_.steps && step > 0) vertices_.clear(sums_[c], c);
    const std::int64_t size = vertices_.layout.padded * kBlock;
    Buffer<float> buffer(2 * size);
    std::fill_n(buffer.get(), 2 * size, 0.0f);
    float* const x = buffer.get();
    float* const slope = x + size;
    Stencil stencil;
    for (std::int64_t b = vertices_.chunk_begin(c); b < vertices_.chunk_begin(c + 1); ++b) {
      const std::int64_t first = b * kBlock, count = std::min(kBlock, shape_.pixels - first);
      const bool begins = step == shape_.steps;
      prefetch_block(
          image_.kernels, shape_.kernels,
          {image_.logits, gradients_.logits, begins ? gradients_.probabilities : nullptr},
          shape_.pixels, shape_.labels, b);
      vertices_.fill(image_, b, stencil);
      if (step > 0 && !begins)
        slice_both(stencil, x, slope);
      else if (step > 0)
        slice_block(values_, stencil, stencil.out(), x);
      else if (!begins)
        slice_block(slopes_, stencil, stencil.in(), slope);
      softmax(x, step > 0, image_.logits + first, shape_.pixels, shape_.labels, count);
      if (begins) read(gradients_.probabilities + first, count, slope);
      softmax_backward(slope, x, shape_.labels);
      add(slope, count, !begins, gradients_.logits + first);
      if (step > 0) splat_block(stencil, slope, sums_[c]);
    }
  }

  void slice_block(const Array& from, const Stencil& stencil, Stencil::Weights weights,
                   float* x) const {
    vertices_.layout.each_group([&](auto width, std::int64_t first) {
      auto& block = block_at<width()>(x, first);
      slice_pixels<width()>(from.group<width()>(first), stencil, weights, block);
      block.to_labels();
    });
  }

  void slice_both(const Stencil& stencil, float* x, float* slope) const {
    vertices_.layout.each_group([&](auto width, std::int64_t first) {
      auto &value = block_at<width()>(x, first), &other = block_at<width()>(slope, first);
      slice_both_pixels<width()>(values_.group<width()>(first), slopes_.group<width()>(first),
                                 stencil, value, other);
      value.to_labels();
      other.to_labels();
    });
  }

  void splat_block(const Stencil& stencil, float* slope, const Array& sums) const {
    vertices_.layout.each_group([&](auto width, std::int64_t first) {
      auto& block = block_at<width()>(slope, first);
      block.to_rows();
      splat_pixels<width()>(block, stencil, stencil.out(), sums.group<width()>(first));
    });
  }

  void read(const float* from, std::int64_t count, float* slope) const {
    std::fill_n(slope, vertices_.layout.padded * kBlock, 0.0f);
    for (std::int64_t l = 0; l < shape_.labels; ++l)
      std::copy_n(from + l * shape_.pixels, count, slope + l * kBlock);
  }

  // The gradient to the logits [L, P]: the first pass writes it, each later one adds to it.
  void add(const float* slope, std::int64_t count, bool onto, float* total) const {
    for (std::int64_t l = 0; l < shape_.labels; ++l)
      for (int i = 0; i < kBlock; i += kLanes<float>) {
        vec<float> v = load_vec(slope + l * kBlock + i);
        float* const to = total + l * shape_.pixels + i;
        if (onto) v += load_lanes(to, count - i);
        store_lanes(to, v, count - i);
      }
  }

  // From the sums of the slopes to what the pass before slices; the gradients to the
  // compatibilities on the way.
  void exchange(int step) {
    const auto buffers = [&](const Plane& plane, int k, float* out[2]) {
      out[0] = plane.of(slopes_, vertices_.first_row[k]);
      out[1] = plane.of(slopes_, vertices_.rows + vertices_.first_row[k]);
      if (sums_in_spare(k)) std::swap(out[0], out[1]); // so that the blur ends in the first one
    };
    vertices_.each_plane(threads_, [&](const Plane& plane, int k) {
      float* at[2];
      buffers(plane, k, at);
      dispatch_plane(plane.width,
                     [&](auto width) { vertices_.merge<width()>(plane, k, sums_, at[0]); });
    });
    parallel_for(vertices_.kernels, threads_, [&](std::int64_t k) {
      if (gradients_.compatibility[k] != nullptr) add_compatibility(static_cast<int>(k), step);
    });
    vertices_.each_plane(threads_, [&](const Plane& plane, int k) {
      float* at[2];
      buffers(plane, k, at);
      const Kernel& kernel = image_.kernels[k];
      dispatch_plane(plane.width, [&](auto width) {
        vertices_.blur<width()>(k, at[0], at[1], true,
                                vertices_.lattice(k).alpha * scalar_of(kernel));
        if (kernel.kind == Compatibility::diagonal)
          scale_plane<width()>(kernel, plane, shape_.labels,
                               plane.of(slopes_, vertices_.first_row[k]),
                               vertices_.lattice(k).vertices + 1);
      });
    });
    for (int k = 0; k < vertices_.kernels; ++k)
      if (image_.kernels[k].kind == Compatibility::full)
        mix_labels(image_.kernels[k], vertices_, slopes_, vertices_.first_row[k], k, true,
                   threads_);
  }
  bool sums_in_spare(int k) const { return vertices_.lattice(k).corners % 2 != 0; }

  // += sum over the vertices of slope[l] * value[m].
  void add_compatibility(int k, int step) {
    const Compatibility kind = image_.kernels[k].kind;
    const std::int64_t labels = shape_.labels, padded = vertices_.layout.padded;
    if (kind != Compatibility::full) return add_products(k, step);
    const std::int64_t size = compatibility_size(k), first = vertices_.first_row[k];
    double* const total = gradients_.compatibility[k];
    Buffer<float> slope(padded), value(padded), part(size);
    const std::int64_t count = vertices_.lattice(k).vertices;
    const std::int64_t sums = first + (sums_in_spare(k) ? vertices_.rows : 0);
    for (std::int64_t begin = 1; begin <= count; begin += 512) { // float sums of a few terms
      std::fill_n(part.get(), size, 0.0f);
      for (std::int64_t row = begin; row <= std::min(count, begin + 511); ++row) {
        for (std::int64_t i = 0; i < vertices_.plane_count; ++i) {
          const Plane& plane = vertices_.plane(i);
          std::copy_n(plane.of(slopes_, sums + row), plane.width, slope.get() + plane.first);
          std::copy_n(plane.of(saved(step), first + row), plane.width, value.get() + plane.first);
        }
        for (std::int64_t l = 0; l < labels; ++l)
          for (std::int64_t m = 0; m < labels; ++m) part[l * labels + m] += slope[l] * value[m];
      }
      for (std::int64_t i = 0; i < size; ++i) total[i] += static_cast<double>(part[i]);
    }
  }

  // The same for l == m alone.
  void add_products(int k, int step) {
    const bool scalar = image_.kernels[k].kind == Compatibility::scalar;
    const std::int64_t first = vertices_.first_row[k], count = vertices_.lattice(k).vertices;
    const std::int64_t sums = first + (sums_in_spare(k) ? vertices_.rows : 0);
    for (std::int64_t i = 0; i < vertices_.plane_count; ++i)
      dispatch_plane(vertices_.plane(i).width, [&](auto width) {
        const Plane& plane = vertices_.plane(i);
        const RowArray<float, width()> slopes(plane.of(slopes_, sums), 0),
            values(plane.of(saved(step), first), 0);
        double total[width()] = {};
        for (std::int64_t begin = 1; begin <= count; begin += 16) { // float sums of a few terms
          auto part = Row<float, width()>::zero();
          for (std::int64_t row = begin; row <= std::min(count, begin + 15); ++row)
            part.add_product(Row<float, width()>::load(slopes, row),
                             Row<float, width()>::load(values, row));
          float lanes[width()];
          part.store(lanes, nullptr);
          for (int l = 0; l < width(); ++l) total[l] += static_cast<double>(lanes[l]);
        }
        for (std::int64_t l = plane.first; l < std::min(shape_.labels, plane.first + width()); ++l)
          gradients_.compatibility[k][scalar ? 0 : l] += total[l - plane.first];
      });
  }

  const Image& image_;
  const Gradients& gradients_;
  Shape shape_;
  int threads_;
  Vertices vertices_;
  Scratch<float> sums_memory_, slopes_memory_, values_memory_;
  Array sums_[8], slopes_, values_;
};

} // namespace fastseg::mean_field::FASTSEG_CPU_LEVEL
