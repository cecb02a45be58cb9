// How the ops that read source rows in order are split into tasks.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastseg::FASTSEG_CPU_LEVEL {

// Bands of source rows: the tasks of an op that reads rows in order. Enough for every thread; each
// band reads one more source row than it owns.
struct Bands {
  std::int64_t per_image, in_h;
  Bands(std::int64_t batch, std::int64_t in_h_, int threads)
      : per_image(std::clamp<std::int64_t>(
            in_h_ / 8, 1, (4 * threads + batch - 1) / std::max<std::int64_t>(batch, 1))),
        in_h(in_h_) {}
  std::int64_t image(std::int64_t task) const { return task / per_image; }
  std::int64_t first(std::int64_t task) const { return in_h * (task % per_image) / per_image; }
  std::int64_t end(std::int64_t task) const { return in_h * (task % per_image + 1) / per_image; }
};

} // namespace fastseg::FASTSEG_CPU_LEVEL
