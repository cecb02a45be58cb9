// 3x3 kernels with stride 1, both directions (see dilated_conv2d_cuda.h).
//
// Rows that lie `dilation` apart form a sequence. A thread goes down one sequence of one column: a
// source row serves the three targets that read it while it is in registers, so that a source is
// loaded three times (as left, middle and right column; L1 and L2 hold it in between) and not nine.
// Rows and columns in the padding are neither loaded nor multiplied; columns with all three taps in
// the map have a loop of their own, without a branch.
//
// Few registers are left for loads ahead. So a thread also asks for the sources of its next
// sequence, which then come from the L2 cache.
#include "dilated_conv2d/dilated_conv2d_cuda.h"

#include <type_traits>

#include "common/divider.h"

namespace fastseg::dilated_conv2d::cuda {
namespace {

// Targets read as in a forward pass: row y reads the rows y - padding + t * dilation. All of it
// fits in 32 bits (marches()).
struct March {
  int target_h, target_w, source_h, source_w;
  int padding_h, padding_w, dilation_h, dilation_w;
  int rows; // Sequences
  Divider by_width, by_residues, by_dilation;
  int step, column_step;                // a pixel; `dilation` columns
  int source_row_step, target_row_step; // `dilation` rows
  std::int64_t source_pixels, target_pixels;
  bool flip; // the backward is a convolution with the flipped kernel
  bool same; // sources and targets are the same pixels, each its own middle tap
};

// One column of one sequence. Line j is the source row of which target j - 2 reads the last tap,
// j - 1 the middle and j the first. Offsets are from the image's first pixel.
struct Item {
  int count;                // targets
  int first, last;          // lines of the map: first <= j < last; none if first == last
  int source_column;        // of the left tap
  int source_at, target_at; // offsets of line 0 and target 0
  FASTSEG_DEVICE Item(const March& m, int work) {
    const int sequence = m.by_width.quotient(work);
    const int column = m.by_width.remainder(work, sequence);
    const int chunk = m.by_residues.quotient(sequence);
    const int row = m.by_residues.remainder(sequence, chunk) + chunk * m.rows * m.dilation_h;
    const int left = m.target_h - row;
    count = left <= 0 ? 0 : min(m.rows, m.by_dilation.quotient(left - 1) + 1);
    const int source_row = row - m.padding_h, below = m.source_h - source_row;
    source_column = column - m.padding_w;
    source_at = (source_row * m.source_w + source_column) * m.step;
    target_at = (row * m.target_w + column) * m.step;
    last = below <= 0 || count == 0 ? 0 : min(count + 2, m.by_dilation.quotient(below - 1) + 1);
    first = source_row >= 0 ? 0 : m.by_dilation.quotient(m.dilation_h - 1 - source_row);
    first = min(first, last);
  }
  // Goes `columns` to the right in the same rows, if there are so many.
  FASTSEG_DEVICE bool moves(const March& m, int columns) {
    if (source_column + columns + m.padding_w >= m.target_w) return false;
    source_column += columns;
    source_at += columns * m.step;
    target_at += columns * m.step;
    return true;
  }
};

FASTSEG_DEVICE bool in_range(int i, int n) {
  return static_cast<unsigned>(i) < static_cast<unsigned>(n);
}

template <class Storage, int kItems, bool kWeight>
__global__ void __launch_bounds__(kThreads, 2)
    dilated_conv2d_fwd_bwd_march_kernel(const Sweep<Storage> p, const March m) {
  using T = compute_t<Storage>;
  using Values = RawItems<Storage, kItems>;
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

  const Storage* source = kept_whole(p.source + place.offset(m.source_pixels));
  const Storage* partner =
      kWeight ? kept_whole(p.partner + place.offset(m.target_pixels)) : nullptr;
  const bool stores = !kWeight || p.target != nullptr;
  Storage* target = stores ? p.target + place.offset(m.target_pixels) : p.target;
  target = kept_whole(target);
  const int end = place.active ? static_cast<int>(place.end(p)) : 0;
  const int begin = static_cast<int>(place.begin(p));
  if (begin < end) {
    Item next(m, begin);
    for (int work = begin; work < end; work += place.workers) {
      const Item item = next;
      const bool has_next = work + place.workers < end;
      if (has_next && !next.moves(m, place.workers)) next = Item(m, work + place.workers);
      if (item.count == 0) continue;

      // Sums of the targets j - 2, j - 1 and j, and their partners.
      T target_sums[3][kItems], partners[kWeight ? 3 : 1][kItems] = {};
#pragma unroll
      for (int k = 0; k < kItems; ++k)
        target_sums[0][k] = target_sums[1][k] = target_sums[2][k] = start[k];
      Values next_partner{};
      // Addresses are offsets of 32 bits, which a load adds in one instruction. Behind the last row
      // the last is read again, into registers that a branch would have to be merged with.
      int partner_at = item.target_at;
      const auto read_partner = [&](int j) {
        if constexpr (kWeight) next_partner.read(partner + partner_at);
        partner_at += j + 1 < item.count ? m.target_row_step : 0;
      };
      const auto take_partner = [&](int j) {
        if constexpr (kWeight) {
#pragma unroll
          for (int k = 0; k < kItems; ++k)
            partners[2][k] = j < item.count ? next_partner.value(k) : T(0);
        }
      };
      int stored = item.target_at - 2 * m.target_row_step; // target j - 2
      const int first_stored = kWeight ? kept_whole(stores ? 2 : 0x7fffffff) : 2;
      const auto end_line = [&](int j) { // target j - 2 has all its taps
        if (j >= first_stored) store_items<kItems>(target + stored, target_sums[0]);
        stored += m.target_row_step;
#pragma unroll
        for (int k = 0; k < kItems; ++k) {
          target_sums[0][k] = target_sums[1][k];
          target_sums[1][k] = target_sums[2][k];
          target_sums[2][k] = start[k];
          if constexpr (kWeight) {
            partners[0][k] = partners[1][k];
            partners[1][k] = partners[2][k];
          }
        }
      };
      const auto in_map = [&](int t) {
        return in_range(item.source_column + t * m.dilation_w, m.source_w);
      };
      const auto march = [&](auto taps) { // bit t: tap t is in the map; 0: any of them may be
        constexpr int kMask = decltype(taps)::value;
        bool inside[3];
#pragma unroll
        for (int t = 0; t < 3; ++t) inside[t] = kMask == 0 ? in_map(t) : (kMask >> t & 1) != 0;
        int at = item.source_at + item.first * m.source_row_step;
        Values line[3], next_line[3] = {};
        const auto read_line = [&](int j) {
#pragma unroll
          for (int t = 0; t < 3; ++t)
            if (inside[t]) next_line[t].read(source + (at + t * m.column_step));
          at += j + 1 < item.last ? m.source_row_step : 0;
        };
        // Middle taps that the sum for the bias takes.
        const int own = kWeight ? kept_whole(m.same ? item.count : 0) : 0;
        // The middle column of the next sequence.
        const bool asks = has_next && in_range(next.source_column + m.dilation_w, m.source_w);
        int asked = next.source_at + m.column_step + next.first * m.source_row_step;
        const int asked_end = item.first + (asks ? next.last - next.first : 0);
        if (item.first < item.last) read_line(item.first);
#pragma unroll 3 // the sums of three targets change places without moves
        for (int j = item.first; j < item.last; ++j) {
#pragma unroll
          for (int t = 0; t < 3; ++t) line[t] = next_line[t];
          take_partner(j);
          read_partner(j + 1); // both in flight while line j is used
          read_line(j + 1);
          if (j < asked_end) prefetch_l2(source + asked);
          asked += m.source_row_step;
#pragma unroll
          for (int t = 0; t < 3; ++t) {
            if (!inside[t]) continue;
#pragma unroll
            for (int k = 0; k < kItems; ++k) {
              const T value = line[t].value(k);
#pragma unroll
              for (int r = 0; r < 3; ++r) {
                target_sums[2 - r][k] += value * weight[3 * r + t][k];
                if constexpr (kWeight) sums[3 * r + t][k] += value * partners[2 - r][k];
              }
              if (kWeight && t == 1 && in_range(j - 1, own)) sums[kWeight ? kTaps : 0][k] += value;
            }
          }
          end_line(j);
        }
      };
      // Lines in the padding add nothing. The first two end no target.
      const int begun = min(item.first, 2);
      stored += begun * m.target_row_step;
      read_partner(0);
#pragma unroll
      for (int j = 0; j < (kWeight ? 2 : 0); ++j)
        if (j < begun) {
          take_partner(j);
          read_partner(j + 1);
#pragma unroll
          for (int k = 0; k < kItems; ++k) {
            partners[0][k] = partners[1][k];
            partners[1][k] = partners[2][k];
          }
        }
#pragma unroll 1
      for (int j = begun; j < item.first; ++j) {
        take_partner(j);
        read_partner(j + 1);
        end_line(j);
      }
      if (!in_map(1))
        march(std::integral_constant<int, 0>{});
      else if (in_map(0) && in_map(2))
        march(std::integral_constant<int, 7>{});
      else if (in_map(0))
        march(std::integral_constant<int, 3>{});
      else if (in_map(2))
        march(std::integral_constant<int, 6>{});
      else
        march(std::integral_constant<int, 2>{});
#pragma unroll 1 // one or two
      for (int j = item.last; j < item.count + 2; ++j) end_line(j);
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
  m.by_width = Divider(m.target_w);
  m.by_residues = Divider(q.residues);
  m.by_dilation = Divider(m.dilation_h);
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
