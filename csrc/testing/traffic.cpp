#include "testing/traffic.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "testing/cuda_on_cpu.h"

namespace fastseg::traffic {
namespace {

constexpr std::uintptr_t kSector = 32;
constexpr int kBanks = 32;
constexpr std::int64_t kRun = 4; // neighbouring blocks

using cuda_on_cpu::kWarp;

struct Event {
  const void* place; // in the code
  std::uintptr_t address;
  std::uint32_t bytes;
  bool write, shared;
};

struct Region {
  std::uintptr_t begin, end;
};

struct State {
  bool watching = false, counting = false;
  bool busy = false; // the counting itself calls instrumented functions, such as machine()
  std::int64_t sampled_blocks = 0;
  std::vector<Region> memory;
  std::vector<Launch> launches;
  std::vector<std::vector<Event>> events; // by thread
  std::unordered_set<std::uintptr_t> read, read_by_block, written;
  // The vector access whose words follow.
  std::uintptr_t vector_begin = 0, vector_end = 0;
  int vector_thread = -1;
  bool vector_write = false;
};

State& state() {
  static State s;
  return s;
}

struct Busy {
  Busy() { state().busy = true; }
  ~Busy() { state().busy = false; }
};

bool is_global(std::uintptr_t a) {
  const auto& memory = state().memory;
  return std::any_of(memory.begin(), memory.end(),
                     [a](const Region& r) { return a >= r.begin && a < r.end; });
}

bool is_shared(std::uintptr_t a) {
  for (const auto& [key, shared] : cuda_on_cpu::machine().shared) {
    const auto begin = reinterpret_cast<std::uintptr_t>(shared.bytes.get());
    if (a >= begin && a < begin + shared.size) return true;
  }
  return false;
}

void record(const void* p, std::size_t bytes, bool write, const void* place, bool vector) {
  State& s = state();
  if (!s.counting || s.busy) return;
  const Busy busy;
  const int thread = cuda_on_cpu::machine().current_index;
  const auto a = reinterpret_cast<std::uintptr_t>(p);
  if (vector) {
    s.vector_begin = a;
    s.vector_end = a + bytes;
    s.vector_thread = thread;
    s.vector_write = write;
  } else if (s.vector_thread == thread && s.vector_write == write && a >= s.vector_begin &&
             a + bytes <= s.vector_end) {
    return;
  }
  const bool global = is_global(a);
  if (!global && !is_shared(a)) return; // the thread's own: registers on a GPU
  s.events[thread].push_back({place, a, static_cast<std::uint32_t>(bytes), write, !global});
}

// The lanes whose accesses share a pass over the memory: 128 bytes of them.
std::size_t lanes_at_once(std::uint32_t bytes) { return bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8; }

// Sectors of a request, each with the bytes of it that are asked for.
struct Sector {
  std::uintptr_t number;
  std::uint32_t bytes;
};

void count_global(const std::vector<const Event*>& lanes) {
  State& s = state();
  const bool write = lanes[0]->write;
  Accesses& accesses = write ? s.launches.back().stores : s.launches.back().loads;
  std::vector<Sector> sectors;
  for (const Event* e : lanes)
    for (std::uintptr_t a = e->address; a < e->address + e->bytes;) {
      const std::uintptr_t next = std::min((a / kSector + 1) * kSector, e->address + e->bytes);
      const std::uint32_t bytes = ~0u >> (kSector - (next - a)) << (a % kSector);
      if (!sectors.empty() && sectors.back().number == a / kSector)
        sectors.back().bytes |= bytes;
      else
        sectors.push_back({a / kSector, bytes});
      a = next;
    }
  std::sort(sectors.begin(), sectors.end(),
            [](const Sector& x, const Sector& y) { return x.number < y.number; });
  ++accesses.requests;
  for (std::size_t i = 0; i < sectors.size();) {
    std::uint32_t bytes = 0;
    const std::uintptr_t number = sectors[i].number;
    for (; i < sectors.size() && sectors[i].number == number; ++i) bytes |= sectors[i].bytes;
    ++accesses.sent;
    accesses.partial += bytes != ~0u;
    (write ? s.written : s.read_by_block).insert(number);
  }
}

void count_shared(const std::vector<const Event*>& lanes) {
  Launch& launch = state().launches.back();
  const std::size_t group = lanes_at_once(lanes[0]->bytes);
  for (std::size_t begin = 0; begin < lanes.size(); begin += group) {
    std::array<std::vector<std::uintptr_t>, kBanks> words;
    for (std::size_t i = begin; i < std::min(begin + group, lanes.size()); ++i)
      for (std::uintptr_t w = lanes[i]->address / 4;
           w <= (lanes[i]->address + lanes[i]->bytes - 1) / 4; ++w) {
        auto& bank = words[w % kBanks];
        if (std::find(bank.begin(), bank.end(), w) == bank.end()) bank.push_back(w);
      }
    std::size_t most = 1;
    for (const auto& bank : words) most = std::max(most, bank.size());
    ++launch.shared_groups;
    launch.wavefronts += static_cast<std::int64_t>(most);
  }
}

struct Request {
  const void* place;
  int time;
  bool operator==(const Request& other) const { return place == other.place && time == other.time; }
};
struct Hash {
  std::size_t operator()(const Request& r) const {
    return reinterpret_cast<std::uintptr_t>(r.place) * 31 + static_cast<std::size_t>(r.time);
  }
};

void count_warp(std::size_t first) {
  State& s = state();
  std::unordered_map<Request, std::vector<const Event*>, Hash> requests;
  std::unordered_map<const void*, int> times;
  for (std::size_t t = first; t < std::min(first + kWarp, s.events.size()); ++t) {
    times.clear();
    for (const Event& e : s.events[t]) requests[{e.place, times[e.place]++}].push_back(&e);
  }
  for (const auto& [key, lanes] : requests) {
    if (lanes[0]->shared)
      count_shared(lanes);
    else
      count_global(lanes);
  }
}

} // namespace

void start(std::int64_t sampled_blocks) {
  State& s = state();
  s = State();
  s.watching = true;
  s.sampled_blocks = sampled_blocks;
}

std::vector<Launch> stop() {
  State& s = state();
  s.watching = false;
  return std::move(s.launches);
}

bool watching() { return state().watching; }

void add_memory(const void* p, std::size_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(p);
  if (bytes > 0) state().memory.push_back({begin, begin + bytes});
}

std::vector<std::int64_t> begin_launch(const char* what, const void* kernel, std::int64_t blocks,
                                       int threads) {
  State& s = state();
  const std::int64_t wanted = std::min(blocks, s.sampled_blocks);
  const std::int64_t run = std::min(kRun, std::max<std::int64_t>(wanted, 1));
  const std::int64_t runs = wanted / run;
  std::vector<std::int64_t> chosen;
  for (std::int64_t r = 0; r < runs; ++r) {
    const std::int64_t first =
        wanted == blocks ? r * run : (blocks - run) * r / std::max<std::int64_t>(runs - 1, 1);
    for (std::int64_t k = 0; k < run; ++k) chosen.push_back(first + k);
  }
  for (std::int64_t b = runs * run; wanted == blocks && b < blocks; ++b) chosen.push_back(b);
  s.launches.push_back({what, kernel, blocks, threads, static_cast<std::int64_t>(chosen.size()),
                        Accesses(), Accesses()});
  s.events.assign(static_cast<std::size_t>(threads), {});
  s.read.clear();
  s.read_by_block.clear();
  s.written.clear();
  s.counting = true;
  return chosen;
}

void end_block() {
  State& s = state();
  end_phase();
  if (!s.counting) return;
  s.launches.back().loads.by_blocks += static_cast<std::int64_t>(s.read_by_block.size());
  s.read.insert(s.read_by_block.begin(), s.read_by_block.end());
  s.read_by_block.clear();
}

void end_phase() {
  State& s = state();
  if (!s.counting) return;
  const Busy busy;
  for (std::size_t first = 0; first < s.events.size(); first += kWarp) count_warp(first);
  for (auto& events : s.events) events.clear();
}

void end_launch() {
  State& s = state();
  s.counting = false;
  s.vector_thread = -1;
  if (!s.watching) return;
  s.launches.back().loads.needed = static_cast<std::int64_t>(s.read.size());
  s.launches.back().stores.needed = static_cast<std::int64_t>(s.written.size());
}

__attribute__((noinline)) void read_vector(const void* p, std::size_t bytes) {
  record(p, bytes, false, __builtin_return_address(0), true);
}
__attribute__((noinline)) void write_vector(const void* p, std::size_t bytes) {
  record(p, bytes, true, __builtin_return_address(0), true);
}

} // namespace fastseg::traffic

// What the compiler calls before each access of an instrumented file.
#define FASTSEG_HOOK(bytes, name, write)                                                           \
  void __tsan_##name##bytes(void* p) {                                                             \
    fastseg::traffic::record(p, bytes, write, __builtin_return_address(0), false);                 \
  }
#define FASTSEG_HOOKS(bytes)                                                                       \
  FASTSEG_HOOK(bytes, read, false)                                                                 \
  FASTSEG_HOOK(bytes, write, true)                                                                 \
  FASTSEG_HOOK(bytes, unaligned_read, false)                                                       \
  FASTSEG_HOOK(bytes, unaligned_write, true)                                                       \
  FASTSEG_HOOK(bytes, volatile_read, false)                                                        \
  FASTSEG_HOOK(bytes, volatile_write, true)
#pragma GCC visibility push(hidden)
extern "C" {
FASTSEG_HOOKS(1)
FASTSEG_HOOKS(2)
FASTSEG_HOOKS(4)
FASTSEG_HOOKS(8)
FASTSEG_HOOKS(16)
void __tsan_read_range(void* p, unsigned long bytes) {
  fastseg::traffic::record(p, bytes, false, __builtin_return_address(0), false);
}
void __tsan_write_range(void* p, unsigned long bytes) {
  fastseg::traffic::record(p, bytes, true, __builtin_return_address(0), false);
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
int __tsan_atomic32_fetch_add(volatile int* p, int v, int) { return __atomic_fetch_add(p, v, 5); }
int __tsan_atomic32_load(const volatile int* p, int) { return __atomic_load_n(p, 5); }
signed char __tsan_atomic8_load(const volatile signed char* p, int) {
  return __atomic_load_n(p, 5);
}
}
#pragma GCC visibility pop
