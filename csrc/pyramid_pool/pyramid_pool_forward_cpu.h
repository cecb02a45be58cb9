// The forward of pyramid_pool on the CPU: pixels to atoms, atoms to cells.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>

#include "common/parallel_cpu.h"
#include "common/rows_cpu.h"
#include "pyramid_pool/pyramid_pool_segments_cpu.h"

namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL {

template <int Rows, class Storage, class T = compute_t<Storage>>
inline vec<T> sum_column(const Storage* src, std::int64_t stride) {
  if constexpr (Rows == 1)
    return load(src);
  else
    return sum_column<Rows - Rows / 2>(src, stride) +
           sum_column<Rows / 2>(src + (Rows - Rows / 2) * stride, stride);
}

// dst[i] = or += the sum of `Rows` rows, for i < n. dst is padded to whole vectors; what the
// padding receives means nothing. `end`: nothing may be read from there on.
template <int Rows, class Storage, class T = compute_t<Storage>>
inline void sum_few_rows(T* dst, const Storage* src, std::int64_t stride, std::int64_t n,
                         const Storage* end, bool add) {
  const Storage* last = src + (Rows - 1) * stride;
  const std::int64_t whole = end - last >= padded<T>(n) ? padded<T>(n) : n / kLanes<T> * kLanes<T>;
  if (add)
    for (std::int64_t i = 0; i < whole; i += kLanes<T>)
      store_vec(dst + i, load_vec(dst + i) + sum_column<Rows>(src + i, stride));
  else
    for (std::int64_t i = 0; i < whole; i += kLanes<T>)
      store_vec(dst + i, sum_column<Rows>(src + i, stride));
  if (whole >= n) return;
  vec<T> sum = add ? load_vec(dst + whole) : vec<T>{};
  for (int k = 0; k < Rows; ++k) sum += load_partial(src + k * stride + whole, n - whole);
  store_vec(dst + whole, sum);
}

// The same for any number of rows, at least one.
template <class Storage, class T = compute_t<Storage>>
inline void sum_rows(T* dst, const Storage* src, std::int64_t stride, std::int64_t rows,
                     std::int64_t n, const Storage* end, bool add) {
  const std::int64_t first = (rows - 1) % 4 + 1;
  switch (first) {
  case 1:
    sum_few_rows<1>(dst, src, stride, n, end, add);
    break;
  case 2:
    sum_few_rows<2>(dst, src, stride, n, end, add);
    break;
  case 3:
    sum_few_rows<3>(dst, src, stride, n, end, add);
    break;
  default:
    sum_few_rows<4>(dst, src, stride, n, end, add);
  }
  for (std::int64_t k = first; k < rows; k += 4)
    sum_few_rows<4>(dst, src + k * stride, stride, n, end, true);
}

// p[0] + ... + p[n - 1]; may read, but does not use, the rest of the last vector.
template <class T> inline T sum_row(const T* p, std::int64_t n) {
  vec<T> sum{};
  std::int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) sum += load_vec(p + i);
  if (i < n) {
    const ivec<T> used = iota<T>() < isplat<T>(static_cast<lane_int<T>>(n - i));
    sum += used ? load_vec(p + i) : vec<T>{};
  }
  return reduce_add<T>(sum);
}

// Images of one channel are handled kLanes at a time: from the atoms on, lanes are images.
template <class Storage> class Forward {
  using T = compute_t<Storage>;

public:
  Forward(const Storage* x, Storage* out, const Images& images, const Bins& bins)
      : x_(x), end_(x + images.count * images.height * images.width * images.channels), out_(out),
        images_(images), bins_(bins), cells_(cells_per_map(bins)),
        rows_(images.height, bins, images.rows_per_segment()),
        columns_(images.width, bins, images.width), group_(images.channels == 1 ? kLanes<T> : 1),
        groups_(ceil_div(images.count, group_)),
        stride_(images.channels == 1 ? kLanes<T> : padded<T>(images.channels)),
        line_(images.channels < kWidePixel ? padded<T>(images.width * images.channels) + kLanes<T>
                                           : 0) {}

  void run(int threads) const {
    if (images_.split)
      run_split(threads);
    else
      run_whole(threads);
  }

private:
  static constexpr std::int64_t kWorkspaceBytes = std::int64_t{1} << 25;
  static constexpr std::int64_t kChannelBlock = 256;

  std::int64_t atoms_per_group() const { return rows_.count() * columns_.count() * stride_; }

  // Tasks are runs of whole groups.
  void run_whole(int threads) const {
    const std::int64_t per_task =
        std::clamp<std::int64_t>(kTaskBytes / (group_ * images_.bytes), 1, 256);
    const Range channels{0, images_.channels};
    parallel_for(ceil_div(groups_, per_task), threads, [&](std::int64_t task) {
      const std::int64_t lines = group_ * rows_.count() * line_;
      Buffer<T> atoms(atoms_per_group()), line(lines), columns(padded<T>(images_.width) * group_);
      zero_row(line.get(), lines); // the last group may leave lanes unused
      const std::int64_t end = std::min(groups_, (task + 1) * per_task);
      for (std::int64_t g = task * per_task; g < end; ++g) {
        if (images_.channels == 1)
          reduce_group(g, atoms.get(), line.get(), columns.get());
        else
          for (std::int64_t r = 0; r < rows_.count(); ++r)
            reduce(g, r, channels, atoms.get(), line.get());
        pool(g, channels, atoms.get());
      }
    });
  }

  // Tasks are row segments, and blocks of channels: those are independent of each other, so their
  // number may depend on the thread count.
  void run_split(int threads) const {
    const std::int64_t size = atoms_per_group();
    const std::int64_t per_round =
        std::clamp<std::int64_t>(kWorkspaceBytes / (size * std::int64_t(sizeof(T))), 1, groups_);
    Buffer<T> atoms(per_round * size);
    if (group_ > 1) zero_row(atoms.get(), per_round * size);
    const std::int64_t pool_blocks = ceil_div(images_.channels, kChannelBlock);
    const std::int64_t tasks = std::min(images_.count, per_round * group_) * rows_.count();
    const std::int64_t blocks =
        std::clamp<std::int64_t>(ceil_div(4 * threads, tasks), 1, pool_blocks);
    const std::int64_t block = padded<T>(ceil_div(images_.channels, blocks));
    for (std::int64_t first = 0; first < groups_; first += per_round) {
      const std::int64_t end = std::min(groups_, first + per_round);
      const std::int64_t image = first * group_;
      const std::int64_t count = std::min(images_.count, end * group_) - image;
      parallel_for(count * rows_.count() * blocks, threads, [&](std::int64_t task) {
        const std::int64_t c = task % blocks * block, r = task / blocks % rows_.count();
        const std::int64_t m = image + task / blocks / rows_.count();
        if (c >= images_.channels) return;
        Buffer<T> line(line_);
        zero_row(line.get(), line_);
        reduce(m, r, {c, std::min(images_.channels, c + block)},
               atoms.get() + (m / group_ - first) * size, line.get());
      });
      parallel_for((end - first) * pool_blocks, threads, [&](std::int64_t task) {
        const std::int64_t g = task / pool_blocks, c = task % pool_blocks * kChannelBlock;
        pool(first + g, {c, std::min(images_.channels, c + kChannelBlock)}, atoms.get() + g * size);
      });
    }
  }

  // Row segment r of image m to its atoms.
  void reduce(std::int64_t m, std::int64_t r, Range channels, T* atoms, T* line) const {
    const std::int64_t C = images_.channels, row = images_.width * C;
    const Range rows = rows_.segment(r);
    const Storage* source = x_ + (m * images_.height + rows.begin) * row;
    T* target = atoms + r * columns_.count() * stride_;
    if (C >= kWidePixel) {
      for (std::int64_t y = 0; y < rows.size(); ++y)
        for (std::int64_t s = 0; s < columns_.count(); ++s) {
          const Range columns = columns_.segment(s);
          sum_rows(target + s * stride_ + channels.begin,
                   source + y * row + columns.begin * C + channels.begin, C, columns.size(),
                   channels.size(), end_, y > 0);
        }
      return;
    }
    sum_rows(line, source, row, rows.size(), row, end_, false);
    for (std::int64_t s = 0; s < columns_.count(); ++s) {
      const Range columns = columns_.segment(s);
      const T* first = line + columns.begin * C;
      if (C == 1)
        target[s * stride_ + m % group_] = sum_row(first, columns.size());
      else
        sum_rows(target + s * stride_, first, C, columns.size(), C,
                 static_cast<const T*>(line) + line_, false);
    }
  }

  // A group of images of one channel to its atoms. lines: [row segments, kLanes, line_].
  void reduce_group(std::int64_t group, T* atoms, T* lines, T* columns) const {
    const std::int64_t W = images_.width, first = group * group_;
    const std::int64_t count = std::min(group_, images_.count - first);
    for (std::int64_t m = 0; m < count; ++m)
      for (std::int64_t r = 0; r < rows_.count(); ++r) {
        const Range rows = rows_.segment(r);
        sum_rows(lines + (r * group_ + m) * line_,
                 x_ + ((first + m) * images_.height + rows.begin) * W, W, rows.size(), W, end_,
                 false);
      }
    for (std::int64_t r = 0; r < rows_.count(); ++r) {
      for (std::int64_t x = 0; x < W; x += kLanes<T>) {
        vec<T> tile[kLanes<T>];
        for (int m = 0; m < kLanes<T>; ++m)
          tile[m] = load_vec(lines + (r * group_ + m) * line_ + x);
        transpose<T>(tile);
        for (int k = 0; k < kLanes<T>; ++k) store_vec(columns + (x + k) * kLanes<T>, tile[k]);
      }
      for (std::int64_t s = 0; s < columns_.count(); ++s) {
        const Range segment = columns_.segment(s);
        vec<T> sum = load_vec(columns + segment.begin * kLanes<T>);
        for (std::int64_t x = segment.begin + 1; x < segment.end; ++x)
          sum += load_vec(columns + x * kLanes<T>);
        store_vec(atoms + (r * columns_.count() + s) * kLanes<T>, sum);
      }
    }
  }

  // The atoms of one group to the cells of its images.
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
  std::int64_t line_;           // numbers in the sum of some rows, padded
};

} // namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL
