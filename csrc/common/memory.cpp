#include "common/memory.h"

#include <cstdlib>
#include <new>

#ifdef _WIN32
#include <malloc.h>
#endif

namespace fastseg {

namespace {
// Far beyond any address space, and far from overflow when a few bytes are added.
constexpr std::size_t kMaxBytes = std::size_t{1} << 56;
} // namespace

std::size_t array_bytes(std::int64_t count, std::size_t item_bytes) {
  if (count < 0 || static_cast<std::uint64_t>(count) > kMaxBytes / item_bytes)
    throw std::bad_alloc();
  return static_cast<std::size_t>(count) * item_bytes;
}

void* allocate_aligned(std::size_t alignment, std::size_t bytes) {
  if (bytes > kMaxBytes) throw std::bad_alloc();
  // std::aligned_alloc asks for a multiple of the alignment.
  const std::size_t whole = bytes > 0 ? (bytes + alignment - 1) / alignment * alignment : alignment;
#ifdef _WIN32
  void* const memory = _aligned_malloc(whole, alignment);
#else
  void* const memory = std::aligned_alloc(alignment, whole);
#endif
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void free_aligned(void* memory) noexcept {
#ifdef _WIN32
  _aligned_free(memory);
#else
  std::free(memory);
#endif
}

} // namespace fastseg
