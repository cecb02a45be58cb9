// What the two directions of the CUDA twin share.
#pragma once

#include <algorithm>

#include "common/cuda_launch.h"
#include "common/cuda_vector.h"
#include "common/divider.h"
#include "deformable_attention/deformable_attention.h"
#include "deformable_attention/deformable_attention_math.h"

namespace fastseg::deformable_attention::cuda {

inline constexpr int kThreads = 256;

// Travels as a kernel argument. The heads of all queries, those of all cells and the points are
// each fewer than 2^31.
struct Maps {
  int count, points, heads, channels, cells;
  int query_heads, cell_heads; // of all images
  struct Level {
    int height, width;
    int begin; // of its cells
    int bins;  // where those of its points begin, of an image's head
  } level[kMaxLevels];
  int bins_of_head;
  Divider by_heads, by_queries, by_cells, by_points;
};

inline Maps maps(const Shape& s, const Levels& levels) {
  const auto number = [](std::int64_t n) {
    if (n > 0x7fffffff)
      throw std::invalid_argument("fastseg: deformable_attention: the tensors are too large");
    return static_cast<int>(n);
  };
  if (levels.count > kMaxLevels)
    throw std::invalid_argument("fastseg: deformable_attention: too many levels");
  Maps m{};
  m.count = number(levels.count);
  m.points = number(s.points);
  m.heads = number(s.heads);
  m.channels = number(s.channels);
  m.cells = number(s.cells);
  m.query_heads = number(s.batch * s.queries * s.heads);
  m.cell_heads = number(s.batch * s.cells * s.heads);
  number(s.batch * s.queries * s.heads * levels.count * s.points);
  number(bins(s, levels));
  int begin = 0;
  for (int l = 0; l < m.count; ++l) {
    const std::int64_t height = levels.heights[l], width = levels.widths[l];
    m.level[l] = {number(height), number(width), begin, m.bins_of_head};
    begin += number(height * width);
    // A place may begin one row above and one column left of the map.
    if (height * width > 0) m.bins_of_head += number((height + 1) * (width + 1));
  }
  m.by_heads = Divider(s.heads);
  m.by_queries = Divider(s.queries);
  m.by_cells = Divider(std::max<std::int64_t>(s.cells, 1));
  m.by_points = Divider(levels.count * s.points);
  return m;
}

// A block has some heads of queries or cells; threads side by side have a head's channels, kItems
// neighbours each.
struct Block {
  int lanes, rows;
};
template <int kItems> Block block(std::int64_t channels) {
  const int lanes = static_cast<int>(std::min<std::int64_t>(channels / kItems, kThreads));
  return {lanes, kThreads / lanes};
}
// Calls fn(head, channel) for the channels of a thread.
template <int kItems, class Fn>
FASTSEG_DEVICE void for_each_channel(const Block& b, int heads, int channels, const Fn& fn) {
  const int row = static_cast<int>(threadIdx.x) / b.lanes;
  const std::int64_t head = std::int64_t(blockIdx.x) * b.rows + row;
  if (row >= b.rows || head >= heads) return;
  for (int c = (static_cast<int>(threadIdx.x) - row * b.lanes) * kItems; c < channels;
       c += b.lanes * kItems)
    fn(static_cast<int>(head), c);
}

// Whether a thread can have 16 bytes of neighbouring channels.
template <class Storage> bool has_packs(const Shape& s, const void* a, const void* b) {
  return s.channels % kPack<Storage> == 0 && is_aligned_16(a) && is_aligned_16(b);
}

} // namespace fastseg::deformable_attention::cuda
