// Large memory that is taken anew at every call of the same size: workspaces, lattices, results.
// The system clears every page that it hands out, which takes longer than what is then computed in
// it; the pool keeps what was given back for the next call.
#pragma once

#include <cstddef>

namespace fastseg {

// At least `bytes` of uninitialised memory, aligned to 64 bytes; in huge pages where it is large.
// Throws std::bad_alloc. Any thread may take it and any other give it back.
void* take_scratch(std::size_t bytes);
// Null is allowed.
void give_scratch(void* memory) noexcept;

// How much of the memory that was given back may be kept. What is beyond, the oldest first, goes
// back to the system, at once and in future.
std::size_t scratch_limit();
void set_scratch_limit(std::size_t bytes);
// How much is kept now.
std::size_t kept_scratch();

} // namespace fastseg
