// Hash tables of the lattice's construction: open addressing over arrays that keep the order of
// insertion. Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/scratch_pool.h"
#include "permutohedral_lattice/permutohedral_lattice.h"

namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL {

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
    Item* grown = static_cast<Item*>(take_scratch(count * sizeof(Item)));
    if (size_ > 0) std::memcpy(static_cast<void*>(grown), items_, size_ * sizeof(Item));
    give_scratch(items_);
    items_ = grown;
    capacity_ = count;
  }

private:
  Item* items_ = nullptr;
  std::int64_t size_ = 0, capacity_ = 0;
};

inline std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  return x ^ (x >> 32);
}

// Items by key: Item has `bool same(const Key&)` and `std::uint64_t hash()`; Key has hash() too.
// At most half of the slots are taken, so that the search ends soon.
template <class Item, class Key> class Table {
public:
  Table() { resize(1 << 12); }
  ~Table() { give_scratch(slots_); }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  // Asks for what the search of a key reads: first the slot, some time later the item that it
  // names.
  void prefetch_slot(const Key& key) const { __builtin_prefetch(slots_ + (key.hash() & mask_)); }
  void prefetch_item(const Key& key) const {
    const std::uint32_t index = slots_[key.hash() & mask_];
    if (index != 0) __builtin_prefetch(&items[index - 1]);
  }
  // Index of the item with this key, or -1.
  std::int64_t find(const Key& key) const {
    for (std::uint64_t h = key.hash() & mask_;; h = (h + 1) & mask_) {
      if (slots_[h] == 0) return -1;
      if (items[slots_[h] - 1].same(key)) return slots_[h] - 1;
    }
  }
  // The same; where there is none, appends one, to be filled by the caller: *is_new tells.
  std::int64_t find_or_add(const Key& key, bool* is_new) {
    std::uint64_t h = key.hash() & mask_;
    for (; slots_[h] != 0; h = (h + 1) & mask_)
      if (items[slots_[h] - 1].same(key)) {
        *is_new = false;
        return slots_[h] - 1;
      }
    *is_new = true;
    items.append();
    slots_[h] = static_cast<std::uint32_t>(items.size());
    return items.size() - 1;
  }
  // Makes room for so many items.
  void reserve(std::int64_t count) {
    std::uint64_t slots = mask_ + 1;
    while (slots < 2 * static_cast<std::uint64_t>(count)) slots *= 2;
    if (slots > mask_ + 1) resize(slots);
    items.reserve(count);
  }
  // After the new item was filled.
  void grow_if_full() {
    if (2 * static_cast<std::uint64_t>(items.size()) > mask_) resize(4 * (mask_ + 1));
  }

  Growing<Item> items;

private:
  void resize(std::uint64_t count) {
    give_scratch(slots_);
    slots_ = nullptr;
    slots_ = static_cast<std::uint32_t*>(take_scratch(count * sizeof(std::uint32_t)));
    std::memset(slots_, 0, count * sizeof(std::uint32_t));
    mask_ = count - 1;
    for (std::int64_t i = 0; i < items.size(); ++i) {
      std::uint64_t h = items[i].hash() & mask_;
      while (slots_[h] != 0) h = (h + 1) & mask_;
      slots_[h] = static_cast<std::uint32_t>(i + 1);
    }
  }

  std::uint32_t* slots_ = nullptr; // index + 1; 0: free
  std::uint64_t mask_ = 0;
};

// Coordinates of a vertex, all but the last (they add up to 0), 16 bits each.
struct VertexKey {
  std::uint64_t words[2];
  std::uint64_t hash() const { return mix(words[0] * 0x9e3779b97f4a7c15ull + words[1]); }
  bool same(const VertexKey& other) const {
    return words[0] == other.words[0] && words[1] == other.words[1];
  }
};
static_assert(sizeof(VertexKey) == 2 * kMaxFeatures);

inline VertexKey pack(const std::int16_t* coordinates, int count) {
  VertexKey key{};
  std::memcpy(key.words, coordinates, count * sizeof(std::int16_t));
  return key;
}
inline void unpack(const VertexKey& key, std::int16_t* coordinates) {
  std::memcpy(coordinates, key.words, sizeof(key.words));
}

// A simplex: its remainder-0 point and its ranks, packed; D ranks give the last one.
template <int D> struct SimplexKey {
  static constexpr int kWords = (D + 1) / 2 + 1;
  std::uint32_t words[kWords];
  std::uint64_t hash() const {
    std::uint64_t h = words[0];
    for (int i = 1; i < kWords; ++i) h = h * 0x9e3779b97f4a7c15ull + words[i];
    return mix(h);
  }
  bool same(const SimplexKey& other) const {
    std::uint32_t difference = 0;
    for (int i = 0; i < kWords; ++i) difference |= words[i] ^ other.words[i];
    return difference == 0;
  }
};
template <int D> struct Simplex {
  SimplexKey<D> key;
  std::int32_t vertices[D + 1];
  std::uint64_t hash() const { return key.hash(); }
  bool same(const SimplexKey<D>& other) const { return key.same(other); }
};

} // namespace fastseg::permutohedral_lattice::FASTSEG_CPU_LEVEL
