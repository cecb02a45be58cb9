// The gradients (see deformable_attention_cuda.h). Nothing is scattered: points are binned by the
// cell that their place begins in, sorted by bin (stably, so in the order of the queries), and
// every cell gathers the points of the four bins that reach it.
#include "deformable_attention/deformable_attention_cuda.h"

namespace fastseg::deformable_attention::cuda {
namespace {

constexpr int kWarp = 32;

FASTSEG_DEVICE int bin_of(const Maps& m, const Maps::Level& level, int image, int head, int y,
                          int x) {
  return (image * m.heads + head) * m.bins_of_head + level.bins + (y + 1) * (level.width + 1) + x +
         1;
}

// A warp has a query's head: its lanes share the channels.
template <class Storage>
__global__ void __launch_bounds__(kThreads)
    deformable_attention_bwd_points_kernel(const Storage* grad_out, const Storage* value,
                                           const compute_t<Storage>* locations,
                                           const compute_t<Storage>* weights,
                                           compute_t<Storage>* grad_locations,
                                           compute_t<Storage>* grad_weights, int* bin,
                                           const int outside, const Maps m) {
  using T = compute_t<Storage>;
  const std::int64_t warp =
      std::int64_t(blockIdx.x) * (kThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (warp >= m.query_heads) return;
  const int at = static_cast<int>(warp), query = m.by_heads.quotient(at);
  const int image = m.by_queries.quotient(query), head = m.by_heads.remainder(at, query);
  const std::int64_t row = std::int64_t(m.heads) * m.channels;
  value += image * (m.cells * row) + head * m.channels;
  grad_out += warp * m.channels;
  std::int64_t point = warp * (m.count * m.points);
  for (int l = 0; l < m.count; ++l) {
    const Maps::Level level = m.level[l];
    for (int p = 0; p < m.points; ++p, ++point) {
      const T weight = load(weights + point);
      const auto here = place(load(locations + 2 * point), load(locations + 2 * point + 1),
                              level.height, level.width);
      const Storage* const corner =
          value + (level.begin + std::int64_t(here.y) * level.width + here.x) * row;
      T dot[4] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int y = here.y + k / 2, x = here.x + k % 2;
        if (!here.reached || y < 0 || y >= level.height || x < 0 || x >= level.width) continue;
        const Storage* const cell = corner + (k / 2 * std::int64_t(level.width) + k % 2) * row;
        for (int d = lane; d < m.channels; d += kWarp)
          dot[k] += to_compute(load(grad_out + d)) * to_compute(load(cell + d));
      }
      const T up = T(1) - here.down, left = T(1) - here.right;
      T of_weight = up * (left * dot[0] + here.right * dot[1]) +
                    here.down * (left * dot[2] + here.right * dot[3]);
      T of_x = up * (dot[1] - dot[0]) + here.down * (dot[3] - dot[2]);
      T of_y = left * (dot[2] - dot[0]) + here.right * (dot[3] - dot[1]);
#pragma unroll
      for (int other = kWarp / 2; other > 0; other /= 2) {
        of_weight += __shfl_xor_sync(0xffffffffu, of_weight, other);
        of_x += __shfl_xor_sync(0xffffffffu, of_x, other);
        of_y += __shfl_xor_sync(0xffffffffu, of_y, other);
      }
      if (lane != 0) continue;
      grad_weights[point] = of_weight + here.poison;
      grad_locations[2 * point] = weight * static_cast<T>(level.width) * of_x + here.poison;
      grad_locations[2 * point + 1] = weight * static_cast<T>(level.height) * of_y + here.poison;
      bin[point] = here.reached ? bin_of(m, level, image, head, here.y, here.x) : outside;
    }
  }
}

template <class Storage, int kItems>
__global__ void __launch_bounds__(kThreads)
    deformable_attention_bwd_value_kernel(const Storage* grad_out,
                                          const compute_t<Storage>* locations,
                                          const compute_t<Storage>* weights,
                                          const std::int64_t* sorted, const std::int64_t* begins,
                                          Storage* grad_value, const Maps m, const Block b) {
  using T = compute_t<Storage>;
  for_each_channel<kItems>(b, m.cell_heads, m.channels, [&](int at, int channel) {
    const int of_images = m.by_heads.quotient(at), head = m.by_heads.remainder(at, of_images);
    const int image = m.by_cells.quotient(of_images);
    const int cell = m.by_cells.remainder(of_images, image);
    int l = m.count - 1;
    while (cell < m.level[l].begin) --l;
    const Maps::Level level = m.level[l];
    const int y = (cell - level.begin) / level.width, x = cell - level.begin - y * level.width;
    T sum[kItems] = {};
#pragma unroll 1
    for (int k = 0; k < 4; ++k) {
      const int dy = k / 2, dx = k % 2;
      const int bin = bin_of(m, level, image, head, y - dy, x - dx);
      const int end = static_cast<int>(begins[bin + 1]);
      for (int i = static_cast<int>(begins[bin]); i < end; ++i) {
        const int point = static_cast<int>(sorted[i]);
        const auto here =
            place(load(locations + 2 * std::int64_t(point)),
                  load(locations + 2 * std::int64_t(point) + 1), level.height, level.width);
        const T factor = load(weights + point) * (dy == 1 ? here.down : T(1) - here.down) *
                         (dx == 1 ? here.right : T(1) - here.right);
        const std::int64_t from = m.by_points.quotient(point);
        const auto grad = load_items<kItems>(grad_out + from * m.channels + channel);
#pragma unroll
        for (int j = 0; j < kItems; ++j) sum[j] += to_compute(grad.v[j]) * factor;
      }
    }
    store_items<kItems>(grad_value + std::int64_t(at) * m.channels + channel, sum);
  });
}

template <int kItems, class Storage, class T>
void launch_value(const Storage* grad_out, const T* locations, const T* weights,
                  const std::int64_t* sorted, const std::int64_t* begins, Storage* grad_value,
                  const Shape& s, const Levels& levels, std::uintptr_t stream) {
  const Maps m = maps(s, levels);
  const Block b = block<kItems>(s.channels);
  launch("deformable_attention_backward", deformable_attention_bwd_value_kernel<Storage, kItems>,
         ceil_div(m.cell_heads, b.rows), kThreads, 0, stream, grad_out, locations, weights, sorted,
         begins, grad_value, m, b);
}

} // namespace

std::int64_t bins(const Shape& shape, const Levels& levels) {
  std::int64_t of_head = 0;
  for (std::int64_t l = 0; l < levels.count; ++l)
    if (levels.heights[l] * levels.widths[l] > 0)
      of_head += (levels.heights[l] + 1) * (levels.widths[l] + 1);
  return shape.batch * shape.heads * of_head + 1;
}

void backward_points(DType dtype, const void* grad_out, const void* value, const void* locations,
                     const void* weights, void* grad_locations, void* grad_weights, void* bin,
                     const Shape& shape, const Levels& levels, std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    using T = compute_t<Storage>;
    launch("deformable_attention_backward", deformable_attention_bwd_points_kernel<Storage>,
           ceil_div(shape.batch * shape.queries * shape.heads, kThreads / kWarp), kThreads, 0,
           stream, static_cast<const Storage*>(grad_out), static_cast<const Storage*>(value),
           static_cast<const T*>(locations), static_cast<const T*>(weights),
           static_cast<T*>(grad_locations), static_cast<T*>(grad_weights), static_cast<int*>(bin),
           static_cast<int>(bins(shape, levels) - 1), maps(shape, levels));
  });
}

void backward_value(DType dtype, const void* grad_out, const void* locations, const void* weights,
                    const void* sorted, const void* begins, void* grad_value, const Shape& shape,
                    const Levels& levels, std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    using T = compute_t<Storage>;
    const auto run = [&](auto launcher) {
      launcher(static_cast<const Storage*>(grad_out), static_cast<const T*>(locations),
               static_cast<const T*>(weights), static_cast<const std::int64_t*>(sorted),
               static_cast<const std::int64_t*>(begins), static_cast<Storage*>(grad_value), shape,
               levels, stream);
    };
    if (has_packs<Storage>(shape, grad_out, grad_value))
      run(launch_value<kPack<Storage>, Storage, T>);
    else
      run(launch_value<1, Storage, T>);
  });
}

} // namespace fastseg::deformable_attention::cuda
