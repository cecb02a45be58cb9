// Storage types and the switch from a run-time dtype to a compile-time one.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <type_traits>

namespace fastseg {

// The numbers are the contract with fastseg/_native.py.
enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2, float64 = 3 };

// Stored 16-bit formats: moved as bits, computed in float.
struct bfloat16_t {
  std::uint16_t bits;
};
struct float16_t {
  std::uint16_t bits;
};

// What a stored type is computed in.
template <class Storage>
using compute_t = std::conditional_t<std::is_same_v<Storage, double>, double, float>;

template <class T> struct TypeTag {
  using type = T;
};

// Calls fn(TypeTag<Storage>{}) for the storage type of `dtype`.
template <class Fn> inline void dispatch_dtype(DType dtype, Fn&& fn) {
  switch (dtype) {
  case DType::float32:
    return fn(TypeTag<float>{});
  case DType::bfloat16:
    return fn(TypeTag<bfloat16_t>{});
  case DType::float16:
    return fn(TypeTag<float16_t>{});
  case DType::float64:
    return fn(TypeTag<double>{});
  }
  throw std::invalid_argument("fastseg: unknown dtype code");
}

} // namespace fastseg
