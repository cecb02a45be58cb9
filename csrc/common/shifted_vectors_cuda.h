// 16-byte accesses to rows that begin at any element. In a contiguous map whose width is no
// multiple of 16 bytes every row begins at another distance from a 16-byte boundary, while a thread
// wants to keep its columns for all rows. The accesses are therefore those of the aligned vectors
// around the thread's columns, and the bytes are moved in registers.
#pragma once

#include "common/cuda_vector.h"

namespace fastseg {

// 16 bytes in four registers.
struct Words {
  unsigned w[4];
};
template <class Storage> FASTSEG_DEVICE Words words_of(const Pack<Storage>& pack) {
  Words words;
  memcpy(&words, &pack, 16);
  return words;
}
template <class Storage> FASTSEG_DEVICE Pack<Storage> pack_of(const Words& words) {
  Pack<Storage> pack;
  memcpy(&pack, &words, 16);
  return pack;
}

// Bytes from the last 16-byte boundary to p: 0 to 15.
FASTSEG_DEVICE unsigned beyond_boundary(const void* p) {
  return static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(p)) & 15;
}

// The 16 bytes that begin `back` bytes before `second`, which `first` precedes. `back` is 0 to 15,
// a multiple of kBytes, the size of a value.
template <int kBytes>
FASTSEG_DEVICE Words shifted(const Words& first, const Words& second, unsigned back) {
  const unsigned words[8] = {first.w[0],  first.w[1],  first.w[2],  first.w[3],
                             second.w[0], second.w[1], second.w[2], second.w[3]};
  unsigned by_8[6], by_4[5]; // from two words and one word before the result
#pragma unroll
  for (int k = 0; k < 6; ++k) by_8[k] = (back & 8) != 0 ? words[k] : words[k + 2];
#pragma unroll
  for (int k = 0; k < 5; ++k) by_4[k] = kBytes <= 4 && (back & 4) != 0 ? by_8[k] : by_8[k + 1];
  Words result;
#pragma unroll
  for (int k = 0; k < 4; ++k)
    result.w[k] = kBytes >= 4 ? by_4[k + 1] : __funnelshift_l(by_4[k], by_4[k + 1], (back & 2) * 8);
  return result;
}

// Stores the first (or last) `count` bytes, below 16, of the vector at the 16-byte boundary p: of
// 8, 4 and 2 bytes those that it takes. A row has two such ends; one value at a time they would
// cost more than what the whole vectors between them save.
template <int kBytes>
FASTSEG_DEVICE void store_end(void* p, const Words& words, int count, bool last) {
#ifdef FASTSEG_CUDA_ON_CPU
  cuda_on_cpu::require_aligned(p, 16);
#endif
  char* at = static_cast<char*>(p) + (last ? 8 : 0); // the outer half
  uint2 half = last ? uint2{words.w[2], words.w[3]} : uint2{words.w[0], words.w[1]};
  if ((count & 8) != 0) {
    *reinterpret_cast<uint2*>(at) = half;
    at += last ? -8 : 8;
    half = last ? uint2{words.w[0], words.w[1]} : uint2{words.w[2], words.w[3]};
  }
  if constexpr (kBytes <= 4) {
    at += last ? 4 : 0;
    unsigned word = last ? half.y : half.x;
    if ((count & 4) != 0) {
      *reinterpret_cast<unsigned*>(at) = word;
      at += last ? -4 : 4;
      word = last ? half.x : half.y;
    }
    if constexpr (kBytes == 2) {
      if ((count & 2) != 0)
        *reinterpret_cast<unsigned short*>(at + (last ? 2 : 0)) =
            static_cast<unsigned short>(last ? word >> 16 : word);
    }
  }
}

} // namespace fastseg
