// Scratch memory of CPU kernels that outlives the call: see scratch_pool.h.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <cstdint>

#include "common/memory.h"
#include "common/scratch_pool.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

// An uninitialised array, given back at the end of the scope.
template <class T> class Scratch {
public:
  // Throws std::bad_alloc.
  explicit Scratch(std::int64_t count)
      : data_(static_cast<T*>(take_scratch(array_bytes(count, sizeof(T))))) {}
  ~Scratch() { give_scratch(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* get() const { return data_; }
  T& operator[](std::int64_t i) const { return data_[i]; }

private:
  T* data_;
};

} // namespace fastseg::FASTSEG_CPU_LEVEL
