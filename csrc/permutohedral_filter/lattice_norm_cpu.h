// The filter of ones, and what normalisations make of it: one value per vertex, 16 pixels at a
// time. Included only by permutohedral_filter_cpu.cpp; lives in the level's namespace.
#pragma once

#include "common/parallel_cpu.h"
#include "common/scratch_cpu.h"
#include "permutohedral_filter/permutohedral_filter.h"
#include "permutohedral_lattice/vertex_rows_cpu.h"

namespace fastseg::permutohedral_filter::FASTSEG_CPU_LEVEL {

using namespace permutohedral_lattice::FASTSEG_CPU_LEVEL;
using permutohedral_lattice::kBlock;

// Its norm has the bits that Filter would give.
template <class T> class Norm {
public:
  Norm(const Lattice& lattice, int threads)
      : lattice_(lattice), threads_(threads),
        chunks_(chunk_count(lattice_.blocks, lattice_.vertices)),
        rows_(whole_lines(lattice_.vertices + 1)),
        memory_(std::max<std::int64_t>(chunks_, 2) * rows_) {}

  // out [P]
  void run(NormFactor factor, T* out) {
    parallel_for(chunks_, threads_, [&](std::int64_t c) { splat(c); });
    T* sums = memory_.get();
    for (std::int64_t c = 1; c < chunks_; ++c)
      for (std::int64_t row = 1; row <= lattice_.vertices; ++row)
        sums[row] += sums[c * rows_ + row];
    sums[0] = sums[rows_] = T(0);
    T* other = memory_.get() + rows_;
    const std::int64_t pieces = lattice_.vertices > 1 << 16 ? 4 * threads_ : 1;
    for (int axis = 0; axis < lattice_.corners; ++axis) {
      const T scale = axis + 1 == lattice_.corners ? lattice_.alpha : T(1);
      parallel_for(pieces, threads_, [&](std::int64_t p) {
        blur(axis, sums, other, scale, lattice_.vertices * p / pieces,
             lattice_.vertices * (p + 1) / pieces);
      });
      std::swap(sums, other);
    }
    const std::int64_t tasks = (lattice_.blocks + 255) / 256;
    parallel_for(tasks, threads_, [&](std::int64_t task) {
      const std::int64_t end = std::min(lattice_.blocks, (task + 1) * 256);
      for (std::int64_t b = task * 256; b < end; ++b) slice(b, sums, factor, out);
    });
  }

private:
  void splat(std::int64_t chunk) {
    const std::int64_t first = lattice_.blocks * chunk / chunks_;
    const std::int64_t end = lattice_.blocks * (chunk + 1) / chunks_;
    T* const sums = memory_.get() + chunk * rows_;
    std::fill_n(sums, rows_, T(0));
    for (std::int64_t b = first; b < end; ++b) {
      const std::int32_t* rows = lattice_.rows + lattice_.at(b);
      const T* weights = lattice_.weights + lattice_.at(b);
      for (std::int64_t p = 0; p < kBlock; ++p)
        for (int m = 0; m < lattice_.corners; ++m)
          sums[rows[m * kBlock + p]] += weights[m * kBlock + p];
    }
  }

  void blur(int axis, const T* in, T* out, T scale, std::int64_t first, std::int64_t end) const {
    const std::int32_t* links = lattice_.neighbours + 2 * axis * lattice_.vertices;
    for (std::int64_t v = first; v < end; ++v)
      out[v + 1] = (in[v + 1] + T(0.5) * (in[links[2 * v]] + in[links[2 * v + 1]])) * scale;
  }

  void slice(std::int64_t b, const T* vertices, NormFactor factor, T* out) const {
    alignas(64) T values[kBlock];
    for (int first = 0; first < kBlock; first += kLanes<T>) {
      vec<T> sum{};
      for (int m = 0; m < lattice_.corners; ++m) {
        const std::int64_t at = lattice_.at(b) + m * kBlock + first;
        ivec<T> rows;
        for (int k = 0; k < kLanes<T>; ++k) rows[k] = lattice_.rows[at + k];
        sum += gather(vertices, rows) * load_vec(lattice_.weights + at);
      }
      store_vec(values + first, sum);
    }
    constexpr double tiny = 1e-20; // pydensecrf's, lest a norm be 0
    if (factor == NormFactor::reciprocal)
      for (T& value : values) value = T(1) / (value + T(tiny));
    if (factor == NormFactor::reciprocal_root) // rounded once
      for (T& value : values) value = static_cast<T>(1 / std::sqrt(value + tiny));
    std::copy_n(values, std::min(kBlock, lattice_.pixels - b * kBlock), out + b * kBlock);
  }

  LatticeView<T> lattice_;
  int threads_;
  std::int64_t chunks_, rows_;
  Scratch<T> memory_;
};

} // namespace fastseg::permutohedral_filter::FASTSEG_CPU_LEVEL
