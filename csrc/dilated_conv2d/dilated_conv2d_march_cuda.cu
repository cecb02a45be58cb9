// 3x3 kernels with stride 1, both directions (see dilated_conv2d_cuda.h).
//
// Rows that lie `dilation` apart form a sequence. A thread goes down one sequence of one column: a
// source row serves the three targets that read it while it is in registers, so that a source is
// loaded three times (as left, middle and right column; L1 and L2 hold it in between) and not nine.
// Rows and columns in the padding are neither loaded nor multiplied.
//
// Few registers are left for loads ahead. So a thread also asks for the sources of its next
// sequence, which then come from the L2 cache.
#include "dilated_conv2d/dilated_conv2d_cuda.h"

namespace fastseg::dilated_conv2d::cuda {
namespace {

// Targets read as in a forward pass: row y reads the rows y - padding + t * dilation. All of it
// fits in 32 bits (marches()).
struct March {
  int target_h, target_w, source_h, source_w;
  int padding_h, padding_w, dilation_h, dilation_w;
  int residues, rows;                   // Sequences
  int step, column_step;                // a pixel; `dilation` columns
  int source_row_step, target_row_step; // `dilation` rows
  std::int64_t source_pixels, target_pixels;
  bool flip; // the backward is a convolution with the flipped kernel
  bool same; // sources and targets are the same pixels, each its own middle tap
};

// One column of one sequence. Offsets are from the image's first pixel.
struct Item {
  int count;                // targets
  int source_row;           // the first
  int source_column;        // of the left tap
  int source_at, target_at; // offsets of the first
  FASTSEG_DEVICE Item(const March& m, std::int64_t work) {
    const Division at = divide(work, m.target_w);
    const Division sequence = divide(at.quotient, m.residues);
    const int column = static_cast<int>(at.remainder);
    const int row =
        static_cast<int>(sequence.remainder + sequence.quotient * m.rows * m.dilation_h);
    const int left = m.target_h - row;
    count = left <= 0 ? 0 : min(m.rows, (left - 1) / m.dilation_h + 1);
    source_row = row - m.padding_h;
    source_column = column - m.padding_w;
    source_at = (source_row * m.source_w + source_column) * m.step;
    target_at = (row * m.target_w + column) * m.step;
  }
};

FASTSEG_DEVICE bool in_range(int i, int n) {
  return static_cast<unsigned>(i) < static_cast<unsigned>(n);
}

template <class Storage, int kItems, bool kWeight>
__global__ void __launch_bounds__(kThreads, 2)
    dilated_conv2d_fwd_bwd_march_kernel(const Sweep<Storage> p, const March m) {
  using T = compute_t<Storage>;
  using Values = Items<Storage, kItems>;
  FASTSEG_SHARED(staged, T[kTaps * kTileChannels<kItems>]);
  const Place<Storage, kItems> place(p);
  stage_weights(p, place, kTaps, m.flip, staged);
  __syncthreads();
  T weight[kTaps][kItems], start[kItems];
  T sums[kWeight ? kSums : 1][kItems] = {};
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap)
      weight[tap][k] = staged[tap * kTileChannels<kItems> + place.lane * kItems + k];
    start[k] = 0;
    if (!kWeight && p.bias != nullptr && place.active)
      start[k] = to_compute(load(p.bias + place.channel + k));
  }

  const Storage* source = p.source + place.offset(m.source_pixels);
  const Storage* partner = kWeight ? p.partner + place.offset(m.target_pixels) : nullptr;
  Storage* target = p.target == nullptr ? nullptr : p.target + place.offset(m.target_pixels);
  const std::int64_t end = place.active ? place.end(p) : 0;
  for (std::int64_t work = place.begin(p); work < end; work += place.workers) {
    Item item(m, work);
    if (item.count == 0) continue;
    bool inside[3]; // the columns
#pragma unroll
    for (int t = 0; t < 3; ++t)
      inside[t] = in_range(item.source_column + t * m.dilation_w, m.source_w);
    // What the next sequence begins with; count 0: there is none.
    Item next(m, min(work + place.workers, end - 1));
    next.source_column += m.dilation_w;
    next.source_at += m.column_step;
    if (work + place.workers >= end || !in_range(next.source_column, m.source_w)) next.count = -2;

    Values line[3] = {}, next_line[3] = {}, next_partner{};
    const auto read_ahead = [&](int j) { // line j, and the partner of target j
      if (in_range(item.source_row + j * m.dilation_h, m.source_h)) {
#pragma unroll
        for (int t = 0; t < 3; ++t)
          if (inside[t])
            next_line[t] = load_items<kItems>(source + item.source_at + j * m.source_row_step +
                                              t * m.column_step);
      }
      if (kWeight && j < item.count)
        next_partner = load_items<kItems>(partner + item.target_at + j * m.target_row_step);
    };
    // Sums of the targets j - 2, j - 1 and j, and their partners.
    T target_sums[3][kItems] = {}, partners[kWeight ? 3 : 1][kItems] = {};
    read_ahead(0);
#pragma unroll 1 // for want of registers
    for (int j = 0; j < item.count + 2; ++j) {
#pragma unroll
      for (int t = 0; t < 3; ++t) line[t] = next_line[t];
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        target_sums[2][k] = start[k];
        if (kWeight)
          partners[kWeight ? 2 : 0][k] = j < item.count ? to_compute(next_partner.v[k]) : T(0);
      }
      if (j < item.count + 1) read_ahead(j + 1); // in flight while line j is used
      if (j < next.count + 2) {
        if (in_range(next.source_row + j * m.dilation_h, m.source_h))
          prefetch_l2(source + next.source_at + j * m.source_row_step);
        if (kWeight && j < next.count)
          prefetch_l2(partner + next.target_at + j * m.target_row_step);
      }
      if (in_range(item.source_row + j * m.dilation_h, m.source_h)) {
#pragma unroll
        for (int t = 0; t < 3; ++t) {
          if (!inside[t]) continue;
#pragma unroll
          for (int k = 0; k < kItems; ++k) {
            const T value = to_compute(line[t].v[k]);
#pragma unroll
            for (int r = 0; r < 3; ++r) {
              target_sums[2 - r][k] += value * weight[3 * r + t][k];
              if (kWeight)
                sums[kWeight ? 3 * r + t : 0][k] += value * partners[kWeight ? 2 - r : 0][k];
            }
            if (kWeight && t == 1 && m.same && j >= 1 && j <= item.count)
              sums[kWeight ? kTaps : 0][k] += value;
          }
        }
      }
      if (j >= 2 && (!kWeight || target != nullptr))
        store_items<kItems>(target + item.target_at + (j - 2) * m.target_row_step, target_sums[0]);
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        target_sums[0][k] = target_sums[1][k];
        target_sums[1][k] = target_sums[2][k];
        if (kWeight) {
          partners[0][k] = partners[kWeight ? 1 : 0][k];
          partners[kWeight ? 1 : 0][k] = partners[kWeight ? 2 : 0][k];
        }
      }
    }
  }
  if constexpr (kWeight) {
    if (p.sum_sources && !m.same && place.active)
      sum_sources(p, place, m.source_pixels, sums[kTaps]);
    write_partials(p, place, kTaps, sums,
                   [&](int s) { return s < kTaps && m.flip ? kTaps - 1 - s : s; });
  }
}

template <class Storage, int kItems, bool kWeight>
void launch_march(const Sweep<Storage>& p, const March& m, std::uintptr_t stream) {
  launch(kWeight ? "dilated_conv2d 3x3, with weights" : "dilated_conv2d 3x3",
         dilated_conv2d_fwd_bwd_march_kernel<Storage, kItems, kWeight>, blocks(p), p.threads, 0,
         stream, p, m);
}

template <class Storage>
void march_typed(const Sweep<Storage>& p, const Shape& s, Direction direction, int items,
                 std::uintptr_t stream) {
  const Sequences q = sequences(s, direction);
  March m{};
  m.flip = direction == Direction::backward;
  m.target_h = static_cast<int>(m.flip ? s.in_h : s.out_h);
  m.target_w = static_cast<int>(m.flip ? s.in_w : s.out_w);
  m.source_h = static_cast<int>(m.flip ? s.out_h : s.in_h);
  m.source_w = static_cast<int>(m.flip ? s.out_w : s.in_w);
  m.dilation_h = static_cast<int>(s.dilation_h);
  m.dilation_w = static_cast<int>(s.dilation_w);
  m.padding_h = static_cast<int>(m.flip ? 2 * s.dilation_h - s.padding_h : s.padding_h);
  m.padding_w = static_cast<int>(m.flip ? 2 * s.dilation_w - s.padding_w : s.padding_w);
  m.residues = static_cast<int>(q.residues);
  m.rows = static_cast<int>(q.rows);
  m.step = static_cast<int>(s.channels_last ? s.channels : 1);
  m.column_step = m.dilation_w * m.step;
  m.source_row_step = m.dilation_h * m.source_w * m.step;
  m.target_row_step = m.dilation_h * m.target_w * m.step;
  m.source_pixels = std::int64_t(m.source_h) * m.source_w;
  m.target_pixels = std::int64_t(m.target_h) * m.target_w;
  m.same = m.padding_h == m.dilation_h && m.padding_w == m.dilation_w;
  if (p.partials != nullptr)
    items > 1 ? launch_march<Storage, kVectorItems<Storage, true>, true>(p, m, stream)
              : launch_march<Storage, 1, true>(p, m, stream);
  else
    items > 1 ? launch_march<Storage, kVectorItems<Storage, false>, false>(p, m, stream)
              : launch_march<Storage, 1, false>(p, m, stream);
}

} // namespace

void march(const Sweep<float>& p, const Shape& s, Direction direction, int items,
           std::uintptr_t stream) {
  march_typed(p, s, direction, items, stream);
}
void march(const Sweep<double>& p, const Shape& s, Direction direction, int items,
           std::uintptr_t stream) {
  march_typed(p, s, direction, items, stream);
}
void march(const Sweep<bfloat16_t>& p, const Shape& s, Direction direction, int items,
           std::uintptr_t stream) {
  march_typed(p, s, direction, items, stream);
}
void march(const Sweep<float16_t>& p, const Shape& s, Direction direction, int items,
           std::uintptr_t stream) {
  march_typed(p, s, direction, items, stream);
}

} // namespace fastseg::dilated_conv2d::cuda
