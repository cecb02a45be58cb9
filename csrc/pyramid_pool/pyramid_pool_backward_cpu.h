// The backward of pyramid_pool on the CPU: cells to atoms, atoms to pixels.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>

#include "common/parallel_cpu.h"
#include "common/rows_cpu.h"
#include "pyramid_pool/pyramid_pool_segments_cpu.h"
#include "pyramid_pool/pyramid_pool_writer_cpu.h"

namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL {

// dst[i] += src[i] / divisor: a factor 1 / divisor would be rounded once more.
template <class Storage, class T = compute_t<Storage>>
inline void add_quotient(T* dst, const Storage* src, T divisor, std::int64_t n) {
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
        rows_(images.height, bins, images.rows_per_segment()),
        columns_(images.width, bins, images.width), row_cells_(images.height, bins, rows_),
        column_cells_(images.width, bins, columns_), segment_of_(images.width),
        group_(images.channels == 1 && !images.split ? kLanes<T> : 1),
        stride_(padded<T>(images.channels)), stream_(images.count * images.bytes > kStreamBytes) {
    for (std::int64_t s = 0; s < columns_.count(); ++s)
      for (std::int64_t x = columns_.segment(s).begin; x < columns_.segment(s).end; ++x)
        segment_of_[x] = static_cast<std::int32_t>(s);
  }

  void run(int threads) const {
    // Tasks are runs of whole groups, or one row segment each.
    const std::int64_t per_task =
        images_.split ? 1 : std::clamp<std::int64_t>(kTaskBytes / (images_.bytes * group_), 1, 256);
    const std::int64_t parts = images_.split ? rows_.count() : 1;
    const std::int64_t groups = ceil_div(images_.count, group_);
    parallel_for(ceil_div(groups, per_task) * parts, threads, [&](std::int64_t task) {
      const std::int64_t first = task / parts * per_task;
      const std::int64_t end = std::min(groups, first + per_task);
      const Range rows =
          images_.split ? Range{task % parts, task % parts + 1} : Range{0, rows_.count()};
      const std::int64_t row = images_.width * images_.channels;
      Scratch scratch(*this);
      PatternWriter writer(
          grad_x_ + (first * group_ * images_.height + rows_.segment(rows.begin).begin) * row,
          stream_);
      for (std::int64_t g = first; g < end; ++g) {
        if (group_ > 1)
          write_group(g * group_, scratch, writer);
        else
          write_image(g, rows, scratch, writer);
      }
      writer.finish();
    });
  }

private:
  // Shorter rows are repeated up to this length before they are written.
  static constexpr std::int64_t kLine = 256;

  bool wide() const { return images_.channels >= kWidePixel; }
  std::int64_t line_stride() const { return images_.channels + kSimdBytes; }
  std::int64_t atoms_per_image() const { return rows_.count() * columns_.count(); }

  struct Scratch {
    Buffer<T> cells;        // [cells, kLanes]: of the images of a group
    Buffer<T> sums;         // [windows of the columns, stride]: cells of a row segment, rows summed
    Buffer<T> atoms;        // [atoms, stride]: of a group; of one row segment without groups
    Buffer<T> lane;         // [column segments]
    Buffer<Storage> values; // [column segments, C]
    Buffer<Storage> lines;  // wide: [column segments, line_stride()]; else one or more rows
    explicit Scratch(const Backward& b)
        : cells(b.group_ > 1 ? b.cells_ * kLanes<T> : 0), sums(b.windows_ * b.stride_),
          atoms((b.group_ > 1 ? b.atoms_per_image() : b.columns_.count()) * b.stride_),
          lane(b.columns_.count()), values(b.columns_.count() * b.images_.channels),
          lines(b.wide() ? b.columns_.count() * b.line_stride()
                         : 2 * b.images_.width * b.images_.channels + kLine + kSimdBytes) {}
  };

  // kLanes images of one channel: up to the atoms, lanes are images.
  void write_group(std::int64_t first, Scratch& scratch, PatternWriter& writer) const {
    const std::int64_t count = std::min(group_, images_.count - first);
    zero_row(scratch.cells.get(), cells_ * kLanes<T>);
    for (std::int64_t m = 0; m < count; ++m)
      for (std::int64_t cell = 0; cell < cells_; ++cell)
        scratch.cells[cell * kLanes<T> + m] = to_compute(grad_out_[(first + m) * cells_ + cell]);
    const std::int64_t columns = columns_.count();
    for (std::int64_t r = 0; r < rows_.count(); ++r)
      spread<T>(scratch.cells.get(), kLanes<T>, r, scratch.sums.get(),
                scratch.atoms.get() + r * columns * stride_);
    for (std::int64_t m = 0; m < count; ++m)
      for (std::int64_t r = 0; r < rows_.count(); ++r) {
        const T* atoms = scratch.atoms.get() + r * columns * stride_ + m;
        for (std::int64_t s = 0; s < columns; ++s) scratch.lane[s] = atoms[s * stride_];
        write_row(scratch.values.get(), scratch.lane.get(), columns, false);
        write(rows_.segment(r).size(), scratch, writer);
      }
  }

  void write_image(std::int64_t m, Range rows, Scratch& scratch, PatternWriter& writer) const {
    const std::int64_t C = images_.channels;
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      spread(grad_out_ + m * cells_ * C, C, r, scratch.sums.get(), scratch.atoms.get());
      for (std::int64_t s = 0; s < columns_.count(); ++s)
        write_row(scratch.values.get() + s * C, scratch.atoms.get() + s * stride_, C, false);
      write(rows_.segment(r).size(), scratch, writer);
    }
  }

  // The atoms of row segment r from cells of n numbers each.
  template <class Cell>
  void spread(const Cell* cells, std::int64_t n, std::int64_t r, T* sums, T* atoms) const {
    zero_row(sums, windows_ * stride_);
    std::int64_t window = 0, base = 0;
    for (std::int64_t k = 0; k < bins_.count; ++k) {
      const std::int64_t b = bins_.sizes[k];
      const Range covering = row_cells_.cells(r, k);
      for (std::int64_t i = covering.begin; i < covering.end; ++i)
        for (std::int64_t j = 0; j < b; ++j) {
          const std::int64_t pixels =
              rows_.pixels(window + i).size() * columns_.pixels(window + j).size();
          add_quotient(sums + (window + j) * stride_, cells + (base + i * b + j) * n,
                       static_cast<T>(pixels), n);
        }
      window += b;
      base += b * b;
    }
    for (std::int64_t s = 0; s < columns_.count(); ++s)
      for (std::int64_t c = 0; c < stride_; c += kLanes<T>) {
        vec<T> sum{};
        window = 0;
        for (std::int64_t k = 0; k < bins_.count; window += bins_.sizes[k++]) {
          const Range covering = column_cells_.cells(s, k);
          for (std::int64_t j = covering.begin; j < covering.end; ++j)
            sum += load_vec(sums + (window + j) * stride_ + c);
        }
        store_vec(atoms + s * stride_ + c, sum);
      }
  }

  // Writes `count` rows of the values in scratch.
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
    if (C == 1)
      for (std::int64_t x = 0; x < row; ++x) lines[x] = values[segment_of_[x]];
    else
      for (std::int64_t x = 0; x < images_.width; ++x)
        std::memcpy(lines + x * C, values + segment_of_[x] * C, C * element);
    const std::int64_t copies = std::min(count, ceil_div(kLine, row * element));
    for (std::int64_t i = 1; i < copies; ++i) std::memcpy(lines + i * row, lines, row * element);
    if (count > copies) std::memcpy(lines + copies * row, lines, kSimdBytes);
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
  Buffer<std::int32_t> segment_of_; // column -> its segment
  std::int64_t group_;              // images per group
  std::int64_t stride_;             // from one atom to the next
  bool stream_;
};

} // namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL
