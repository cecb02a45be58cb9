// The lattice as a Python object. Included by *_bind.cpp files.
#pragma once

#include <memory>
#include <vector>

#include "common/scratch_pool.h"
#include "permutohedral_lattice/permutohedral_lattice.h"

namespace fastseg::permutohedral_lattice {

// Frees its arrays. Shared: Python objects and calls under way hold it.
struct OwnedLattice : Lattice {
  OwnedLattice() = default;
  OwnedLattice(const OwnedLattice&) = delete;
  OwnedLattice& operator=(const OwnedLattice&) = delete;
  ~OwnedLattice() {
    give_scratch(rows);
    give_scratch(weights);
    give_scratch(neighbours);
  }
};
using LatticeList = std::vector<std::shared_ptr<OwnedLattice>>;

} // namespace fastseg::permutohedral_lattice
