// What the kernels of the CUDA twin share. As in the CPU twin the forward computes outputs from
// inputs and the backward inputs from outputs: "targets" are what is computed, "sources" what is
// read; grad_weight pairs each source with its targets' partners, the inputs.
//
// A block works on some channels of one image: `lanes` threads side by side own kItems channels
// each, and groups of lanes ("workers") take pieces of work in turn. In NCHW an image is one plane,
// and all threads are workers, neighbours on neighbouring columns.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "common/cuda_launch.h"
#include "common/cuda_vector.h"
#include "dilated_conv2d/dilated_conv2d.h"
#include "dilated_conv2d/dilated_conv2d_math.h"

namespace fastseg::dilated_conv2d::cuda {

inline constexpr int kThreads = 256;    // at most
inline constexpr int kTaps = 9;         // that a thread keeps sums for at a time
inline constexpr int kSums = kTaps + 1; // and the bias
// Blocks for the largest GPUs: several on each multiprocessor, several times.
inline constexpr std::int64_t kWantedBlocks = 1024;

// Channels of a thread where they lie side by side and divide by it, without and with sums for the
// gradient of the weights: more would not leave registers for enough threads.
template <class Storage, bool kWeight>
inline constexpr int kVectorItems = sizeof(Storage) == 8 ? (kWeight ? 1 : 2)
                                    : kWeight            ? 2
                                                         : 4;
// Threads side by side in NHWC.
template <int kItems> inline constexpr int kLanes = kItems == 4 ? 16 : 32;
// Channels of a block, at most.
template <int kItems> inline constexpr int kTileChannels = kItems * kLanes<kItems>;

enum class Direction { forward, backward };

template <class Storage> struct Sweep {
  const Storage* source;
  const Storage* weight; // [C, taps]
  const Storage* bias;   // null: none
  Storage* target;       // null: not computed
  const Storage* partner;
  compute_t<Storage>* partials; // [images of a batch * parts, taps + 1, C]
  bool sum_sources;             // into the last row of partials
  ConvAxis rows, columns;       // of the convolution, in: x, out: its result
  std::int64_t channels;
  // Blocks: images * parts * lane_tiles. A part is `per_part` of `work` pieces.
  std::int64_t images, lane_tiles, work, per_part;
  int parts, lanes, threads;
  bool channels_last;
};

// A thread's place.
template <class Storage, int kItems> struct Place {
  std::int64_t image, slot; // slot: in partials
  std::int64_t tile_channel, channel;
  int lane, worker, workers, part;
  bool active;       // has channels
  std::int64_t step; // from a pixel to the next

  FASTSEG_DEVICE explicit Place(const Sweep<Storage>& p) {
    Division at = divide(blockIdx.x, p.lane_tiles);
    tile_channel = at.remainder * p.lanes * kItems;
    at = divide(at.quotient, p.parts);
    part = static_cast<int>(at.remainder);
    image = at.quotient;
    lane = threadIdx.x % p.lanes;
    worker = threadIdx.x / p.lanes;
    workers = blockDim.x / p.lanes;
    std::int64_t n = image;
    if (!p.channels_last) {
      at = divide(image, p.channels);
      n = at.quotient;
      tile_channel = at.remainder;
    }
    channel = tile_channel + lane * kItems;
    active = channel < p.channels;
    slot = n * p.parts + part;
    step = p.channels_last ? p.channels : 1;
  }
  // Of the thread's channels in a map of the image.
  FASTSEG_DEVICE std::int64_t offset(std::int64_t pixels) const {
    return image * pixels * step + (step > 1 ? channel : 0);
  }
  FASTSEG_DEVICE std::int64_t begin(const Sweep<Storage>& p) const {
    return part * p.per_part + worker;
  }
  FASTSEG_DEVICE std::int64_t end(const Sweep<Storage>& p) const {
    return min((part + 1) * p.per_part, p.work);
  }
};

// staged[tap * kTileChannels + channel of the tile], taps in reverse order if `flip`.
template <class Storage, int kItems>
FASTSEG_DEVICE void stage_weights(const Sweep<Storage>& p, const Place<Storage, kItems>& place,
                                  int taps, bool flip, compute_t<Storage>* staged) {
  const int channels =
      static_cast<int>(min(std::int64_t(p.lanes * kItems), p.channels - place.tile_channel));
  const Storage* weight = p.weight + place.tile_channel * taps;
  for (int i = threadIdx.x; i < channels * taps; i += blockDim.x) {
    const int tap = i % taps;
    staged[(flip ? taps - 1 - tap : tap) * kTileChannels<kItems> + i / taps] =
        to_compute(load(weight + i));
  }
}

// The sum of the part's share of the sources, for grad_bias.
template <class Storage, int kItems>
FASTSEG_DEVICE void sum_sources(const Sweep<Storage>& p, const Place<Storage, kItems>& place,
                                std::int64_t pixels, compute_t<Storage> (&sum)[kItems]) {
  const std::int64_t per_part = (pixels + p.parts - 1) / p.parts;
  const std::int64_t end = min((place.part + 1) * per_part, pixels);
  const Storage* source = p.source + place.offset(pixels);
#pragma unroll 4
  for (std::int64_t i = place.part * per_part + place.worker; i < end; i += place.workers) {
    const Items<Storage, kItems> v = load_items<kItems>(source + i * place.step);
#pragma unroll
    for (int k = 0; k < kItems; ++k) sum[k] += to_compute(v.v[k]);
  }
}

// partials[slot, rows..] = sums over the block's workers, in a fixed order. sums[i] goes to row
// row_of(i); a negative row is left out. Every thread of the block calls it.
template <class Storage, int kItems, class RowOf>
FASTSEG_DEVICE void write_partials(const Sweep<Storage>& p, const Place<Storage, kItems>& place,
                                   int taps, compute_t<Storage> (&sums)[kSums][kItems],
                                   const RowOf& row_of) {
  using T = compute_t<Storage>;
  constexpr int kTile = kTileChannels<kItems>, kWarps = kThreads / 32;
  FASTSEG_SHARED(warp_sums, T[kSums * kWarps * kTile]);
  const int warp_lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  __syncthreads(); // the previous call's sums are read
#pragma unroll
  for (int s = 0; s < kSums; ++s)
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      T sum = sums[s][k];
      for (int distance = 16; distance >= p.lanes; distance /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      if (warp_lane < p.lanes)
        warp_sums[(s * kWarps + warp) * kTile + warp_lane * kItems + k] = sum;
    }
  __syncthreads();
  const int channels =
      static_cast<int>(min(std::int64_t(p.lanes * kItems), p.channels - place.tile_channel));
  for (int i = threadIdx.x; i < kSums * channels; i += blockDim.x) {
    const int s = i / channels, c = i % channels, row = row_of(s);
    if (row < 0) continue;
    T sum = 0;
    for (int w = 0; w < warps; ++w) sum += warp_sums[(s * kWarps + w) * kTile + c];
    p.partials[(place.slot * (taps + 1) + row) * p.channels + place.tile_channel + c] = sum;
  }
}

// 3x3 with stride 1, any dilation and padding: dilated_conv2d_march_cuda.cu. Its offsets in an
// image have 32 bits, those of rows and columns in the padding included.
inline bool marches(const Shape& s) {
  if (s.kernel_h != 3 || s.kernel_w != 3 || s.stride_h != 1 || s.stride_w != 1) return false;
  const double rows = std::max(s.in_h, s.out_h) + 4.0 * (s.dilation_h + s.padding_h);
  const double columns = std::max(s.in_w, s.out_w) + 4.0 * (s.dilation_w + s.padding_w);
  return rows * columns * (s.channels_last ? s.channels : 1) < 0x7fffffff;
}

// How the rows of the targets are marched down: a sequence is `rows` rows, `dilation` apart.
struct Sequences {
  std::int64_t residues, chunks, rows;
};
inline Sequences sequences(const Shape& s, Direction direction) {
  const std::int64_t targets = direction == Direction::forward ? s.out_h : s.in_h;
  Sequences q{};
  q.residues = std::min(s.dilation_h, targets);
  const std::int64_t rows = ceil_div(targets, q.residues);
  // Each sequence reads two more rows; long ones leave too few threads.
  q.chunks = ceil_div(rows, std::int64_t{24});
  q.rows = ceil_div(rows, q.chunks);
  return q;
}

// `items`: channels of a thread.
template <class Storage> Sweep<Storage> plan(const Shape& s, Direction direction, int items) {
  Sweep<Storage> p{};
  p.rows = {s.in_h, s.out_h, s.kernel_h, s.stride_h, s.padding_h, s.dilation_h};
  p.columns = {s.in_w, s.out_w, s.kernel_w, s.stride_w, s.padding_w, s.dilation_w};
  p.channels = s.channels;
  p.channels_last = s.channels_last;
  p.images = s.channels_last ? s.batch : s.batch * s.channels;
  p.lanes = !s.channels_last ? 1 : items == 4 ? kLanes<4> : kLanes<1>;
  p.lane_tiles = s.channels_last ? ceil_div(s.channels, p.lanes * items) : 1;
  const bool forward = direction == Direction::forward;
  const Sequences q = sequences(s, direction);
  p.work = (forward ? s.out_w : s.in_w) * (marches(s) ? q.residues * q.chunks
                                           : forward  ? s.out_h
                                                      : s.in_h);
  p.threads = kThreads;
  if (p.lanes == 1 && p.work < 8 * kThreads) { // small planes: as few idle threads as possible
    std::int64_t least = ceil_div(p.work, std::int64_t{kThreads}) * kThreads;
    for (int threads = kThreads; threads >= 64; threads -= 32) {
      const std::int64_t rounded = ceil_div(p.work, std::int64_t{threads}) * threads;
      if (rounded < least) least = rounded, p.threads = threads;
    }
  }
  const std::int64_t most = ceil_div(p.work, p.threads / p.lanes);
  const std::int64_t wanted =
      ceil_div(kWantedBlocks, std::max<std::int64_t>(p.images * p.lane_tiles, 1));
  p.parts = static_cast<int>(std::clamp<std::int64_t>(wanted, 1, most));
  p.per_part = ceil_div(p.work, p.parts);
  return p;
}
template <class Storage> std::int64_t blocks(const Sweep<Storage>& p) {
  return p.images * p.parts * p.lane_tiles;
}

// Runs a sweep whose pointers are set, with the items of its plan. Without partials it computes the
// target alone.
void march(const Sweep<float>& p, const Shape& s, Direction direction, int items,
           std::uintptr_t stream);
void march(const Sweep<double>& p, const Shape& s, Direction direction, int items,
           std::uintptr_t stream);
void march(const Sweep<bfloat16_t>& p, const Shape& s, Direction direction, int items,
           std::uintptr_t stream);
void march(const Sweep<float16_t>& p, const Shape& s, Direction direction, int items,
           std::uintptr_t stream);
void visit_taps(const Sweep<float>& p, Direction direction, int items, std::uintptr_t stream);
void visit_taps(const Sweep<double>& p, Direction direction, int items, std::uintptr_t stream);
void visit_taps(const Sweep<bfloat16_t>& p, Direction direction, int items, std::uintptr_t stream);
void visit_taps(const Sweep<float16_t>& p, Direction direction, int items, std::uintptr_t stream);

} // namespace fastseg::dilated_conv2d::cuda
