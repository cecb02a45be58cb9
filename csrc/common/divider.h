// Division by a number that a launch fixes: a product and a shift where the hardware divides in
// some twenty instructions.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastseg {

// n / d for 0 <= n < 2^31 and 1 <= d < 2^31. With s = ceil(log2 d) and m = ceil(2^(31 + s) / d),
// m * d exceeds 2^(31 + s) by less than d <= 2^s, so n * m / 2^(31 + s) exceeds n / d by less than
// 1 / d: the integer part is the quotient (Granlund and Montgomery, Division by invariant integers
// using multiplication, 1994, theorem 4.2).
struct Divider {
  std::uint32_t divisor = 1, multiplier = 0x80000000u;
  int shift = 31;

  Divider() = default;
  explicit Divider(std::int64_t d) : divisor(static_cast<std::uint32_t>(d)) {
    int s = 0;
    while ((std::int64_t{1} << s) < d) ++s;
    shift = 31 + s;
    multiplier = static_cast<std::uint32_t>(((std::uint64_t{1} << shift) + divisor - 1) / divisor);
  }
  FASTSEG_HD int quotient(int n) const {
    return static_cast<int>(
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(n)) * multiplier >> shift);
  }
  FASTSEG_HD int remainder(int n, int q) const { return n - q * static_cast<int>(divisor); }
};

} // namespace fastseg
