#include "common/threads.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace fastseg {

FirstError::FirstError() = default;
FirstError::~FirstError() = default;

void FirstError::keep() noexcept {
  // The end of the region orders this write before rethrow() reads it.
  if (!__atomic_exchange_n(&kept_, true, __ATOMIC_RELAXED)) error_ = std::current_exception();
}

void FirstError::rethrow() const {
  if (kept_) std::rethrow_exception(error_);
}

namespace {

// How many of `wanted` threads can be there at the same time.
int count_startable(int wanted) {
  std::mutex mutex;
  std::condition_variable released;
  bool done = false;
  std::vector<std::thread> threads;
  try {
    threads.reserve(static_cast<std::size_t>(wanted));
    while (static_cast<int>(threads.size()) < wanted)
      threads.emplace_back([&] {
        std::unique_lock<std::mutex> lock(mutex);
        released.wait(lock, [&] { return done; });
      });
  } catch (...) { // std::system_error or std::bad_alloc: so many and no more
  }
  {
    const std::lock_guard<std::mutex> lock(mutex);
    done = true;
  }
  released.notify_all();
  for (std::thread& thread : threads) thread.join();
  return static_cast<int>(threads.size());
}

} // namespace

int startable_threads(int wanted) {
  // The size of this thread's last region: OpenMP keeps those threads for the next one, and lets
  // those go that a smaller region does not need.
  thread_local int running = 1;
  if (wanted > running) wanted = running + count_startable(wanted - running);
  return running = wanted;
}

} // namespace fastseg
