// CUDA twin: the labels of common/argmax_tiles_cuda.h.
#include "upsample_argmax/upsample_argmax.h"

#include "common/argmax_tiles_cuda.h"

namespace fastseg::upsample_argmax::cuda {
namespace {

template <class Storage, class Label>
__global__ void __launch_bounds__(kTileThreads, sizeof(compute_t<Storage>) == 8 ? 1 : 3)
    upsample_argmax_fwd_kernel(const LogitTiles<Storage> p, Label* labels) {
  using T = compute_t<Storage>;
  FASTSEG_SHARED(memory, TileMemory<T>);
  BlockTiles<Storage> block(p, memory, tile_place(p));
  const TileArgmax<T> found = tile_argmax(block);
  store_pixels(block, labels, [&](int r, int k) { return static_cast<Label>(found.label[r][k]); });
}

template <class Storage, class Label>
void forward_typed(const Storage* logits, Label* labels, const Shape& s, std::uintptr_t stream) {
  const auto p = logit_tiles("upsample_argmax", logits, s);
  launch("upsample_argmax", upsample_argmax_fwd_kernel<Storage, Label>,
         s.batch * p.block_rows * p.block_columns, kTileThreads, 0, stream, p, labels);
}

} // namespace

void forward(DType dtype, LabelType label_type, const void* logits, void* labels, const Shape& s,
             std::uintptr_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const auto* source = static_cast<const Storage*>(logits);
    if (label_type == LabelType::uint8)
      forward_typed(source, static_cast<std::uint8_t*>(labels), s, stream);
    else if (label_type == LabelType::int32)
      forward_typed(source, static_cast<std::int32_t*>(labels), s, stream);
    else
      throw std::invalid_argument("fastseg: labels are uint8 or int32");
  });
}

} // namespace fastseg::upsample_argmax::cuda
