// CPU twin. Both layouts are one case: NCHW is N * C images of one channel, channels_last is N
// images of C channels side by side (struct Images). The cuts of both axes (class Segments) divide
// an image into atoms [row segment, column segment]; every cell is a rectangle of whole atoms.
//
// forward: each pixel is added to its atom once, each cell sums its atoms. backward: each atom sums
// its cells, and its pixels are written once. Sums have one order whatever the split into tasks.
#include "pyramid_pool/pyramid_pool.h"

#include "pyramid_pool/pyramid_pool_backward_cpu.h"
#include "pyramid_pool/pyramid_pool_forward_cpu.h"

namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL {
namespace {

void forward(DType dtype, const void* x, void* out, const Shape& shape, const Bins& bins,
             int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const Images images(shape, sizeof(Storage));
    Forward<Storage>(static_cast<const Storage*>(x), static_cast<Storage*>(out), images, bins)
        .run(threads);
  });
}

void backward(DType dtype, const void* grad_out, void* grad_x, const Shape& shape, const Bins& bins,
              int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const Images images(shape, sizeof(Storage));
    Backward<Storage>(static_cast<const Storage*>(grad_out), static_cast<Storage*>(grad_x), images,
                      bins)
        .run(threads);
  });
}

} // namespace

const CpuKernels kernels{forward, backward};

} // namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL
