// Scratch memory of CPU kernels: aligned, uninitialised, freed at the end of the scope.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <cstdint>

#include "common/memory.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

template <class T> class Buffer {
public:
  // Throws std::bad_alloc.
  explicit Buffer(std::int64_t count)
      : data_(static_cast<T*>(allocate_aligned(64, array_bytes(count, sizeof(T))))) {}
  ~Buffer() { free_aligned(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* get() { return data_; }
  const T* get() const { return data_; }
  T& operator[](std::int64_t i) { return data_[i]; }
  const T& operator[](std::int64_t i) const { return data_[i]; }

private:
  T* data_;
};

} // namespace fastseg::FASTSEG_CPU_LEVEL
