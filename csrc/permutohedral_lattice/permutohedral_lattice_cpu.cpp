// Construction on the CPU: packed keys where they hold the features, wide ones elsewhere.
#include "permutohedral_lattice/permutohedral_lattice.h"

#include "common/scratch_cpu.h"
#include "permutohedral_lattice/packed_lattice_cpu.h"
#include "permutohedral_lattice/wide_lattice_cpu.h"

namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL {
namespace {

// Calls fn(integral_constant<D>) for 1 to kMaxPackedFeatures features. False: there are more.
template <int D = 1, class Fn> bool dispatch_features(int features, const Fn& fn) {
  if constexpr (D <= kMaxPackedFeatures) {
    if (features != D) return dispatch_features<D + 1>(features, fn);
    fn(std::integral_constant<int, D>{});
    return true;
  }
  return false;
}

template <class Fn> void dispatch_compute(DType dtype, const Fn& fn) {
  if (dtype == DType::float64) return fn(TypeTag<double>{});
  fn(TypeTag<float>{});
}

void release(Lattice& lattice) {
  give_scratch(lattice.rows);
  give_scratch(lattice.weights);
  give_scratch(lattice.neighbours);
  lattice = Lattice{};
}

template <class T, int D, class Features>
Status build_packed(const Features& features, std::int64_t pixels, int threads, Lattice& lattice,
                    std::int64_t* bad_pixel) {
  return PackedBuilder<T, D, Features>(features, pixels, threads, lattice).run(bad_pixel);
}

template <class T>
Status build_wide(const T* features, int count, std::int64_t pixels, int threads, Lattice& lattice,
                  std::int64_t* bad_pixel) {
  release(lattice); // what the packed construction left
  return WideBuilder<T>(features, count, pixels, threads, lattice).run(bad_pixel);
}

template <class T>
Status build_any(const T* features, int count, std::int64_t pixels, int threads, Lattice& lattice,
                 std::int64_t* bad_pixel) {
  Status status = Status::out_of_range;
  dispatch_features(count, [&](auto packed) {
    const StoredFeatures<T, packed()> stored{features, pixels};
    status = build_packed<T, packed()>(stored, pixels, threads, lattice, bad_pixel);
  });
  if (status == Status::ok) return status;
  return build_wide<T>(features, count, pixels, threads, lattice, bad_pixel);
}

Status build(DType dtype, const void* features, std::int64_t batch, int feature_count,
             std::int64_t pixels, int threads, Lattice* const* lattices, BadFeature* bad) {
  // One image after the other, in all threads: an image per thread was not measured to be faster.
  for (std::int64_t n = 0; n < batch; ++n) {
    std::int64_t bad_pixel = -1;
    Status status = Status::ok;
    dispatch_compute(dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* own = static_cast<const T*>(features) + n * feature_count * pixels;
      status = build_any<T>(own, feature_count, pixels, threads, *lattices[n], &bad_pixel);
    });
    if (status == Status::ok) continue;
    *bad = {n, bad_pixel};
    for (std::int64_t m = 0; m <= n; ++m) release(*lattices[m]);
    return status;
  }
  return Status::ok;
}

template <int D>
Status build_image_of(const ImageFeatures& image, int threads, Lattice& lattice,
                      std::int64_t* bad_pixel) {
  const PixelFeatures<D> made{image};
  const std::int64_t pixels = image.height * image.width;
  const Status status = build_packed<float, D>(made, pixels, threads, lattice, bad_pixel);
  if (status == Status::ok) return status;
  Scratch<float> features(D * pixels); // widths far below a pixel or a grey level
  Strip<float, D> strip;
  for (std::int64_t first = 0; first < pixels; first += kStrip) {
    const std::int64_t count = std::min(kStrip, pixels - first);
    const View<float> view = made.of(first, count, strip);
    for (int i = 0; i < D; ++i)
      std::copy_n(view.values + i * view.stride, count, features.get() + i * pixels + first);
  }
  return build_wide<float>(features.get(), D, pixels, threads, lattice, bad_pixel);
}

Status build_image(const ImageFeatures& image, int threads, Lattice* lattice, BadFeature* bad) {
  std::int64_t bad_pixel = -1;
  const Status status = image.channels == 3
                            ? build_image_of<5>(image, threads, *lattice, &bad_pixel)
                            : build_image_of<2>(image, threads, *lattice, &bad_pixel);
  if (status != Status::ok) {
    *bad = {0, bad_pixel};
    release(*lattice);
  }
  return status;
}

// The adjoint of features -> weights for the pixels of one block.
template <class T>
void backward_block(SimplexFinder<T>& finder, const T* features, std::int64_t pixels,
                    std::int64_t count, const T* grad_weights, T* grad_features) {
  for (std::int64_t p = 0; p < count; ++p) {
    finder.find(features + p, pixels);
    finder.backward(grad_weights + p, kBlock, grad_features + p, pixels);
  }
}

template <class T>
void backward_of(const T* features, int feature_count, std::int64_t pixels, const T* grad_weights,
                 T* grad_features, int threads) {
  const std::int64_t blocks = (pixels + kBlock - 1) / kBlock;
  parallel_for((blocks + 63) / 64, threads, [&](std::int64_t task) {
    SimplexFinder<T> finder(feature_count);
    const auto each_block = [&](const auto& block) {
      for (std::int64_t b = task * 64; b < std::min(task * 64 + 64, blocks); ++b)
        block(b * kBlock, std::min(kBlock, pixels - b * kBlock),
              grad_weights + b * (feature_count + 1) * kBlock);
    };
    const bool packed = dispatch_features(feature_count, [&](auto count) {
      constexpr int D = count();
      T scales[D];
      axis_scales<T>(D, scales);
      Simplices<T, D> found;
      each_block([&](std::int64_t first, std::int64_t n, const T* grad) {
        find_simplices<T, D>(features + first, pixels, n, scales, found);
        if (found.in_range)
          backward_simplices<T, D>(found, grad, n, scales, grad_features + first, pixels);
        else
          backward_block(finder, features + first, pixels, n, grad, grad_features + first);
      });
    });
    if (packed) return;
    each_block([&](std::int64_t first, std::int64_t n, const T* grad) {
      backward_block(finder, features + first, pixels, n, grad, grad_features + first);
    });
  });
}

void backward(DType dtype, const void* features, int feature_count, std::int64_t pixels,
              const void* grad_weights, void* grad_features, int threads) {
  dispatch_compute(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    backward_of<T>(static_cast<const T*>(features), feature_count, pixels,
                   static_cast<const T*>(grad_weights), static_cast<T*>(grad_features), threads);
  });
}

} // namespace

const CpuKernels kernels{build, build_image, backward};

} // namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL
