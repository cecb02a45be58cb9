// Runs .cu files on a CPU, for tests without a GPU (FASTSEG_CUDA_ON_CPU; see common/cuda_launch.h).
//
// Each CUDA thread is a fiber with its own stack; blocks run one after another. A fiber runs until
// it waits at a barrier or a warp operation, or returns; when all have stopped, whatever barrier is
// complete is released. With a seed, blocks and threads run in random order, so that a missing
// barrier or a dependence between blocks gives wrong results. What a GPU leaves undefined is made
// visible: shared memory starts as NaN (all bits set) in every block, and these are errors:
// a barrier that some threads wait at while others wait elsewhere, a warp operation without all the
// lanes of its mask, misaligned vector accesses, shapes that no GPU can launch.
//
// One launch at a time: the state is one object, and launch() holds a lock. CUDA's own names for
// all this are in cuda_names.h.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#include "testing/traffic.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace fastseg::cuda_on_cpu {

constexpr int kWarp = 32;
constexpr std::size_t kStackBytes = std::size_t{1} << 18;
constexpr std::size_t kSharedLimit = 48 * 1024; // more needs an opt-in that launch() does not make

enum class State { ready, at_barrier, at_warp, returned };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack;
  bool started = false;
  void* fake_stack = nullptr; // AddressSanitizer's
  State state = State::returned;
  dim3 thread;
  // Where it waits, and what it brought to a warp operation.
  const char* file = "";
  int line = 0;
  unsigned mask = 0;
  std::uint64_t given = 0;
  std::array<std::uint64_t, kWarp> received{};
  bool vote = false, any_vote = false; // of __syncthreads_or: its own, and the block's
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};

struct Machine {
  std::mutex lock;
  std::mt19937 random{0};
  bool shuffled = false;
  std::int64_t launches = 0; // since the module was loaded
  std::vector<std::unique_ptr<Fiber>> fibers;
  int count = 0; // threads of a block
  Fiber* current = nullptr;
  int current_index = 0;
  ucontext_t scheduler;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_stack_bytes = 0;
  std::function<void()> kernel;
  std::exception_ptr error;
  dim3 grid, block, block_index;
  // Shared memory by declaration; each in its own allocation, so that AddressSanitizer sees
  // overruns.
  struct Shared {
    std::unique_ptr<unsigned char, Free> bytes;
    std::size_t size;
  };
  std::map<const void*, Shared> shared;
};

inline Machine& machine() {
  static Machine m;
  return m;
}

// Seed 0: blocks and threads in ascending order.
inline void set_order(unsigned seed) {
  machine().random.seed(seed);
  machine().shuffled = seed != 0;
}

inline void enter_scheduler() { // from a fiber
  Machine& m = machine();
  Fiber* self = m.current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&self->fake_stack, m.scheduler_stack, m.scheduler_stack_bytes);
#endif
  swapcontext(&self->context, &m.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#endif
}

// A fiber serves one thread after another.
inline void fiber_main() {
  Machine& m = machine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &m.scheduler_stack, &m.scheduler_stack_bytes);
#endif
  for (;;) {
    try {
      m.kernel();
    } catch (...) {
      if (!m.error) m.error = std::current_exception();
    }
    m.current->state = State::returned;
    enter_scheduler();
  }
}

inline void enter_fiber(int index) { // from the scheduler
  Machine& m = machine();
  Fiber& fiber = *m.fibers[index];
  if (!fiber.started) {
    if (!fiber.stack) fiber.stack.reset(new unsigned char[kStackBytes]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
    fiber.started = true;
  }
  m.current = &fiber;
  m.current_index = index;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&m.scheduler_fake_stack, fiber.stack.get(), kStackBytes);
#endif
  swapcontext(&m.scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(m.scheduler_fake_stack, nullptr, nullptr);
#endif
}

inline std::vector<int> order(int n) {
  std::vector<int> indices(n);
  std::iota(indices.begin(), indices.end(), 0);
  Machine& m = machine();
  if (m.shuffled) std::shuffle(indices.begin(), indices.end(), m.random);
  return indices;
}

inline std::string place(const Fiber& f) {
  return std::string(f.file) + ":" + std::to_string(f.line);
}

// What every thread of the block is doing, for an error message.
inline std::string census() {
  Machine& m = machine();
  std::map<std::string, int> groups;
  for (int i = 0; i < m.count; ++i) {
    const Fiber& f = *m.fibers[i];
    if (f.state == State::returned)
      ++groups["returned"];
    else
      ++groups[(f.state == State::at_barrier ? "wait at the barrier "
                                             : "wait at the warp operation ") +
               place(f)];
  }
  std::ostringstream text;
  text << "block " << m.block_index.x << ": ";
  const char* separator = "";
  for (const auto& [what, threads] : groups) {
    text << separator << threads << " threads " << what;
    separator = ", ";
  }
  return text.str();
}

// Releases the block's barrier if every thread that has not returned waits at it.
inline bool release_barrier() {
  Machine& m = machine();
  const Fiber* first = nullptr;
  for (int i = 0; i < m.count; ++i) {
    const Fiber& f = *m.fibers[i];
    if (f.state == State::returned) continue;
    if (f.state != State::at_barrier) return false;
    if (first == nullptr) first = &f;
    if (f.file != first->file || f.line != first->line)
      throw std::runtime_error("divergent barrier, " + census());
  }
  if (first == nullptr) return false;
  traffic::end_phase();
  bool any = false;
  for (int i = 0; i < m.count; ++i)
    any = any || (m.fibers[i]->state == State::at_barrier && m.fibers[i]->vote);
  for (int i = 0; i < m.count; ++i) {
    if (m.fibers[i]->state != State::at_barrier) continue;
    m.fibers[i]->state = State::ready;
    m.fibers[i]->any_vote = any;
  }
  return true;
}

// Releases the warp operations all of whose lanes have arrived, and hands round what they brought.
inline bool release_warps() {
  Machine& m = machine();
  bool released = false;
  for (int i = 0; i < m.count; ++i) {
    Fiber& f = *m.fibers[i];
    if (f.state != State::at_warp) continue;
    const int base = i / kWarp * kWarp, lanes = std::min(kWarp, m.count - base);
    std::array<std::uint64_t, kWarp> values;
    values.fill(~std::uint64_t{0}); // lanes that take no part have no defined value
    bool complete = true;
    for (int lane = 0; lane < lanes && complete; ++lane) {
      if ((f.mask >> lane & 1) == 0) continue;
      const Fiber& other = *m.fibers[base + lane];
      if (other.state == State::returned) continue;
      complete = other.state == State::at_warp && other.mask == f.mask && other.file == f.file &&
                 other.line == f.line;
      values[lane] = other.given;
    }
    if (!complete) continue;
    for (int lane = 0; lane < lanes; ++lane) {
      Fiber& other = *m.fibers[base + lane];
      if ((f.mask >> lane & 1) == 0 || other.state == State::returned) continue;
      other.received = values;
      other.state = State::ready;
    }
    released = true;
  }
  return released;
}

inline void run_block() {
  Machine& m = machine();
  for (auto& [key, shared] : m.shared) std::memset(shared.bytes.get(), 0xff, shared.size);
  for (int i = 0; i < m.count; ++i) {
    Fiber& f = *m.fibers[i];
    f.state = State::ready;
    const unsigned t = static_cast<unsigned>(i);
    f.thread = dim3(t % m.block.x, t / m.block.x % m.block.y, t / (m.block.x * m.block.y));
  }
  for (;;) {
    bool progress = false, all_returned = true;
    for (const int i : order(m.count)) {
      if (m.fibers[i]->state == State::ready) {
        enter_fiber(i);
        progress = true;
        if (m.error) std::rethrow_exception(m.error);
      }
      all_returned = all_returned && m.fibers[i]->state == State::returned;
    }
    if (all_returned) return traffic::end_block();
    if (release_warps() || release_barrier()) progress = true;
    if (!progress) throw std::runtime_error("deadlock, " + census());
  }
}

inline void check_shape(dim3 grid, dim3 block, std::size_t shared_bytes) {
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64)
    throw std::runtime_error("invalid block of " + std::to_string(threads) + " threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 ||
      grid.z > 65535)
    throw std::runtime_error("invalid grid");
  if (shared_bytes > kSharedLimit) throw std::runtime_error("more than 48 KB of shared memory");
}

// In the order in which they run.
inline std::vector<std::int64_t> blocks_to_run(const char* what, const void* kernel,
                                               std::int64_t blocks, int threads) {
  if (traffic::watching()) return traffic::begin_launch(what, kernel, blocks, threads);
  const std::vector<int> all = order(static_cast<int>(blocks));
  return {all.begin(), all.end()};
}

// Runs `call`, a call of `kernel`, in every thread.
template <class Call>
void launch(const char* what, const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
            const Call& call) {
  Machine& m = machine();
  const std::lock_guard<std::mutex> guard(m.lock);
  try {
    check_shape(grid, block, shared_bytes);
    m.grid = grid;
    m.block = block;
    m.count = static_cast<int>(block.x * block.y * block.z);
    m.kernel = call;
    m.error = nullptr;
    ++m.launches;
    m.shared.clear();
    const auto allocate = [](std::size_t bytes) {
      return static_cast<unsigned char*>(std::aligned_alloc(16, (bytes + 15) / 16 * 16));
    };
    if (shared_bytes > 0)
      m.shared[nullptr] = {std::unique_ptr<unsigned char, Free>(allocate(shared_bytes)),
                           shared_bytes};
    while (m.fibers.size() < static_cast<std::size_t>(m.count))
      m.fibers.push_back(std::make_unique<Fiber>());
    const unsigned plane = grid.x * grid.y;
    for (const std::int64_t b :
         blocks_to_run(what, kernel, std::int64_t{plane} * grid.z, m.count)) {
      const unsigned i = static_cast<unsigned>(b);
      m.block_index = dim3(i % grid.x, i / grid.x % grid.y, i / plane);
      run_block();
    }
    traffic::end_launch();
  } catch (const std::exception& error) {
    for (auto& fiber : m.fibers) fiber->started = false; // their frames are abandoned
    traffic::end_launch();
    throw std::runtime_error(std::string("fastseg: ") + what + ": on the CPU: " + error.what());
  }
}

template <class T> T* shared_variable(const void* key) {
  Machine& m = machine();
  auto& shared = m.shared[key];
  if (!shared.bytes) {
    shared.size = sizeof(T);
    // The exact size, so that the first byte beyond belongs to AddressSanitizer's red zone.
    void* bytes = nullptr;
    if (posix_memalign(&bytes, 128, sizeof(T)) != 0) throw std::bad_alloc();
    shared.bytes.reset(static_cast<unsigned char*>(bytes));
    std::memset(bytes, 0xff, sizeof(T));
    std::size_t total = 0;
    for (const auto& [k, s] : m.shared) total += s.size;
    if (total > kSharedLimit) throw std::runtime_error("more than 48 KB of shared memory");
  }
  return reinterpret_cast<T*>(shared.bytes.get());
}
template <class T> T* dynamic_shared() {
  Machine& m = machine();
  const auto found = m.shared.find(nullptr);
  return found == m.shared.end() ? nullptr : reinterpret_cast<T*>(found->second.bytes.get());
}

inline void require_aligned(const void* p, std::uintptr_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0)
    throw std::runtime_error("misaligned access of " + std::to_string(bytes) + " bytes");
}

inline void wait(State state, const char* file, int line) {
  Fiber& self = *machine().current;
  self.file = file;
  self.line = line;
  self.state = state;
  enter_scheduler();
}
inline bool sync_threads(bool vote, const char* file, int line) {
  machine().current->vote = vote;
  wait(State::at_barrier, file, line);
  return machine().current->any_vote;
}

inline int lane_index() { return machine().current_index % kWarp; }

// Brings `value` to a warp operation; what lane i brought is in result[i].
template <class T>
std::array<std::uint64_t, kWarp> exchange(unsigned mask, T value, const char* file, int line) {
  static_assert(sizeof(T) <= 8, "warp operations move at most 8 bytes");
  Fiber& self = *machine().current;
  if ((mask >> lane_index() & 1) == 0)
    throw std::runtime_error("a lane calls a warp operation whose mask leaves it out");
  self.mask = mask;
  self.given = 0;
  std::memcpy(&self.given, &value, sizeof(T));
  wait(State::at_warp, file, line);
  return self.received;
}
template <class T>
T shuffle(unsigned mask, T value, int source, int width, const char* file, int line) {
  const auto values = exchange(mask, value, file, line);
  const int base = lane_index() / width * width;
  if (source < base || source >= base + width) return value;
  T result;
  std::memcpy(&result, &values[source], sizeof(T));
  return result;
}

} // namespace fastseg::cuda_on_cpu
