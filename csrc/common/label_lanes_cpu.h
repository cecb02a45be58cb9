// Targets in the lane type of the kernels that compare them with classes.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <cstdint>

namespace fastseg::FASTSEG_CPU_LEVEL {

// Targets as lanes, -1 where they do not count. Returns whether one is neither a class nor
// `ignore`. Masks and no conditions: compilers make vectors of it.
template <class Target, class Label>
bool narrow_labels(const Target* __restrict target, Label* __restrict labels, std::int64_t count,
                   std::int64_t classes, std::int64_t ignore) {
  std::int64_t bad = 0;
  for (std::int64_t x = 0; x < count; ++x) {
    const std::int64_t t = static_cast<std::int64_t>(target[x]);
    const std::int64_t valid = -static_cast<std::int64_t>((t >= 0) & (t < classes));
    const std::int64_t other = -static_cast<std::int64_t>(t != ignore);
    labels[x] = static_cast<Label>((t & valid & other) | ~(valid & other));
    bad |= other & ~valid;
  }
  return bad != 0;
}

} // namespace fastseg::FASTSEG_CPU_LEVEL
