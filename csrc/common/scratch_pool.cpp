#include "common/scratch_pool.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "common/huge_pages.h"

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
    if (bytes < kSmallest) return allocate(64, (bytes + 63) / 64 * 64);
    const std::size_t unit = bytes < kHugePage ? kSmallest : kHugePage;
    bytes = (bytes + unit - 1) / unit * unit;
    const std::lock_guard<std::mutex> lock(mutex_);
    // The smallest that is large enough, but not far too large.
    auto best = kept_.end();
    for (auto it = kept_.begin(); it != kept_.end(); ++it)
      if (it->bytes >= bytes && it->bytes <= bytes + bytes / 2 &&
          (best == kept_.end() || it->bytes < best->bytes))
        best = it;
    Block block;
    if (best != kept_.end()) {
      block = *best;
      kept_bytes_ -= block.bytes;
      kept_.erase(best);
    } else {
      block = {allocate(unit, bytes), bytes};
      advise_huge_pages(reinterpret_cast<std::uintptr_t>(block.memory),
                        static_cast<std::int64_t>(bytes));
    }
    taken_[block.memory] = block.bytes;
    return block.memory;
  }

  void give(void* memory) {
    if (memory == nullptr) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto it = taken_.find(memory);
    if (it == taken_.end()) return std::free(memory); // a small one
    kept_.push_back({memory, it->second});
    kept_bytes_ += it->second;
    taken_.erase(it);
    trim();
  }

  std::size_t limit() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return limit_;
  }
  void set_limit(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    limit_ = bytes;
    trim();
  }
  std::size_t kept() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_bytes_;
  }

private:
  static void* allocate(std::size_t alignment, std::size_t bytes) {
    void* memory = std::aligned_alloc(alignment, std::max<std::size_t>(bytes, alignment));
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }
  void trim() {
    while (kept_bytes_ > limit_) {
      std::free(kept_.front().memory);
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
void give_scratch(void* memory) noexcept {
  try {
    pool().give(memory);
  } catch (...) { // no memory for the list: it stays taken
  }
}
std::size_t scratch_limit() { return pool().limit(); }
void set_scratch_limit(std::size_t bytes) { pool().set_limit(bytes); }
std::size_t kept_scratch() { return pool().kept(); }

} // namespace fastseg
