// Hash tables of the lattice's construction: open addressing over arrays that keep the order of
// insertion. Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/memory.h"
#include "common/scratch_pool.h"
#include "permutohedral_lattice/permutohedral_lattice.h"

namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL {

// Of the pool in any case: malloc would give memory of this size back to the system, again and
// again.
template <class Item> Item* take_table(std::int64_t count) {
  return static_cast<Item*>(
      take_scratch(std::max(array_bytes(count, sizeof(Item)), std::size_t{1} << 18)));
}

// Array that grows at its end; Item is trivially copyable.
template <class Item> class Growing {
public:
  Growing() = default;
  ~Growing() { give_scratch(items_); }
  Growing(const Growing&) = delete;
  Growing& operator=(const Growing&) = delete;

  std::int64_t size() const { return size_; }
  Item& operator[](std::int64_t i) { return items_[i]; }
  const Item& operator[](std::int64_t i) const { return items_[i]; }
  Item& append() {
    if (size_ == capacity_) reserve(std::max<std::int64_t>(2 * capacity_, 1024));
    return items_[size_++];
  }
  void reserve(std::int64_t count) {
    if (count <= capacity_) return;
    Item* grown = take_table<Item>(count);
    if (size_ > 0) std::memcpy(static_cast<void*>(grown), items_, size_ * sizeof(Item));
    give_scratch(items_);
    items_ = grown;
    capacity_ = count;
  }

  void clear() {
    give_scratch(items_);
    items_ = nullptr;
    size_ = capacity_ = 0;
  }

private:
  Item* items_ = nullptr;
  std::int64_t size_ = 0, capacity_ = 0;
};

// Hashes of lattice points are sums over their coordinates times odd numbers without a pattern:
// those of neighbours differ by constants, and their upper bits are spread well. Any such numbers
// do; these are the multipliers of public hash functions (Knuth's golden ratio, xxHash32,
// MurmurHash2 and 3, ...).
inline constexpr std::uint32_t kPointHash[kMaxPackedFeatures] = {
    0x9e3779b1, 0x85ebca77, 0xc2b2ae3d, 0x27d4eb2f, 0x165667b1, 0xd3a2646d, 0xfd7046c5, 0xb55a4f09};
inline constexpr std::uint32_t kRankHash[kMaxPackedFeatures] = {
    0x8da6b343, 0xd8163841, 0xcb1ab31f, 0x5bd1e995, 0x1b873593, 0xe6546b65, 0xcc9e2d51, 0x38495ab5};
inline std::uint32_t hash_of(std::uint32_t sum) { return sum | 1; } // never 0: that is a free slot

// Keys, numbered from 1 in the order of insertion; 0 stands for none. At least half of the slots
// are free, and a key belongs to a pair of them, so that nearly every search ends there: without a
// branch. A slot holds a number and the key's hash, which tells nearly all other keys apart.
template <class Key> class Table {
public:
  Table() = default;
  ~Table() { give_scratch(slots_); }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  std::int64_t size() const { return keys_.size() - 1; }
  const Key& operator[](std::int64_t number) const { return keys_[number]; }

  void prefetch(std::uint32_t hash) const { __builtin_prefetch(slots_ + home(hash)); }

  // The number of a key, or 0: there is none, or, rarely, it takes find() to see it: *unsure.
  std::uint32_t peek(std::uint32_t hash, const Key& key, bool* unsure = nullptr) const {
    const std::uint64_t* pair = slots_ + home(hash);
    const std::uint64_t a = pair[0], b = pair[1];
    const std::uint32_t of_a = a >> 32 == hash ? static_cast<std::uint32_t>(a) : 0;
    std::uint32_t number = b >> 32 == hash ? static_cast<std::uint32_t>(b) : of_a;
    number &= -static_cast<std::uint32_t>(keys_[number].same(key));
    if (unsure != nullptr) *unsure = (number == 0) & (b != 0);
    return number;
  }
  // The number of a key, or 0.
  std::uint32_t find(std::uint32_t hash, const Key& key) const {
    return static_cast<std::uint32_t>(slots_[search(hash, key)]);
  }
  // *is_new: it was added.
  std::uint32_t find_or_add(std::uint32_t hash, const Key& key, bool* is_new) {
    const std::uint64_t at = search(hash, key);
    *is_new = slots_[at] == 0;
    if (!*is_new) return static_cast<std::uint32_t>(slots_[at]);
    const std::uint32_t number = static_cast<std::uint32_t>(keys_.size());
    keys_.append() = key;
    slots_[at] = static_cast<std::uint64_t>(hash) << 32 | number;
    if (2 * static_cast<std::uint64_t>(number) > mask_) resize(2 * (mask_ + 1));
    return number;
  }
  // Takes memory for so many at least; more are possible. start() makes the table ready: it is for
  // the thread that will fill it.
  void reserve(std::int64_t count) {
    std::uint64_t slots = 1 << 10;
    while (slots < 2 * static_cast<std::uint64_t>(count)) slots *= 2;
    take_slots(slots);
    keys_.reserve(static_cast<std::int64_t>(slots / 2) + 1); // what is not used costs nothing
  }
  // Makes room for so many more.
  void grow(std::int64_t count) {
    const std::int64_t most = keys_.size() + count;
    std::uint64_t slots = mask_ + 1;
    while (slots < 2 * static_cast<std::uint64_t>(most)) slots *= 2;
    if (slots > mask_ + 1) resize(slots);
    keys_.reserve(most);
  }
  // Gives all memory back.
  void clear() {
    give_scratch(slots_);
    slots_ = nullptr;
    keys_.clear();
  }
  void start() {
    std::memset(slots_, 0, (mask_ + 1) * sizeof(std::uint64_t));
    keys_.append() = Key{};
  }

private:
  std::uint64_t home(std::uint32_t hash) const {
    return static_cast<std::uint64_t>(hash) >> shift_ << 1;
  }
  // The slot of a key, or the free one where it belongs.
  std::uint64_t search(std::uint32_t hash, const Key& key) const {
    std::uint64_t at = home(hash);
    for (; slots_[at] != 0; at = (at + 1) & mask_)
      if (slots_[at] >> 32 == hash && keys_[static_cast<std::uint32_t>(slots_[at])].same(key))
        break;
    return at;
  }
  void take_slots(std::uint64_t count) {
    slots_ = take_table<std::uint64_t>(static_cast<std::int64_t>(count));
    mask_ = count - 1;
    shift_ = std::max(33 - __builtin_ctzll(count), 0);
  }
  void resize(std::uint64_t count) {
    std::uint64_t* const old = slots_;
    const std::uint64_t old_count = mask_ + 1;
    take_slots(count);
    std::memset(slots_, 0, count * sizeof(std::uint64_t));
    for (std::uint64_t i = 0; i < old_count; ++i) {
      if (old[i] == 0) continue;
      std::uint64_t at = home(static_cast<std::uint32_t>(old[i] >> 32));
      while (slots_[at] != 0) at = (at + 1) & mask_;
      slots_[at] = old[i];
    }
    give_scratch(old);
  }

  Growing<Key> keys_;              // the first one is never asked for
  std::uint64_t* slots_ = nullptr; // 0: free
  std::uint64_t mask_ = 0;
  int shift_ = 0;
};

// Coordinates of a vertex, all but the last (they add up to 0), 16 bits each.
struct VertexKey {
  typedef std::int16_t Coordinates __attribute__((vector_size(2 * kMaxPackedFeatures)));
  typedef std::uint64_t Words __attribute__((vector_size(2 * kMaxPackedFeatures)));
  Coordinates at;
  std::uint64_t word(int i) const { return reinterpret_cast<Words>(at)[i]; }
  bool same(const VertexKey& other) const {
    return ((word(0) ^ other.word(0)) | (word(1) ^ other.word(1))) == 0;
  }
};

// What vertex m of a simplex has more than vertex m - 1: 1 in every coordinate, but in one of them
// 1 - (D + 1). The neighbours of a vertex are as far away.
template <int D> struct Steps {
  VertexKey::Coordinates at[D + 1] = {};
  std::uint32_t hash[D + 1] = {};
  Steps() {
    for (int axis = 0; axis <= D; ++axis)
      for (int i = 0; i < D; ++i) {
        at[axis][i] = static_cast<std::int16_t>(i == axis ? -D : 1);
        hash[axis] += kPointHash[i] * static_cast<std::uint32_t>(at[axis][i]);
      }
  }
};

// A simplex: its remainder-0 point and its ranks, packed; D ranks give the last one.
template <int D> struct SimplexKey {
  static constexpr int kRankBits = D < 8 ? 3 : 4, kUsed = 16 * (D % 4); // bits of the last word
  static constexpr int kRankWord = kUsed > 0 && kUsed + D* kRankBits <= 64 ? D / 4 : (D + 3) / 4;
  static constexpr int kRankShift = kRankWord == D / 4 ? kUsed : 0;
  static constexpr int kWords = kRankWord + 1;
  std::uint64_t words[kWords];
  // Its remainder-0 vertex.
  VertexKey point() const {
    VertexKey::Words at{};
    for (int w = 0; w < (D + 3) / 4; ++w) at[w] = words[w];
    if (kUsed > 0) at[(D - 1) / 4] &= (std::uint64_t{1} << kUsed) - 1;
    return {reinterpret_cast<VertexKey::Coordinates>(at)};
  }
  bool same(const SimplexKey& other) const {
    std::uint64_t difference = 0;
    for (int i = 0; i < kWords; ++i) difference |= words[i] ^ other.words[i];
    return difference == 0;
  }
};

using Vertices = Table<VertexKey>;

// The rows of a simplex's vertices.
template <int D> struct Corners {
  std::int32_t rows[D + 1];
};

// What one thread at a time makes of some blocks of pixels. On cache lines of its own: threads
// write to their parts all the time.
template <int D> struct alignas(128) Part {
  Vertices vertices;
  Table<SimplexKey<D>> simplices;
  Growing<Corners<D>> corners;     // of the simplices
  std::int64_t first = 0, end = 0; // blocks
  std::int64_t bad_block = -1;
};

} // namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL
