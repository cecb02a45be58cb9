// Forward of the CUDA twin (see upsample_class_sums_cuda.h): sums over the pixels of a block, then
// over the blocks of an image, in a fixed order.
#include "upsample_class_sums/upsample_class_sums_cuda.h"

namespace fastseg::upsample_class_sums::cuda {
namespace {

constexpr int kWarps = kThreads / 32;
constexpr int kClasses = 4; // between two barriers

template <class Storage>
__global__ void __launch_bounds__(kThreads, sizeof(compute_t<Storage>) == 8 ? 1 : 2)
    upsample_class_sums_fwd_kernel(const Problem<Storage> p, std::int64_t blocks) {
  using T = compute_t<Storage>;
  FASTSEG_SHARED(sums, double[kClasses][kSums][kWarps]);
  const Division place = divide(blockIdx.x, blocks);
  const std::int64_t plane = p.s.out_h * p.s.out_w;
  const int classes = static_cast<int>(p.s.classes), kept = static_cast<int>(p.a.kept);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  Pixel<T> pixels[kPixels];
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    const std::int64_t at = (place.remainder * kPixels + i) * kThreads + thread;
    pixels[i].label = -1;
    if (at >= plane) continue;
    const Division row = divide(at, p.s.out_w);
    pixels[i] = pixel_at(p, place.quotient, static_cast<int>(row.quotient),
                         static_cast<int>(row.remainder));
    if (pixels[i].label != -2) continue;
    pixels[i].weight = T(NAN);
    if (p.bad != nullptr) atomicMin(p.bad, static_cast<long long>(pixels[i].at));
  }
  for (int first = 0; first < classes; first += kClasses) {
    const int count = min(kClasses, classes - first);
    for (int j = 0; j < count; ++j) {
      T own[kSums] = {};
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        if (pixels[i].label == -1) continue;
        const Element<T> e = element(p, pixels[i], first + j);
        if (!e.counts) continue;
        T weight = pixels[i].weight;
        if (e.bad) {
          weight = T(NAN);
          if (p.bad != nullptr)
            atomicMin(p.bad, static_cast<long long>(value_index(p, pixels[i], first + j)));
        }
#pragma unroll
        for (int k = 0; k < kSums; ++k)
          if (p.a.slots[k] >= 0) own[k] += weight * term(p, k, e);
      }
#pragma unroll
      for (int k = 0; k < kSums; ++k) {
        if (p.a.slots[k] < 0) continue;
        double sum = static_cast<double>(own[k]);
        for (int lanes = 16; lanes > 0; lanes /= 2)
          sum += __shfl_down_sync(0xffffffffu, sum, lanes);
        if (lane == 0) sums[j][p.a.slots[k]][warp] = sum;
      }
    }
    __syncthreads();
    for (int i = thread; i < count * kept; i += kThreads) {
      const int slot = i / count, j = i % count;
      double sum = 0.0;
      for (int w = 0; w < kWarps; ++w) sum += sums[j][slot][w];
      p.w.partials[(static_cast<std::int64_t>(blockIdx.x) * kept + slot) * classes + first + j] =
          sum;
    }
    __syncthreads(); // the sums are free
  }
}

template <class Storage>
__global__ void __launch_bounds__(kThreads)
    upsample_class_sums_fwd_total_kernel(const Problem<Storage> p, std::int64_t blocks) {
  const std::int64_t each = p.a.kept * p.s.classes;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.s.batch * each) return;
  const Division place = divide(i, each);
  double sum = 0.0;
  for (std::int64_t b = 0; b < blocks; ++b)
    sum += p.w.partials[(place.quotient * blocks + b) * each + place.remainder];
  p.a.sums[i] = sum;
}

template <class Storage> void forward_typed(const Problem<Storage>& p, std::uintptr_t stream) {
  const std::int64_t blocks = blocks_per_image(p.s);
  prepare(p, stream);
  launch("upsample_class_sums", upsample_class_sums_fwd_kernel<Storage>, p.s.batch * blocks,
         kThreads, 0, stream, p, blocks);
  launch("upsample_class_sums total", upsample_class_sums_fwd_total_kernel<Storage>,
         ceil_div(p.s.batch * p.a.kept * p.s.classes, kThreads), kThreads, 0, stream, p, blocks);
}

} // namespace

void forward(DType dtype, const Arguments& a, const Shape& s, void* workspace, std::int64_t* bad,
             std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    forward_typed(problem<typename decltype(tag)::type>(a, s, workspace, bad), stream);
  });
}

} // namespace fastseg::upsample_class_sums::cuda
