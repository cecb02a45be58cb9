// CPU twin. Both layouts are one case: NCHW is N * C images of one channel, channels_last is N
// images of C channels side by side. The cuts of both axes (pyramid_pool_segments.h) divide an
// image into atoms [row segment, column segment]; every cell is a rectangle of whole atoms.
//
// forward: each pixel is added to its atom once, each cell sums its atoms. backward: each atom sums
// its cells, and its pixels are written once. Sums have one order whatever the split into tasks.
#include "pyramid_pool/pyramid_pool.h"

#include <algorithm>

#include "common/parallel.h"
#include "common/rows.h"
#include "pyramid_pool/pyramid_pool_segments.h"
#include "pyramid_pool/pyramid_pool_writer.h"

namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL {
namespace {

// Images beyond this size are split into row segments, so that few large ones keep every thread
// busy. A constant: what is summed first must not depend on the thread count.
constexpr std::int64_t kSplitBytes = std::int64_t{1} << 18;
constexpr std::int64_t kTaskBytes = std::int64_t{1} << 18;
constexpr std::int64_t kWorkspaceBytes = std::int64_t{1} << 25;
// From this many channels on a pixel is a row worth a loop of its own.
constexpr std::int64_t kWidePixel = 64;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
template <class T> std::int64_t padded(std::int64_t n) {
  return ceil_div(n, kLanes<T>) * kLanes<T>;
}

// The map as images of interleaved channels.
struct Images {
  std::int64_t count, channels, height, width, bytes;
  bool split;
  std::int64_t rows_per_segment; // at most

  Images(const Shape& s, std::int64_t element)
      : count(s.channels_last ? s.batch : s.batch * s.channels),
        channels(s.channels_last ? s.channels : 1), height(s.in_h), width(s.in_w),
        bytes(height * width * channels * element), split(bytes > kSplitBytes),
        rows_per_segment(
            split ? std::max(ceil_div(height, 16), ceil_div(kTaskBytes / 4 * height, bytes))
                  : height) {}
  std::int64_t pixels() const { return height * width; }
};

// ---- forward ------------------------------------------------------------------------------------

// dst[i] += the sum of src[k * stride + i] over k < count, for i < n. dst is padded to whole
// vectors; what the padding receives means nothing. `end`: nothing may be read from there on.
template <class Storage, class T = compute_t<Storage>>
void accumulate(T* dst, const Storage* src, std::int64_t stride, std::int64_t count, std::int64_t n,
                const Storage* end) {
  constexpr std::int64_t kUnroll = 4;
  const std::int64_t all = padded<T>(n);
  std::int64_t k = 0;
  for (; k + kUnroll <= count && end - (src + (k + kUnroll - 1) * stride) >= all; k += kUnroll) {
    const Storage* a = src + k * stride;
    const Storage *b = a + stride, *c = b + stride, *d = c + stride;
    for (std::int64_t i = 0; i < all; i += kLanes<T>)
      store_vec(dst + i,
                load_vec(dst + i) + ((load(a + i) + load(b + i)) + (load(c + i) + load(d + i))));
  }
  for (; k < count; ++k) {
    const Storage* row = src + k * stride;
    const std::int64_t whole = end - row >= all ? all : n / kLanes<T> * kLanes<T>;
    for (std::int64_t i = 0; i < whole; i += kLanes<T>)
      store_vec(dst + i, load_vec(dst + i) + load(row + i));
    if (whole < n)
      store_vec(dst + whole, load_vec(dst + whole) + load_partial(row + whole, n - whole));
  }
}

// Images of one channel are handled kLanes at a time: from the atoms on, lanes are images.
template <class Storage> class Forward {
  using T = compute_t<Storage>;

public:
  Forward(const Storage* x, Storage* out, const Images& images, const Bins& bins)
      : x_(x), end_(x + images.count * images.pixels() * images.channels), out_(out),
        images_(images), bins_(bins), cells_(cells_per_map(bins)),
        rows_(images.height, bins, images.rows_per_segment),
        columns_(images.width, bins, images.width), group_(images.channels == 1 ? kLanes<T> : 1),
        groups_(ceil_div(images.count, group_)),
        stride_(images.channels == 1 ? kLanes<T> : padded<T>(images.channels)) {}

  void run(int threads) const {
    if (images_.split)
      run_split(threads);
    else
      run_whole(threads);
  }

private:
  std::int64_t atoms_per_group() const { return rows_.count() * columns_.count() * stride_; }
  std::int64_t line_size() const {
    if (images_.channels >= kWidePixel) return 0;
    return padded<T>(images_.width * images_.channels) + kLanes<T>;
  }

  void run_whole(int threads) const {
    const std::int64_t per_task =
        std::clamp<std::int64_t>(kTaskBytes / (group_ * images_.bytes), 1, 256);
    parallel_for(ceil_div(groups_, per_task), threads, [&](std::int64_t task) {
      Buffer<T> atoms(atoms_per_group()), line(line_size());
      zero_row(atoms.get(), atoms_per_group()); // the last group may leave lanes unused
      const std::int64_t end = std::min(groups_, (task + 1) * per_task);
      for (std::int64_t g = task * per_task; g < end; ++g) {
        for (std::int64_t m = g * group_; m < std::min(images_.count, (g + 1) * group_); ++m)
          for (std::int64_t r = 0; r < rows_.count(); ++r)
            reduce(m, r, {0, images_.channels}, atoms.get(), line.get());
        pool(g, {0, images_.channels}, atoms.get());
      }
    });
  }

  void run_split(int threads) const {
    const std::int64_t size = atoms_per_group();
    const std::int64_t per_round =
        std::clamp<std::int64_t>(kWorkspaceBytes / (size * std::int64_t(sizeof(T))), 1, groups_);
    Buffer<T> atoms(per_round * size);
    if (group_ > 1) zero_row(atoms.get(), per_round * size);
    // Channels are independent: blocks of them may depend on the thread count.
    const std::int64_t tasks = std::min(images_.count, per_round * group_) * rows_.count();
    const std::int64_t blocks = std::clamp<std::int64_t>(
        ceil_div(4 * threads, tasks), 1, ceil_div(images_.channels, 4 * kWidePixel));
    const std::int64_t block = padded<T>(ceil_div(images_.channels, blocks));
    const auto channels = [&](std::int64_t b) {
      return Range{std::min(b * block, images_.channels),
                   std::min((b + 1) * block, images_.channels)};
    };
    for (std::int64_t first = 0; first < groups_; first += per_round) {
      const std::int64_t end = std::min(groups_, first + per_round);
      const std::int64_t image = first * group_;
      const std::int64_t count = std::min(images_.count, end * group_) - image;
      parallel_for(count * rows_.count() * blocks, threads, [&](std::int64_t task) {
        Buffer<T> line(line_size());
        const std::int64_t b = task % blocks, r = task / blocks % rows_.count();
        const std::int64_t m = image + task / blocks / rows_.count();
        reduce(m, r, channels(b), atoms.get() + (m / group_ - first) * size, line.get());
      });
      const std::int64_t pool_blocks = ceil_div(images_.channels, 4 * kWidePixel);
      parallel_for((end - first) * pool_blocks, threads, [&](std::int64_t task) {
        const std::int64_t g = task / pool_blocks, c = task % pool_blocks * 4 * kWidePixel;
        pool(first + g, {c, std::min(images_.channels, c + 4 * kWidePixel)},
             atoms.get() + g * size);
      });
    }
  }

  // Sums row segment r of image m into its atoms.
  void reduce(std::int64_t m, std::int64_t r, Range channels, T* atoms, T* line) const {
    const std::int64_t C = images_.channels, row = images_.width * C;
    const Range rows = rows_.segment(r);
    const Storage* source = x_ + (m * images_.height + rows.begin) * row;
    T* target = atoms + r * columns_.count() * stride_;
    if (C >= kWidePixel) {
      for (std::int64_t s = 0; s < columns_.count(); ++s)
        zero_row(target + s * stride_ + channels.begin, padded<T>(channels.size()));
      for (std::int64_t y = 0; y < rows.size(); ++y)
        for (std::int64_t s = 0; s < columns_.count(); ++s) {
          const Range columns = columns_.segment(s);
          accumulate(target + s * stride_ + channels.begin,
                     source + y * row + columns.begin * C + channels.begin, C, columns.size(),
                     channels.size(), end_);
        }
      return;
    }
    zero_row(line, line_size());
    accumulate(line, source, row, rows.size(), row, end_);
    for (std::int64_t s = 0; s < columns_.count(); ++s) {
      const Range columns = columns_.segment(s);
      if (C == 1) {
        T sum = 0;
        for (std::int64_t i = columns.begin; i < columns.end; ++i) sum += line[i];
        target[s * stride_ + m % group_] = sum;
      } else {
        zero_row(target + s * stride_, stride_);
        accumulate(target + s * stride_, static_cast<const T*>(line) + columns.begin * C, C,
                   columns.size(), C, static_cast<const T*>(line) + line_size());
      }
    }
  }

  // Sums the atoms of each cell of one group; writes the cells of its images.
  void pool(std::int64_t group, Range channels, const T* atoms) const {
    const std::int64_t C = images_.channels, first = group * group_;
    Buffer<T> lines(C == 1 ? group_ * cells_ : 0);
    std::int64_t window = 0, cell = 0;
    for (std::int64_t k = 0; k < bins_.count; window += bins_.sizes[k++])
      for (std::int64_t i = 0; i < bins_.sizes[k]; ++i)
        for (std::int64_t j = 0; j < bins_.sizes[k]; ++j, ++cell) {
          const std::int64_t pixels =
              rows_.pixels(window + i).size() * columns_.pixels(window + j).size();
          const Range rows = rows_.segments(window + i), columns = columns_.segments(window + j);
          const vec<T> area = splat(static_cast<T>(pixels));
          if (C == 1) {
            const vec<T> mean = sum_atoms(atoms, rows, columns) / area;
            for (std::int64_t m = 0; m < group_; ++m) lines[m * cells_ + cell] = mean[m];
            continue;
          }
          Storage* target = out_ + (first * cells_ + cell) * C;
          std::int64_t c = channels.begin;
          for (; c + kLanes<T> <= channels.end; c += kLanes<T>)
            store(target + c, sum_atoms(atoms + c, rows, columns) / area);
          if (c < channels.end)
            store_partial(target + c, sum_atoms(atoms + c, rows, columns) / area, channels.end - c);
        }
    if (C > 1) return;
    for (std::int64_t m = 0; m < std::min(group_, images_.count - first); ++m)
      write_row(out_ + (first + m) * cells_, lines.get() + m * cells_, cells_, false);
  }

  vec<T> sum_atoms(const T* atoms, Range rows, Range columns) const {
    vec<T> sum{};
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      vec<T> row{};
      for (std::int64_t s = columns.begin; s < columns.end; ++s)
        row += load_vec(atoms + (r * columns_.count() + s) * stride_);
      sum += row;
    }
    return sum;
  }

  const Storage* x_;
  const Storage* end_;
  Storage* out_;
  const Images& images_;
  const Bins& bins_;
  std::int64_t cells_;
  Segments rows_, columns_;
  std::int64_t group_, groups_; // images per group; how many groups
  std::int64_t stride_;         // from one atom to the next
};

// ---- backward -----------------------------------------------------------------------------------

// dst[i] += src[i] / divisor: a factor 1 / divisor would be rounded once more.
template <class Storage, class T = compute_t<Storage>>
void add_quotient(T* dst, const Storage* src, T divisor, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>)
    store_vec(dst + i, load_vec(dst + i) + load(src + i) / divisor);
  for (; i < n; ++i) dst[i] += to_compute(src[i]) / divisor;
}

template <class Storage> class Backward {
  using T = compute_t<Storage>;

public:
  Backward(const Storage* grad_out, Storage* grad_x, const Images& images, const Bins& bins)
      : grad_out_(grad_out), grad_x_(grad_x), images_(images), bins_(bins),
        cells_(cells_per_map(bins)), windows_(windows_per_axis(bins)),
        rows_(images.height, bins, images.rows_per_segment),
        columns_(images.width, bins, images.width), row_cells_(images.height, bins, rows_),
        column_cells_(images.width, bins, columns_),
        stream_(images.count * images.bytes > kStreamBytes) {}

  void run(int threads) const {
    // Tasks are runs of whole images, or one row segment each.
    const std::int64_t per_task =
        images_.split ? 1 : std::clamp<std::int64_t>(kTaskBytes / images_.bytes, 1, 4096);
    const std::int64_t parts = images_.split ? rows_.count() : 1;
    parallel_for(ceil_div(images_.count, per_task) * parts, threads, [&](std::int64_t task) {
      const std::int64_t first = task / parts * per_task;
      const Range rows =
          images_.split ? Range{task % parts, task % parts + 1} : Range{0, rows_.count()};
      const std::int64_t row = images_.width * images_.channels;
      Scratch scratch(*this);
      PatternWriter writer(
          grad_x_ + (first * images_.height + rows_.segment(rows.begin).begin) * row, stream_);
      for (std::int64_t m = first; m < std::min(images_.count, first + per_task); ++m)
        for (std::int64_t r = rows.begin; r < rows.end; ++r) {
          spread(m, r, scratch);
          write(rows_.segment(r).size(), scratch, writer);
        }
      writer.finish();
    });
  }

private:
  // Short rows are repeated up to this length before they are written.
  static constexpr std::int64_t kLine = 1024;

  bool wide() const { return images_.channels >= kWidePixel; }
  std::int64_t line_stride() const { return images_.channels + kSimdBytes; }

  struct Scratch {
    Buffer<T> sums;        // [windows of the columns, C]: the cells of a row segment, rows summed
    Buffer<T> atoms;       // [column segments, C]
    Buffer<Storage> lines; // wide: [column segments, line_stride()]; else one or more rows
    Buffer<Storage> values;
    explicit Scratch(const Backward& b)
        : sums(b.windows_ * b.images_.channels), atoms(b.columns_.count() * b.images_.channels),
          lines(b.wide() ? b.columns_.count() * b.line_stride()
                         : 2 * b.images_.width * b.images_.channels + kLine + kSimdBytes),
          values(b.columns_.count() * b.images_.channels) {}
  };

  // The values of row segment r of image m, one per column segment and channel.
  void spread(std::int64_t m, std::int64_t r, Scratch& scratch) const {
    const std::int64_t C = images_.channels;
    const Storage* source = grad_out_ + m * cells_ * C;
    T* sums = scratch.sums.get();
    zero_row(sums, windows_ * C);
    std::int64_t window = 0, base = 0;
    for (std::int64_t k = 0; k < bins_.count; ++k) {
      const std::int64_t b = bins_.sizes[k];
      const Range cells = row_cells_.cells(r, k);
      for (std::int64_t i = cells.begin; i < cells.end; ++i)
        for (std::int64_t j = 0; j < b; ++j) {
          const std::int64_t pixels =
              rows_.pixels(window + i).size() * columns_.pixels(window + j).size();
          add_quotient(sums + (window + j) * C, source + (base + i * b + j) * C,
                       static_cast<T>(pixels), C);
        }
      window += b;
      base += b * b;
    }
    for (std::int64_t s = 0; s < columns_.count(); ++s) {
      T* atom = scratch.atoms.get() + s * C;
      zero_row(atom, C);
      window = 0;
      for (std::int64_t k = 0; k < bins_.count; window += bins_.sizes[k++]) {
        const Range cells = column_cells_.cells(s, k);
        for (std::int64_t j = cells.begin; j < cells.end; ++j)
          add_scaled_row(atom, sums + (window + j) * C, T(1), C);
      }
    }
    write_row(scratch.values.get(), scratch.atoms.get(), columns_.count() * C, false);
  }

  // Writes `count` rows of those values.
  void write(std::int64_t count, Scratch& scratch, PatternWriter& writer) const {
    const std::int64_t C = images_.channels, row = images_.width * C;
    const std::int64_t element = sizeof(Storage);
    const Storage* values = scratch.values.get();
    Storage* lines = scratch.lines.get();
    if (wide()) {
      for (std::int64_t s = 0; s < columns_.count(); ++s) {
        std::memcpy(lines + s * line_stride(), values + s * C, C * element);
        std::memcpy(lines + s * line_stride() + C, values + s * C, kSimdBytes);
      }
      for (std::int64_t y = 0; y < count; ++y)
        for (std::int64_t s = 0; s < columns_.count(); ++s)
          writer.write(reinterpret_cast<const char*>(lines + s * line_stride()), C * element,
                       columns_.segment(s).size() * C * element);
      return;
    }
    for (std::int64_t s = 0; s < columns_.count(); ++s) {
      const Range columns = columns_.segment(s);
      for (std::int64_t x = columns.begin; x < columns.end; ++x)
        for (std::int64_t c = 0; c < C; ++c) lines[x * C + c] = values[s * C + c];
    }
    const std::int64_t copies = std::min(count, ceil_div(kLine, row * element));
    const std::int64_t filled = copies * row + (count > copies ? kSimdBytes / element : 0);
    for (std::int64_t i = row; i < filled; ++i) lines[i] = lines[i - row];
    writer.write(reinterpret_cast<const char*>(lines), copies * row * element,
                 count * row * element);
  }

  const Storage* grad_out_;
  Storage* grad_x_;
  const Images& images_;
  const Bins& bins_;
  std::int64_t cells_, windows_;
  Segments rows_, columns_;
  Covering row_cells_, column_cells_;
  bool stream_;
};

// ---- entry points -------------------------------------------------------------------------------

void forward(DType dtype, const void* x, void* out, const Shape& shape, const Bins& bins,
             int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const Images images(shape, sizeof(Storage));
    Forward<Storage>(static_cast<const Storage*>(x), static_cast<Storage*>(out), images, bins)
        .run(threads);
  });
}

void backward(DType dtype, const void* grad_out, void* grad_x, const Shape& shape, const Bins& bins,
              int threads) {
  dispatch_dtype(dtype, [&](auto tag) {
    using Storage = typename decltype(tag)::type;
    const Images images(shape, sizeof(Storage));
    Backward<Storage>(static_cast<const Storage*>(grad_out), static_cast<Storage*>(grad_x), images,
                      bins)
        .run(threads);
  });
}

} // namespace

const CpuKernels kernels{forward, backward};

} // namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL
