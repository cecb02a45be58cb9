// CPU twin. One pass over the pixels per step: slice all kernels, add the logits, softmax, splat
// into the next step's vertices. The probabilities of a block of pixels never leave the first-level
// cache; compatibilities are applied to the vertices, far fewer than the pixels.
#include "mean_field/mean_field.h"

#include "mean_field/mean_field_backward_cpu.h"
#include "mean_field/mean_field_forward_cpu.h"

namespace fastseg::mean_field::FASTSEG_CPU_LEVEL {
namespace {

std::int64_t saved_floats(const Image& image, const Shape& shape) {
  std::int64_t rows = 0;
  for (int k = 0; k < shape.kernels; ++k) rows += image.kernels[k].lattice->vertices + 1;
  return whole_lines(rows) * Layout(shape.labels).padded;
}

// Small images at the same time where there are enough of them. Of larger ones the threads share
// one after the other: two would not fit into the cache together.
template <class Fn>
void each_image(std::int64_t batch, const Shape& shape, int threads, const Fn& fn) {
  const bool small = shape.labels * shape.pixels < 1 << 19;
  if (small && batch >= threads)
    return parallel_for(batch, threads, [&](std::int64_t n) { fn(n, 1); });
  for (std::int64_t n = 0; n < batch; ++n) fn(n, threads);
}

std::int64_t forward(const Image* images, std::int64_t batch, const Shape& shape, int threads) {
  Buffer<bool> good(batch);
  each_image(batch, shape, threads,
             [&](std::int64_t n, int inner) { good[n] = Forward(images[n], shape, inner).run(); });
  for (std::int64_t n = 0; n < batch; ++n)
    if (!good[n]) return n;
  return -1;
}

void backward(const Image* images, const Gradients* gradients, std::int64_t batch,
              const Shape& shape, int threads) {
  each_image(batch, shape, threads, [&](std::int64_t n, int inner) {
    Backward(images[n], gradients[n], shape, inner).run();
  });
}

bool negate(const float* energies, float* logits, std::int64_t count, int threads) {
  const std::int64_t task_size = 1 << 16, tasks = (count + task_size - 1) / task_size;
  Buffer<bool> good(tasks);
  parallel_for(tasks, threads, [&](std::int64_t task) {
    ivec<float> finite = ~ivec<float>{};
    const std::int64_t end = std::min(count, (task + 1) * task_size);
    for (std::int64_t i = task * task_size; i < end; i += kLanes<float>) {
      const vec<float> v = -load_lanes(energies + i, end - i);
      finite &= v - v == 0.0f;
      store_lanes(logits + i, v, end - i);
    }
    good[task] = !any<float>(~finite);
  });
  return std::all_of(good.get(), good.get() + tasks, [](bool each) { return each; });
}

} // namespace

const CpuKernels kernels{saved_floats, forward, backward, negate};

} // namespace fastseg::mean_field::FASTSEG_CPU_LEVEL
