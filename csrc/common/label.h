// Class maps: the integer types that targets and labels come in.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "common/dtype.h"

namespace fastseg {

// The numbers are the contract with fastseg/_native.py.
enum class LabelType : int { uint8 = 0, int32 = 1, int64 = 2 };

template <class Fn> inline void dispatch_label(LabelType type, Fn&& fn) {
  switch (type) {
  case LabelType::uint8:
    return fn(TypeTag<std::uint8_t>{});
  case LabelType::int32:
    return fn(TypeTag<std::int32_t>{});
  case LabelType::int64:
    return fn(TypeTag<std::int64_t>{});
  }
  throw std::invalid_argument("fastseg: unknown label type code");
}

} // namespace fastseg
