// Weighted sums of values at the places of a query (see deformable_attention_cuda.h).
#include "deformable_attention/deformable_attention_cuda.h"

namespace fastseg::deformable_attention::cuda {
namespace {

// The threads of a head read the same locations and weights: one load for all of them.
template <class Storage, int kItems>
__global__ void __launch_bounds__(kThreads, 4)
    deformable_attention_fwd_kernel(const Storage* value, const compute_t<Storage>* locations,
                                    const compute_t<Storage>* weights, Storage* out, const Maps m,
                                    const Block b) {
  using T = compute_t<Storage>;
  const std::int64_t row = std::int64_t(m.heads) * m.channels;
  for_each_channel<kItems>(b, m.query_heads, m.channels, [&](int head, int channel) {
    const int query = m.by_heads.quotient(head);
    const Storage* const values = value + m.by_queries.quotient(query) * (m.cells * row) +
                                  m.by_heads.remainder(head, query) * m.channels + channel;
    int point = head * (m.count * m.points);
    T sum[kItems] = {};
    for (int l = 0; l < m.count; ++l) {
      const Maps::Level level = m.level[l];
      for (int p = 0; p < m.points; ++p, ++point) {
        const T weight = load(weights + point);
        const auto here =
            place(load(locations + 2 * std::int64_t(point)),
                  load(locations + 2 * std::int64_t(point) + 1), level.height, level.width);
        if (!here.reached) {
          const T poison = weight * T(0) + here.poison;
#pragma unroll
          for (int i = 0; i < kItems; ++i) sum[i] += poison;
          continue;
        }
        const Storage* const corner =
            values + (level.begin + std::int64_t(here.y) * level.width + here.x) * row;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int dy = k / 2, dx = k % 2;
          if (here.y + dy < 0 || here.y + dy >= level.height || here.x + dx < 0 ||
              here.x + dx >= level.width)
            continue;
          const T factor = weight * (dy == 1 ? here.down : T(1) - here.down) *
                           (dx == 1 ? here.right : T(1) - here.right);
          const auto cell =
              load_items<kItems>(corner + (dy * std::int64_t(level.width) + dx) * row);
#pragma unroll
          for (int i = 0; i < kItems; ++i) sum[i] += to_compute(cell.v[i]) * factor;
        }
      }
    }
    store_items<kItems>(out + std::int64_t(head) * m.channels + channel, sum);
  });
}

template <int kItems, class Storage, class T>
void launch_typed(const Storage* value, const T* locations, const T* weights, Storage* out,
                  const Shape& s, const Levels& levels, std::uintptr_t stream) {
  const Maps m = maps(s, levels);
  const Block b = block<kItems>(s.channels);
  launch("deformable_attention", deformable_attention_fwd_kernel<Storage, kItems>,
         ceil_div(m.query_heads, b.rows), kThreads, 0, stream, value, locations, weights, out, m,
         b);
}

} // namespace

void forward(DType dtype, const void* value, const void* locations, const void* weights, void* out,
             const Shape& shape, const Levels& levels, std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    using T = compute_t<Storage>;
    const auto run = [&](auto launcher) {
      launcher(static_cast<const Storage*>(value), static_cast<const T*>(locations),
               static_cast<const T*>(weights), static_cast<Storage*>(out), shape, levels, stream);
    };
    if (has_packs<Storage>(shape, value, out))
      run(launch_typed<kPack<Storage>, Storage, T>);
    else
      run(launch_typed<1, Storage, T>);
  });
}

} // namespace fastseg::deformable_attention::cuda
