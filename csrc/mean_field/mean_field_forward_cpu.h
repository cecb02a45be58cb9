// Included only by mean_field_cpu.cpp; lives in the level's namespace.
#pragma once

#include "mean_field/mean_field_compatibility_cpu.h"

namespace fastseg::mean_field::FASTSEG_CPU_LEVEL {

class Forward {
public:
  Forward(const Image& image, const Shape& shape, int threads)
      : image_(image), shape_(shape), threads_(threads), vertices_(image, shape, threads),
        steps_floats_(shape.steps > 0 ? (vertices_.chunks + 1) * vertices_.size() : 0),
        steps_memory_(in_result() == nullptr ? steps_floats_ : 0),
        values_memory_(shape.steps > 0 ? vertices_.size() : 0) {
    float* const memory = in_result() == nullptr ? steps_memory_.get() : in_result();
    for (std::int64_t c = 0; c < vertices_.chunks; ++c)
      sums_[c] = {memory + c * vertices_.size(), vertices_.rows};
    spare_ = {memory + vertices_.chunks * vertices_.size(), vertices_.rows};
    values_ = {values_memory_.get(), vertices_.rows};
  }

  // Returns whether all went well: false if something was not finite.
  bool run() {
    for (int step = 0; step <= shape_.steps; ++step) {
      bool good[8];
      parallel_for(vertices_.chunks, threads_, [&](std::int64_t c) { good[c] = pass(c, step); });
      for (std::int64_t c = 0; c < vertices_.chunks; ++c)
        if (!good[c]) return false;
      if (step < shape_.steps) exchange(step);
    }
    return true;
  }

private:
  // The last pass alone writes to the result, and it needs neither sums nor a spare array: they lie
  // there where there is room. Null: there is none.
  float* in_result() const {
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(image_.probabilities);
    const std::int64_t skipped = (64 - address % 64) % 64 / sizeof(float); // to a cache line
    const bool fits = skipped + steps_floats_ <= shape_.labels * shape_.pixels;
    return address != 0 && fits ? image_.probabilities + skipped : nullptr;
  }

  // One chunk of pixels: from the vertices of the step before to those of the next one, or to the
  // result.
  bool pass(std::int64_t c, int step) {
    const bool last = step == shape_.steps;
    if (step == 0 && !last) vertices_.clear(sums_[c], c);
    Buffer<float> buffer(vertices_.layout.padded * kBlock);
    float* const x = buffer.get();
    std::fill_n(x, vertices_.layout.padded * kBlock, 0.0f);
    bool good = true;
    Stencil stencil;
    RowPrefetch prefetch_rows(vertices_, c);
    const Array none, &read = step > 0 ? values_ : none, &added_to = last ? none : sums_[c];
    for (std::int64_t b = vertices_.chunk_begin(c); b < vertices_.chunk_begin(c + 1); ++b) {
      const std::int64_t first = b * kBlock, count = std::min(kBlock, shape_.pixels - first);
      prefetch_block(image_.kernels, shape_.kernels,
                     {image_.logits, last ? image_.probabilities : nullptr}, shape_.pixels,
                     shape_.labels, b);
      if (kManyRows <= vertices_.size()) prefetch_rows(b, read, added_to);
      vertices_.fill(image_, b, stencil);
      if (step > 0) slice_block(stencil, x);
      good &= softmax(x, step > 0, image_.logits + first, shape_.pixels, shape_.labels, count);
      if (last)
        write(x, first, count);
      else
        splat_block(stencil, x, sums_[c]);
    }
    return good;
  }

  void slice_block(const Stencil& stencil, float* x) const {
    vertices_.layout.each_group([&](auto width, std::int64_t first) {
      auto& block = block_at<width()>(x, first);
      slice_pixels<width()>(values_.group<width()>(first), stencil, stencil.out(), block);
      block.to_labels();
    });
  }

  void splat_block(const Stencil& stencil, float* x, const Array& sums) const {
    vertices_.layout.each_group([&](auto width, std::int64_t first) {
      auto& block = block_at<width()>(x, first);
      block.to_rows();
      splat_pixels<width()>(block, stencil, stencil.in(), sums.group<width()>(first));
    });
  }

  void write(const float* x, std::int64_t first, std::int64_t count) const {
    if (image_.probabilities != nullptr)
      for (std::int64_t l = 0; l < shape_.labels; ++l) {
        float* to = image_.probabilities + l * shape_.pixels + first;
        const float* from = x + l * kBlock;
        for (int i = 0; i < kBlock; i += kLanes<float>)
          store_lanes(to + i, load_vec(from + i), count - i);
      }
    if (image_.map != nullptr) most_probable(x, shape_.labels, count, image_.map + first);
  }

  // From the sums of the chunks to what the next pass slices.
  void exchange(int step) {
    vertices_.each_plane(threads_, [&](const Plane& plane, int k) {
      dispatch_plane(plane.width, [&](auto width) {
        const Kernel& kernel = image_.kernels[k];
        const std::int64_t row = vertices_.first_row[k], rows = vertices_.lattice(k).vertices + 1;
        const bool diagonal = kernel.kind == Compatibility::diagonal,
                   save = image_.saved != nullptr;
        const float scale = vertices_.lattice(k).alpha * (save ? 1.0f : scalar_of(kernel));
        float* const out = plane.of(values_, row);
        vertices_.exchange<width()>(plane, k, sums_, false, scale, out, plane.of(spare_, row));
        if (save)
          std::copy_n(out, rows * plane.width,
                      plane.of({image_.saved + step * vertices_.size(), vertices_.rows}, row));
        if (diagonal || (save && kernel.kind == Compatibility::scalar))
          scale_plane<width()>(kernel, plane, shape_.labels, out, rows);
      });
    });
    for (int k = 0; k < vertices_.kernels; ++k)
      if (image_.kernels[k].kind == Compatibility::full)
        mix_labels(image_.kernels[k], vertices_, values_, vertices_.first_row[k], k, false,
                   threads_);
  }

  // Arrays of vertices from this size on do not stay in the cache between two passes.
  static constexpr std::int64_t kManyRows = 1 << 20;

  const Image& image_;
  Shape shape_;
  int threads_;
  Vertices vertices_;
  std::int64_t steps_floats_;
  Scratch<float> steps_memory_, values_memory_;
  Array sums_[8], spare_, values_;
};

} // namespace fastseg::mean_field::FASTSEG_CPU_LEVEL
