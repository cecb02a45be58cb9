// CUDA twin. A step splats and blurs the probabilities on every lattice; one kernel then slices all
// of them, adds the logits and has the softmax in registers. A full compatibility mixes the labels
// of the vertices, which are far fewer than the pixels.
#include "mean_field/mean_field_cuda.h"

#include <cmath>

#include "common/cuda_vector.h"
#include "permutohedral_lattice/vertex_values_cuda.h"

namespace fastseg::mean_field::cuda {
namespace {

using namespace permutohedral_lattice::cuda;

constexpr int kThreads = kPlaceThreads;
constexpr int kWarp = 32;

// What a step reads of a term.
struct Message {
  const std::int32_t* rows; // [pixels of the lattice, corners]
  const float* weights;
  const float* table; // [replicas, rows of a table, stride]
  const float* factors;
  std::int64_t table_rows;
  int corners;
  bool shared; // by the images: each has a table
};

struct Step {
  std::int64_t batch, pixels, labels, stride;
  int group_log2; // threads of a pixel: a power of two
  int terms;
  Message message[kMaxKernels];
  const float* logits;  // null: the sum of the messages alone is wanted, in place of probabilities
  float* probabilities; // null: not wanted
  std::int32_t* map;    // null: not wanted
  std::int32_t* bad;    // null: not wanted
};

// Thread `lane` of a pixel has kVectors vectors of kItems labels, `group` vectors apart.
template <int kItems, int kVectors>
__global__ void __launch_bounds__(kThreads, kVectors == 1 ? 5 : 8 / kVectors)
    mean_field_fwd_bwd_step_kernel(const Step s) {
  constexpr unsigned kAll = 0xffffffff;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t pixels = s.batch * s.pixels;
  const int group = 1 << s.group_log2;
  const int lane = threadIdx.x & (group - 1);
  const std::int64_t own = thread >> s.group_log2;
  const std::int64_t pixel = min(own, pixels - 1); // all lanes of a warp stay for the shuffles
  const Division at = divide(pixel, s.pixels);
  const auto label_of = [&](int v) { return (v * group + lane) * kItems; };

  float t[kVectors][kItems];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    Items<float, kItems> logits{};
    const bool given = s.logits != nullptr;
    if (given && label_of(v) < s.stride)
      logits = load_items<kItems>(s.logits + pixel * s.stride + label_of(v));
#pragma unroll
    for (int k = 0; k < kItems; ++k)
      t[v][k] = given && label_of(v) + k >= s.labels ? -INFINITY : logits.v[k];
  }
#pragma unroll 1
  for (int i = 0; i < s.terms; ++i) {
    const Message& m = s.message[i];
    const std::int64_t corner = (m.shared ? at.remainder : pixel) * m.corners;
    const float* table = m.table + (m.shared ? at.quotient * m.table_rows * s.stride : 0);
    float sum[kVectors][kItems] = {};
#pragma unroll 3
    for (int c = 0; c < m.corners; ++c) {
      const float weight = load(m.weights + corner + c);
      const float* row = table + m.rows[corner + c] * s.stride;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (label_of(v) >= s.stride) continue;
        const auto values = load_items<kItems>(row + label_of(v));
#pragma unroll
        for (int k = 0; k < kItems; ++k) sum[v][k] += weight * values.v[k];
      }
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (label_of(v) >= s.stride) continue;
      Items<float, kItems> factors;
#pragma unroll
      for (int k = 0; k < kItems; ++k) factors.v[k] = 1;
      if (m.factors != nullptr) factors = load_items<kItems>(m.factors + label_of(v));
#pragma unroll
      for (int k = 0; k < kItems; ++k)
        if (label_of(v) + k < s.labels) t[v][k] += factors.v[k] * sum[v][k];
    }
  }

  const auto store = [&] {
    if (s.probabilities == nullptr || own >= pixels) return;
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      if (label_of(v) < s.stride)
        store_items<kItems>(s.probabilities + pixel * s.stride + label_of(v), t[v]);
  };
  if (s.logits == nullptr) return store();

  float largest = -INFINITY;
#pragma unroll
  for (int v = 0; v < kVectors; ++v)
#pragma unroll
    for (int k = 0; k < kItems; ++k) largest = fmaxf(largest, t[v][k]);
  for (int o = group / 2; o > 0; o /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(kAll, largest, o));
  float total = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v)
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      t[v][k] = expf(t[v][k] - largest);
      total += t[v][k];
    }
  for (int o = group / 2; o > 0; o /= 2) total += __shfl_xor_sync(kAll, total, o);
  // A NaN is in the total; of infinities alone, or of one that is positive, so it is as well.
  const bool finite = total - total == 0;
  if (!finite && lane == 0 && s.bad != nullptr)
    atomicMin(s.bad, static_cast<std::int32_t>(at.quotient));
  const float scale = 1 / total;
#pragma unroll
  for (int v = 0; v < kVectors; ++v)
#pragma unroll
    for (int k = 0; k < kItems; ++k) t[v][k] *= scale;

  store();
  if (s.map == nullptr) return;
  float best = -1;
  int label = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v)
#pragma unroll
    for (int k = 0; k < kItems; ++k)
      if (t[v][k] > best) {
        best = t[v][k];
        label = label_of(v) + k;
      }
  for (int o = group / 2; o > 0; o /= 2) {
    const float other = __shfl_xor_sync(kAll, best, o);
    const int other_label = __shfl_xor_sync(kAll, label, o);
    if (other > best || (other == best && other_label < label)) {
      best = other;
      label = other_label;
    }
  }
  if (lane == 0 && own < pixels) s.map[pixel] = label;
}

struct Mix {
  std::int64_t replicas, capacity, labels, stride;
  const std::int32_t* count;
  const float* transposed; // [labels, stride]
  const float* in;
  float* out;
};

// out[r] = compatibility @ in[r] for every row r of a table.
template <int kItems>
__global__ void __launch_bounds__(kThreads) mean_field_fwd_bwd_mix_kernel(const Mix p) {
  const Place at = place<kItems>(p.replicas, p.capacity + 1, p.stride / kItems);
  if (at.offset < 0 || at.index > *p.count) return;
  const std::int64_t row = (at.replica * (p.capacity + 1) + at.index) * p.stride;
  float sum[kItems] = {};
#pragma unroll 4
  for (std::int64_t l = 0; l < p.labels; ++l) {
    const float value = load(p.in + row + l);
    const auto column = load_items<kItems>(p.transposed + l * p.stride + at.offset);
#pragma unroll
    for (int k = 0; k < kItems; ++k) sum[k] += column.v[k] * value;
  }
  store_items<kItems>(p.out + row + at.offset, sum);
}

RowLayout layout_of(const Term& term, const Shape& shape) {
  return row_layout(DType::float32, term.lattice.shape.batch == 1 ? shape.batch : 1, shape.labels);
}

// Calls fn(integral_constant<items>).
template <class Fn> void dispatch_items(const RowLayout& layout, const Fn& fn) {
  dispatch_rows(DType::float32, layout, [&](auto tag, auto items) {
    if constexpr (std::is_same_v<typename decltype(tag)::type, float>) fn(items);
  });
}

void launch_step(Step s, const RowLayout& layout, std::uintptr_t stream) {
  const std::int64_t lanes = layout.lanes();
  while (s.group_log2 < 5 && 1 << s.group_log2 < lanes) ++s.group_log2;
  const std::int64_t blocks = ceil_div((s.batch * s.pixels) << s.group_log2, kThreads);
  dispatch_items(layout, [&](auto items) {
    auto kernel = mean_field_fwd_bwd_step_kernel<items(), 1>;
    if constexpr (items() == 4) {
      if (lanes > kWarp) kernel = mean_field_fwd_bwd_step_kernel<4, 2>;
      if (lanes > 2 * kWarp) kernel = mean_field_fwd_bwd_step_kernel<4, 4>;
    }
    launch("mean_field, step", kernel, blocks, kThreads, 0, stream, s);
  });
}

Step step_of(const Shape& shape, const RowLayout& layout) {
  Step s{};
  s.batch = shape.batch;
  s.pixels = shape.pixels;
  s.labels = shape.labels;
  s.stride = layout.stride;
  return s;
}

// Where the vertices of every term are.
struct Tables {
  float *blurred[kMaxKernels], *spare[kMaxKernels];
  float* splat;
};

// blurred: where the filtered ones are to be, or are already; null: in the workspace as well.
Tables tables_of(const Term* terms, int count, const Shape& shape, float* blurred,
                 float* workspace) {
  Tables tables{};
  for (int i = 0; i < count; ++i) {
    const std::int64_t size = table_values(terms[i].lattice, layout_of(terms[i], shape));
    tables.spare[i] = workspace;
    workspace += size;
    float*& next = blurred == nullptr ? workspace : blurred;
    tables.blurred[i] = next;
    next += size;
  }
  tables.splat = workspace;
  return tables;
}

// Filters the rows of pixels on every lattice.
void spread_terms(const Tables& tables, const Term* terms, int count, const Shape& shape,
                  const float* rows, bool transpose, std::uintptr_t stream) {
  for (int i = 0; i < count; ++i) {
    // Each of the D + 1 blurs goes from one table to the other.
    const bool ends_where_it_begins = terms[i].lattice.shape.features % 2 != 0;
    float *first = tables.spare[i], *second = tables.blurred[i];
    if (ends_where_it_begins) std::swap(first, second);
    spread(terms[i].lattice, layout_of(terms[i], shape), rows, transpose, first, second,
           tables.splat, stream);
  }
}

// Mixes the labels of the vertices, where a term has a full compatibility; s learns where they are.
void read_terms(Step& s, const Tables& tables, const Term* terms, int count, const Shape& shape,
                std::uintptr_t stream) {
  s.terms = count;
  for (int i = 0; i < count; ++i) {
    const Term& term = terms[i];
    const DeviceLattice& lattice = term.lattice;
    const RowLayout own = layout_of(term, shape);
    const float* table = tables.blurred[i];
    if (term.transposed != nullptr) {
      dispatch_items(own, [&](auto items) {
        launch("mean_field, compatibility", mean_field_fwd_bwd_mix_kernel<items()>,
               ceil_div(own.replicas * (lattice.capacity + 1) * own.lanes(), kThreads), kThreads, 0,
               stream,
               Mix{own.replicas, lattice.capacity, shape.labels, own.stride, lattice.count,
                   term.transposed, table, tables.spare[i]});
      });
      table = tables.spare[i];
    }
    s.message[i] = {lattice.rows,
                    static_cast<const float*>(lattice.weights),
                    table,
                    term.factors,
                    lattice.capacity + 1,
                    lattice.shape.features + 1,
                    lattice.shape.batch == 1};
  }
}

void check(const Term* terms, int count, const Shape& shape) {
  bool fits =
      count >= 0 && count <= kMaxKernels && shape.labels >= 1 && shape.labels <= kMostLabels;
  for (int i = 0; fits && i < count; ++i) {
    const auto& lattice = terms[i].lattice.shape;
    fits = lattice.dtype == DType::float32 && lattice.pixels == shape.pixels &&
           (lattice.batch == 1 || lattice.batch == shape.batch);
  }
  if (!fits) throw std::invalid_argument("fastseg: mean_field: the terms do not fit the logits");
}

} // namespace

std::int64_t Shape::stride() const { return row_layout(DType::float32, 1, labels).stride; }

// Two tables of each term, and what one splat needs.
std::int64_t workspace_floats(const Term* terms, int count, const Shape& shape) {
  check(terms, count, shape);
  std::int64_t tables = 0, splat = 0;
  for (int i = 0; i < count; ++i) {
    const RowLayout layout = layout_of(terms[i], shape);
    tables += 2 * table_values(terms[i].lattice, layout);
    splat = std::max(splat, splat_values(terms[i].lattice.shape, layout));
  }
  return tables + splat;
}

std::int64_t table_floats(const Term* terms, int count, const Shape& shape) {
  std::int64_t size = 0;
  for (int i = 0; i < count; ++i)
    size += table_values(terms[i].lattice, layout_of(terms[i], shape));
  return size;
}

void forward(const Term* terms, int count, const Shape& shape, const float* logits,
             float* probabilities, std::int32_t* map, std::int32_t* bad, float* kept,
             float* workspace, std::uintptr_t stream) {
  check(terms, count, shape);
  const RowLayout layout = row_layout(DType::float32, 1, shape.labels);
  const std::int64_t size = table_floats(terms, count, shape);
  Step s = step_of(shape, layout);
  s.logits = logits;
  s.bad = bad;
  for (int step = 0; step <= shape.steps; ++step) {
    const bool last = step == shape.steps;
    if (step > 0) {
      float* const own = kept == nullptr ? nullptr : kept + (step - 1) * size;
      const Tables tables = tables_of(terms, count, shape, own, workspace);
      spread_terms(tables, terms, count, shape, probabilities, false, stream);
      read_terms(s, tables, terms, count, shape, stream);
    }
    s.probabilities = last && map != nullptr ? nullptr : probabilities;
    s.map = last ? map : nullptr;
    launch_step(s, layout, stream);
  }
}

void probabilities_again(const Term* terms, int count, const Shape& shape, const float* logits,
                         float* kept, float* probabilities, float* workspace,
                         std::uintptr_t stream) {
  check(terms, count, shape);
  const RowLayout layout = row_layout(DType::float32, 1, shape.labels);
  Step s = step_of(shape, layout);
  s.logits = logits;
  s.probabilities = probabilities;
  if (kept != nullptr)
    read_terms(s, tables_of(terms, count, shape, kept, workspace), terms, count, shape, stream);
  launch_step(s, layout, stream);
}

void filtered_again(const Term* terms, int count, const Shape& shape, int term, float* kept,
                    float* out, std::uintptr_t stream) {
  check(terms, count, shape);
  if (term < 0 || term >= count) throw std::invalid_argument("fastseg: mean_field: no such term");
  const RowLayout layout = row_layout(DType::float32, 1, shape.labels);
  Step s = step_of(shape, layout);
  s.probabilities = out;
  Term filter = terms[term];
  filter.factors = filter.transposed = nullptr;
  Tables tables{};
  tables.blurred[0] = kept + table_floats(terms, term, shape);
  read_terms(s, tables, &filter, 1, shape, stream);
  launch_step(s, layout, stream);
}

void messages(const Term* terms, int count, const Shape& shape, const float* rows, bool transpose,
              float* out, float* workspace, std::uintptr_t stream) {
  check(terms, count, shape);
  const RowLayout layout = row_layout(DType::float32, 1, shape.labels);
  Step s = step_of(shape, layout);
  s.probabilities = out;
  const Tables tables = tables_of(terms, count, shape, nullptr, workspace);
  spread_terms(tables, terms, count, shape, rows, transpose, stream);
  read_terms(s, tables, terms, count, shape, stream);
  launch_step(s, layout, stream);
}

} // namespace fastseg::mean_field::cuda
