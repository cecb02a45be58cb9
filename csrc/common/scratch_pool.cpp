#include "common/scratch_pool.h"

#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "common/huge_pages.h"
#include "common/memory.h"

namespace fastseg {

namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kSmallest = std::size_t{1} << 18; // below, malloc is as good

struct Block {
  void* memory;
  std::size_t bytes;
};

class Pool {
public:
  void* take(std::size_t bytes) {
    if (bytes < kSmallest) return allocate_aligned(64, bytes);
    const std::size_t unit = bytes < kHugePage ? kSmallest : kHugePage;
    bytes = (array_bytes(static_cast<std::int64_t>(bytes), 1) + unit - 1) / unit * unit;
    const std::lock_guard<std::mutex> lock(mutex_);
    // The smallest that is large enough, but not far too large.
    auto best = kept_.end();
    for (auto it = kept_.begin(); it != kept_.end(); ++it)
      if (it->bytes >= bytes && it->bytes <= bytes + bytes / 2 &&
          (best == kept_.end() || it->bytes < best->bytes))
        best = it;
    if (best == kept_.end()) return take_new(unit, bytes);
    taken_.emplace(best->memory, best->bytes); // may throw: first of all
    void* const memory = best->memory;
    kept_bytes_ -= best->bytes;
    kept_.erase(best);
    return memory;
  }

  void give(void* memory) noexcept {
    if (memory == nullptr) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto it = taken_.find(memory);
    if (it == taken_.end()) return free_aligned(memory); // a small one
    const Block block{memory, it->second};
    taken_.erase(it);
    try {
      kept_.push_back(block);
    } catch (const std::bad_alloc&) { // no room in the list
      return free_aligned(memory);
    }
    kept_bytes_ += block.bytes;
    trim_to(limit_);
  }

  std::size_t limit() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return limit_;
  }
  void set_limit(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    limit_ = bytes;
    trim_to(limit_);
  }
  std::size_t kept() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_bytes_;
  }

private:
  void* take_new(std::size_t alignment, std::size_t bytes) {
    void* memory;
    try {
      memory = allocate_aligned(alignment, bytes);
    } catch (const std::bad_alloc&) { // what is kept may be what is missing
      trim_to(0);
      memory = allocate_aligned(alignment, bytes);
    }
    try {
      taken_.emplace(memory, bytes);
    } catch (...) {
      free_aligned(memory);
      throw;
    }
    advise_huge_pages(reinterpret_cast<std::uintptr_t>(memory), static_cast<std::int64_t>(bytes));
    return memory;
  }
  void trim_to(std::size_t limit) {
    while (kept_bytes_ > limit) {
      free_aligned(kept_.front().memory);
      kept_bytes_ -= kept_.front().bytes;
      kept_.erase(kept_.begin());
    }
  }

  std::mutex mutex_;
  std::vector<Block> kept_; // the oldest first
  std::unordered_map<void*, std::size_t> taken_;
  std::size_t kept_bytes_ = 0;
#ifdef __SANITIZE_ADDRESS__
  std::size_t limit_ = 0; // so that use after free is seen
#else
  std::size_t limit_ = std::size_t{768} << 20;
#endif
};

// Never destroyed: objects that outlive static destructors still give memory back.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

} // namespace

void* take_scratch(std::size_t bytes) { return pool().take(bytes); }
void give_scratch(void* memory) noexcept { pool().give(memory); }
std::size_t scratch_limit() { return pool().limit(); }
void set_scratch_limit(std::size_t bytes) { pool().set_limit(bytes); }
std::size_t kept_scratch() { return pool().kept(); }

} // namespace fastseg
