// Targets in the lane type of the kernels that compare them with classes.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <cstdint>
#include <type_traits>

namespace fastseg::FASTSEG_CPU_LEVEL {

// Targets as lanes, -1 where they do not count. Returns whether one is neither a class nor
// `ignore`. Masks and no conditions: compilers make vectors of it.
template <class Target, class Label>
bool narrow_labels(const Target* __restrict target, Label* __restrict labels, std::int64_t count,
                   std::int64_t classes, std::int64_t ignore) {
  // 32 bits are twice as many lanes as 64. An index beyond them is none of these targets.
  using Int = std::conditional_t<(sizeof(Target) < 8), std::int32_t, std::int64_t>;
  const Int limit = static_cast<Int>(classes), index = static_cast<Int>(ignore);
  const Int no_index = -static_cast<Int>(index != ignore);
  Int bad = 0;
  for (std::int64_t x = 0; x < count; ++x) {
    const Int t = static_cast<Int>(target[x]);
    const Int valid = -static_cast<Int>((t >= 0) & (t < limit));
    const Int other = no_index | -static_cast<Int>(t != index);
    labels[x] = static_cast<Label>((t & valid & other) | ~(valid & other));
    bad |= other & ~valid;
  }
  return bad != 0;
}

} // namespace fastseg::FASTSEG_CPU_LEVEL
