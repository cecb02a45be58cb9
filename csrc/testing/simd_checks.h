// Compares the vector instructions that a processor has its own code for with plain definitions.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "common/dtype.h"
#include "common/simd_cpu.h"

namespace fastseg {

// Numbers of a linear congruential generator (Knuth's MMIX).
class Random {
public:
  std::uint32_t bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::uint32_t>(state_ >> 32);
  }
  // A multiple of 2^-10 in [-4, 4): exact in every type but the 16-bit ones.
  double number() { return static_cast<double>(bits() >> 19) / 1024.0 - 4.0; }

private:
  std::uint64_t state_ = 1;
};

// Conversions of a 16-bit type: every value, and floats around every tie between two values.
// Returns the number of differences; NaN may keep its payload.
template <class Storage> inline int conversion_errors() {
  using namespace baseline;
  constexpr int lanes = kLanes<float>;
  int errors = 0;
  for (std::uint32_t first = 0; first < 0x10000; first += lanes) {
    Storage in[lanes];
    for (int i = 0; i < lanes; ++i) in[i].bits = static_cast<std::uint16_t>(first + i);
    const vec<float> wide = load(in);
    // Half-way to the next number, a little less and a little more, and the number itself.
    for (const int offset : {0, 1, -1, 0x1000, 0xfff, 0x1001, 0x8000, 0x7fff, 0x8001}) {
      float single[lanes];
      Storage out[lanes];
      for (int i = 0; i < lanes; ++i)
        single[i] =
            bits_to_float(float_to_bits(to_compute(in[i])) + static_cast<std::uint32_t>(offset));
      store(out, load(single));
      for (int i = 0; i < lanes; ++i) {
        const float expected = to_compute(in[i]), scalar = single[i];
        const bool nan = expected != expected;
        errors += nan ? wide[i] == wide[i] : float_to_bits(wide[i]) != float_to_bits(expected);
        const float stored = to_compute(out[i]);
        errors +=
            scalar != scalar ? stored == stored : out[i].bits != from_compute<Storage>(scalar).bits;
      }
    }
  }
  return errors;
}

// Permutations, gathers and the transpose. Returns the number of differences.
template <class T> inline int permutation_errors() {
  using namespace baseline;
  constexpr int lanes = kLanes<T>;
  int errors = 0;
  T table[64];
  for (int i = 0; i < 64; ++i) table[i] = static_cast<T>(i + 0.5);
  Random random;
  for (int trial = 0; trial < 1000; ++trial) {
    ivec<T> index{}, far{};
    for (int i = 0; i < lanes; ++i) {
      index[i] = random.bits() % lanes;
      far[i] = random.bits() % 64;
    }
    const vec<T> permuted = permute(load_vec(table), index), gathered = gather(table, far);
    for (int i = 0; i < lanes; ++i)
      errors += (permuted[i] != table[index[i]]) + (gathered[i] != table[far[i]]);
  }
  vec<T> rows[lanes];
  for (int i = 0; i < lanes; ++i) rows[i] = load_vec(table + i * lanes);
  transpose<T>(rows);
  for (int i = 0; i < lanes; ++i)
    for (int k = 0; k < lanes; ++k) errors += rows[i][k] != table[k * lanes + i];
  return errors;
}

} // namespace fastseg
