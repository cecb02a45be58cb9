// Where the construction of a lattice finds the features of its pixels.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>
#include <cstring>

#include "permutohedral_lattice/permutohedral_lattice.h"

namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL {

// Pixels whose features are made at a time.
constexpr std::int64_t kStrip = 8 * kBlock;
template <class T, int D> using Strip = T[D][kStrip];

// Where features [D] of some pixels lie, one feature `stride` after the other.
template <class T> struct View {
  const T* values;
  std::int64_t stride;
};

// Features [D, P] in memory.
template <class T, int D> struct StoredFeatures {
  const T* values;
  std::int64_t pixels;
  // Those of `count` pixels, at most kStrip, from `first` on.
  View<T> of(std::int64_t first, std::int64_t, Strip<T, D>&) const {
    return {values + first, pixels};
  }
};

// Those of an image, made when they are asked for.
template <int D> struct PixelFeatures {
  static constexpr int kChannels = D - 2;
  static_assert(kChannels == 0 || kChannels == 3);
  ImageFeatures image;

  View<float> of(std::int64_t first, std::int64_t count, Strip<float, D>& made) const {
    std::int64_t row = first / image.width, column = first % image.width;
    for (std::int64_t p = 0; p < count; ++row, column = 0) {
      const std::int64_t end = std::min(count, p + image.width - column);
      const float y = static_cast<float>(row) / image.widths[1];
      const std::int32_t x = static_cast<std::int32_t>(column - p);
      for (std::int32_t i = static_cast<std::int32_t>(p); i < end; ++i)
        made[0][i] = static_cast<float>(x + i) / image.widths[0];
      std::fill(made[1] + p, made[1] + end, y);
      p = end;
    }
    if constexpr (kChannels == 3) {
      std::uint32_t words[kStrip]; // three bytes, and one that is not used: the last has none
      const std::uint8_t* bytes = image.values + 3 * first;
      for (std::int64_t p = 0; p < count - 1; ++p) std::memcpy(&words[p], bytes + 3 * p, 4);
      std::memcpy(&words[count - 1], bytes + 3 * (count - 1), 3);
      for (int c = 0; c < 3; ++c)
        for (std::int64_t p = 0; p < count; ++p)
          made[2 + c][p] =
              static_cast<float>(static_cast<std::int32_t>(words[p] >> (8 * c) & 255)) /
              image.widths[2 + c];
    }
    return {made[0], kStrip};
  }
};

} // namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL
