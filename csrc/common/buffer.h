// Scratch memory of CPU kernels: aligned, uninitialised, freed at the end of the scope.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace fastseg::FASTSEG_CPU_LEVEL {

template <class T> class Buffer {
public:
  explicit Buffer(std::int64_t count) {
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    data_ = static_cast<T*>(std::aligned_alloc(64, bytes > 0 ? bytes : 64));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~Buffer() { std::free(data_); }
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
