// Aligned memory. Not in a level's namespace: one copy serves all instruction sets.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastseg {

// Bytes of an array; throws std::bad_alloc where no memory could hold it (or count is negative,
// as a product that overflowed is), so that no size wraps around to a small one.
std::size_t array_bytes(std::int64_t count, std::size_t item_bytes);

// Uninitialised memory; throws std::bad_alloc. `alignment` is a power of 2.
void* allocate_aligned(std::size_t alignment, std::size_t bytes);
// Null is allowed.
void free_aligned(void* memory) noexcept;

} // namespace fastseg
