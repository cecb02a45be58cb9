// CPU twin. Labels go in groups of up to 32, one row of values per vertex; each group is a filter
// of its own. The pixels are splatted in a few chunks with accumulators of their own, which are
// summed in order: the bits do not depend on the number of threads.
#include "permutohedral_filter/permutohedral_filter.h"

#include "common/buffer_cpu.h"
#include "common/parallel_cpu.h"
#include "common/scratch_cpu.h"
#include "permutohedral_filter/lattice_norm_cpu.h"
#include "permutohedral_lattice/vertex_rows_cpu.h"

namespace fastseg::permutohedral_filter::FASTSEG_CPU_LEVEL {
namespace {

template <class T, int W> class Filter {
  using R = Row<T, W>;
  using Rows = RowArray<T, W>;

public:
  // Filters `labels` <= W rows of values.
  Filter(const Lattice& lattice, std::int64_t labels, int threads)
      : lattice_(lattice), labels_(labels), threads_(threads),
        chunks_(chunk_count(lattice_.blocks, lattice_.vertices)),
        rows_(whole_lines(lattice_.vertices + 1)), size_(rows_ * W),
        memory_((chunks_ + 1) * size_) {}

  // The values of the vertices after splat and blur of values [labels, P].
  Rows spread(const T* values, bool transpose) {
    RowRange touched[8];
    parallel_for(chunks_, threads_, [&](std::int64_t c) { touched[c] = splat(values, c); });
    merge(touched);
    Rows in = rows(0), out = rows(1);
    const std::int64_t pieces = lattice_.vertices * W > 1 << 18 ? threads_ : 1;
    for (int i = 0; i < lattice_.corners; ++i) {
      const int axis = transpose ? lattice_.corners - 1 - i : i;
      const T scale = i + 1 == lattice_.corners ? lattice_.alpha : T(1);
      parallel_for(pieces, threads_, [&](std::int64_t p) {
        blur_axis<T, W>(lattice_, axis, in, out, scale, lattice_.vertices * p / pieces,
                        lattice_.vertices * (p + 1) / pieces);
      });
      std::swap(in, out);
    }
    return in;
  }

  void slice(const Rows& vertices, T* out) {
    parallel_for(tasks(), threads_, [&](std::int64_t task) {
      BlockRows<T, W> block;
      for (std::int64_t b = first_block(task); b < first_block(task + 1); ++b) {
        const std::int64_t at = lattice_.at(b);
        for (std::int64_t p = 0; p < kBlock; ++p) {
          R sum = R::zero();
          for (int m = 0; m < lattice_.corners; ++m) {
            const std::int64_t i = at + m * kBlock + p;
            sum.add(R::load(vertices, lattice_.rows[i]), lattice_.weights[i]);
          }
          block.set_row(p, sum);
        }
        block.to_labels();
        const std::int64_t count = std::min(kBlock, lattice_.pixels - b * kBlock);
        for (std::int64_t l = 0; l < labels_; ++l)
          std::copy_n(block.values + l * kBlock, count, out + l * lattice_.pixels + b * kBlock);
      }
    });
  }

  // grad_weights += d / d weights of <grad, filter(values)>, from the blurred values and the
  // blurred grad.
  void weights(const T* values, const T* grad, const Rows& blurred, const Rows& blurred_grad,
               T* grad_weights) {
    parallel_for(tasks(), threads_, [&](std::int64_t task) {
      BlockRows<T, W> value, slope;
      for (std::int64_t b = first_block(task); b < first_block(task + 1); ++b) {
        read(values, b, value);
        read(grad, b, slope);
        for (int m = 0; m < lattice_.corners; ++m)
          for (std::int64_t p = 0; p < kBlock; ++p) {
            const std::int64_t i = lattice_.at(b) + m * kBlock + p;
            const std::int64_t row = lattice_.rows[i];
            grad_weights[i] += slope.row(p).dot(R::load(blurred, row)) +
                               value.row(p).dot(R::load(blurred_grad, row));
          }
      }
    });
  }

private:
  std::int64_t tasks() const { return (lattice_.blocks + 127) / 128; }
  std::int64_t first_block(std::int64_t task) const {
    return std::min<std::int64_t>(task * 128, lattice_.blocks);
  }
  Rows rows(std::int64_t array) { return Rows(memory_.get() + array * size_, rows_); }

  // The block's values by pixel; zero beyond the last pixel and label.
  void read(const T* values, std::int64_t b, BlockRows<T, W>& block) const {
    const std::int64_t count = std::min(kBlock, lattice_.pixels - b * kBlock);
    std::fill_n(block.values, W * kBlock, T(0));
    for (std::int64_t l = 0; l < labels_; ++l)
      std::copy_n(values + l * lattice_.pixels + b * kBlock, count, block.values + l * kBlock);
    block.to_rows();
  }

  RowRange splat(const T* values, std::int64_t chunk) {
    const std::int64_t first = lattice_.blocks * chunk / chunks_;
    const std::int64_t end = lattice_.blocks * (chunk + 1) / chunks_;
    const RowRange range =
        touched_rows(lattice_.rows + lattice_.at(first), lattice_.at(end) - lattice_.at(first));
    const Rows sums = rows(chunk);
    for (std::int64_t row = range.first; row < range.end; ++row) R::zero().store(sums, row);
    BlockRows<T, W> block;
    for (std::int64_t b = first; b < end; ++b) {
      read(values, b, block);
      for (std::int64_t p = 0; p < kBlock; ++p) {
        const R value = block.row(p);
        for (int m = 0; m < lattice_.corners; ++m) {
          const std::int64_t i = lattice_.at(b) + m * kBlock + p;
          R sum = R::load(sums, lattice_.rows[i]);
          sum.add(value, lattice_.weights[i]);
          sum.store(sums, lattice_.rows[i]);
        }
      }
    }
    return range;
  }

  // Array 0 becomes the sum of the chunks; row 0 of arrays 0 and 1 becomes zero.
  void merge(const RowRange* touched) {
    const Rows sums = rows(0);
    const std::int64_t count = lattice_.vertices, pieces = count * W > 1 << 18 ? threads_ : 1;
    parallel_for(pieces, threads_, [&](std::int64_t piece) {
      for (std::int64_t row = 1 + count * piece / pieces; row <= count * (piece + 1) / pieces;
           ++row) {
        R sum = R::zero();
        for (std::int64_t c = 0; c < chunks_; ++c)
          if (row >= touched[c].first && row < touched[c].end) sum.add(R::load(rows(c), row));
        sum.store(sums, row);
      }
    });
    R::zero().store(sums, 0);
    R::zero().store(rows(1), 0);
  }

  LatticeView<T> lattice_;
  std::int64_t labels_;
  int threads_;
  std::int64_t chunks_, rows_, size_;
  Scratch<T> memory_;
};

// Calls fn(integral_constant<W>) with the narrowest row that holds `labels`.
template <class Fn> void dispatch_width(std::int64_t labels, const Fn& fn) {
  if (labels <= 4) return fn(std::integral_constant<int, 4>{});
  if (labels <= 8) return fn(std::integral_constant<int, 8>{});
  if (labels <= 16) return fn(std::integral_constant<int, 16>{});
  if (labels <= 24) return fn(std::integral_constant<int, 24>{});
  return fn(std::integral_constant<int, 32>{});
}

// Calls fn(TypeTag<T>, image, first label, labels, threads) for every group of labels; images at
// the same time where there are enough of them.
template <class Fn>
void each_group(const Lattices& lattices, std::int64_t batch, std::int64_t labels, int threads,
                const Fn& fn) {
  const auto image = [&](std::int64_t n, int inner) {
    const auto groups = [&](auto tag) {
      for (std::int64_t l = 0; l < labels; l += 32)
        fn(tag, n, l, std::min<std::int64_t>(labels - l, 32), inner);
    };
    if (lattices.of(n).dtype == DType::float64) return groups(TypeTag<double>{});
    groups(TypeTag<float>{});
  };
  if (batch >= threads) return parallel_for(batch, threads, [&](std::int64_t n) { image(n, 1); });
  for (std::int64_t n = 0; n < batch; ++n) image(n, threads);
}

void filter(const Lattices& lattices, std::int64_t batch, std::int64_t labels, const void* values,
            void* out, bool transpose, int threads) {
  each_group(lattices, batch, labels, threads,
             [&](auto tag, std::int64_t n, std::int64_t first, std::int64_t count, int inner) {
               using T = typename decltype(tag)::type;
               const Lattice& lattice = lattices.of(n);
               const std::int64_t at = (n * labels + first) * lattice.pixels;
               dispatch_width(count, [&](auto width) {
                 Filter<T, width()> group(lattice, count, inner);
                 group.slice(group.spread(static_cast<const T*>(values) + at, transpose),
                             static_cast<T*>(out) + at);
               });
             });
}

void backward(const Lattices& lattices, std::int64_t batch, std::int64_t labels, const void* values,
              const void* grad_out, void* grad_values, void* grad_weights, bool transpose,
              int threads) {
  each_group(lattices, batch, labels, threads,
             [&](auto tag, std::int64_t n, std::int64_t first, std::int64_t count, int inner) {
               using T = typename decltype(tag)::type;
               const Lattice& lattice = lattices.of(n);
               const std::int64_t at = (n * labels + first) * lattice.pixels;
               const std::int64_t weights = lattice.blocks() * (lattice.features + 1) * kBlock;
               dispatch_width(count, [&](auto width) {
                 const T* in = static_cast<const T*>(values) + at;
                 const T* grad = static_cast<const T*>(grad_out) + at;
                 T* to_weights = static_cast<T*>(grad_weights) + n * weights;
                 if (first == 0) std::fill_n(to_weights, weights, T(0));
                 Filter<T, width()> forward(lattice, count, inner), back(lattice, count, inner);
                 const auto blurred = forward.spread(in, transpose);
                 const auto blurred_grad = back.spread(grad, !transpose);
                 back.slice(blurred_grad, static_cast<T*>(grad_values) + at);
                 back.weights(in, grad, blurred, blurred_grad, to_weights);
               });
             });
}

void norm(const Lattice* const* lattices, std::int64_t count, NormFactor factor, void* out,
          int threads) {
  for (std::int64_t n = 0; n < count; ++n) {
    const std::int64_t at = n * lattices[n]->pixels;
    if (lattices[n]->dtype == DType::float64)
      Norm<double>(*lattices[n], threads).run(factor, static_cast<double*>(out) + at);
    else
      Norm<float>(*lattices[n], threads).run(factor, static_cast<float*>(out) + at);
  }
}

} // namespace

const CpuKernels kernels{filter, backward, norm};

} // namespace fastseg::permutohedral_filter::FASTSEG_CPU_LEVEL
