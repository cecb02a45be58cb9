// One axis of a convolution as spans of targets that use the same taps, so that the kernels never
// look at padding. Included only by *_cpu.cpp files; lives in the level's namespace.
//
// The forward computes outputs from inputs, the backward inputs from outputs: "targets" are what is
// computed, "sources" what is read.
#pragma once

#include <algorithm>

#include "common/buffer_cpu.h"
#include "dilated_conv2d/dilated_conv2d_math.h"

namespace fastseg::FASTSEG_CPU_LEVEL {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return -floor_div(-a, b); }

enum class Direction { forward, backward };

// A tap of a span, and the source that the span's first target reads through it.
struct Tap {
  std::int64_t index;
  std::int64_t source;
};

// A span without taps lies in the padding.
// Targets first, first + target_step, ...; each next one reads source_step further on.
struct Span {
  std::int64_t first, count;
  std::int64_t tap_begin, tap_end; // in AxisPlan::tap
};

class AxisPlan {
public:
  AxisPlan(const ConvAxis& axis, Direction direction)
      : axis_(axis), direction_(direction), spans_(count_spans()), taps_(tap_count_) {
    Span* span = spans_.get();
    Tap* tap = taps_.get();
    visit([&](const Span& s) { *span++ = s; }, [&](const Tap& t) { *tap++ = t; });
  }

  std::int64_t targets() const { return forward() ? axis_.out : axis_.in; }
  std::int64_t sources() const { return forward() ? axis_.in : axis_.out; }
  std::int64_t target_step() const { return forward() ? 1 : axis_.stride; }
  std::int64_t source_step() const { return forward() ? axis_.stride : 1; }
  std::int64_t spans() const { return span_count_; }
  const Span& span(std::int64_t i) const { return spans_[i]; }
  const Tap& tap(std::int64_t i) const { return taps_[i]; }

  // Taps of one target, at most.
  std::int64_t most_taps() const { return axis_.kernel; }

  // How many targets next to a block of targets read sources that the block reads too, at most.
  std::int64_t overlap() const {
    const std::int64_t span = (axis_.kernel - 1) * axis_.dilation;
    return std::min(targets(), forward() ? ceil_div(span, axis_.stride) : span);
  }
  // How many sources lie between the first and the last that `count` targets read, at most.
  std::int64_t reach(std::int64_t count) const {
    const std::int64_t span = (axis_.kernel - 1) * axis_.dilation;
    return forward() ? (count - 1) * axis_.stride + span + 1
                     : (count - 1 + span) / axis_.stride + 1;
  }

  // The sources that the targets [begin, end) read lie in [source_begin, source_end).
  std::int64_t source_begin(std::int64_t begin) const {
    const std::int64_t reach = (axis_.kernel - 1) * axis_.dilation;
    const std::int64_t source = forward() ? begin * axis_.stride - axis_.padding
                                          : ceil_div(begin + axis_.padding - reach, axis_.stride);
    return std::clamp<std::int64_t>(source, 0, sources());
  }
  std::int64_t source_end(std::int64_t end) const {
    const std::int64_t reach = (axis_.kernel - 1) * axis_.dilation;
    const std::int64_t last = forward() ? (end - 1) * axis_.stride - axis_.padding + reach
                                        : floor_div(end - 1 + axis_.padding, axis_.stride);
    return std::clamp<std::int64_t>(last + 1, 0, sources());
  }

private:
  bool forward() const { return direction_ == Direction::forward; }

  // The first target of `residue` reads through `tap` from *source; false: no target of it does.
  bool first_source(std::int64_t residue, std::int64_t tap, std::int64_t* source) const {
    if (!forward()) return output_index(axis_, residue, tap, source);
    *source = input_index(axis_, residue, tap);
    return true;
  }

  // Targets of one residue class modulo target_step have the same taps, up to the borders.
  template <class SpanFn, class TapFn> void visit(const SpanFn& on_span, const TapFn& on_tap) {
    std::int64_t taps = 0;
    for (std::int64_t residue = 0; residue < std::min(target_step(), targets()); ++residue) {
      const std::int64_t count = ceil_div(targets() - residue, target_step());
      for (std::int64_t m = 0, next = 0; m < count; m = next) {
        const std::int64_t tap_begin = taps;
        next = count;
        for (std::int64_t tap = 0; tap < axis_.kernel; ++tap) {
          std::int64_t source = 0;
          if (!first_source(residue, tap, &source)) continue;
          const std::int64_t begin = ceil_div(-source, source_step()); // targets inside the map
          const std::int64_t end = ceil_div(sources() - source, source_step());
          if (m < begin) {
            next = std::min(next, begin);
          } else if (m < end) {
            next = std::min(next, end);
            on_tap(Tap{tap, source + m * source_step()});
            ++taps;
          }
        }
        on_span(Span{residue + m * target_step(), next - m, tap_begin, taps});
      }
    }
  }

  std::int64_t count_spans() {
    visit([&](const Span&) { ++span_count_; }, [&](const Tap&) { ++tap_count_; });
    return span_count_;
  }

  ConvAxis axis_;
  Direction direction_;
  std::int64_t span_count_ = 0, tap_count_ = 0;
  Buffer<Span> spans_;
  Buffer<Tap> taps_;
};

} // namespace fastseg::FASTSEG_CPU_LEVEL
