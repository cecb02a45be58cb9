// Pages of large outputs. A fresh tensor is mapped in pages of 4 KiB at its first write: one fault
// each, which together take several times as long as the writes.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fastseg {

// Asks for huge pages under the whole pages of [address, address + bytes). Only a hint: where the
// system has none, or the memory is mapped already, nothing changes.
inline void advise_huge_pages(std::uintptr_t address, std::int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const std::uintptr_t page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = (address + page - 1) / page * page;
  const std::uintptr_t end = (address + static_cast<std::uintptr_t>(bytes)) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)address;
  (void)bytes;
#endif
}

} // namespace fastseg
