// Writes repeated lines of bytes past the cache, whatever the alignment of the lines.
// Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <algorithm>

#include "common/simd_cpu.h"

namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL {

using namespace fastseg::FASTSEG_CPU_LEVEL;

// Writes a stretch of memory from front to back in whole aligned vectors: what does not fill one is
// kept for the next call. That lets the whole stretch bypass the cache.
class PatternWriter {
public:
  PatternWriter(void* begin, bool stream)
      : offset_(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(begin) % kSimdBytes)),
        skip_(offset_), cursor_(static_cast<char*>(begin) - offset_), stream_(stream) {}

  // The next `bytes` bytes are line[0 .. period) repeated; where they are more than the period,
  // the line goes on for kSimdBytes beyond it and the period is no shorter than that.
  void write(const char* line, std::int64_t period, std::int64_t bytes) {
    std::int64_t at = 0;
    if (offset_ > 0) {
      at = std::min(bytes, kSimdBytes - offset_);
      stage(line, at);
      bytes -= at;
    }
    while (bytes >= kSimdBytes) {
      if (at >= period) at -= period;
      const std::int64_t run =
          std::min(bytes / kSimdBytes, (period - at + kSimdBytes - 1) / kSimdBytes) * kSimdBytes;
      copy(line + at, run);
      at += run;
      bytes -= run;
    }
    if (at >= period) at -= period;
    stage(line + at, bytes);
  }

  void finish() {
    std::memcpy(cursor_ + skip_, staged_ + skip_, static_cast<std::size_t>(offset_ - skip_));
    if (stream_) stream_fence();
  }

private:
  // Fewer bytes than a vector.
  void stage(const char* source, std::int64_t bytes) {
    std::memcpy(staged_ + offset_, source, static_cast<std::size_t>(bytes));
    offset_ += bytes;
    if (offset_ < kSimdBytes) return;
    if (skip_ > 0)
      std::memcpy(cursor_ + skip_, staged_ + skip_, static_cast<std::size_t>(kSimdBytes - skip_));
    else
      copy_vector(staged_);
    cursor_ += kSimdBytes;
    offset_ = skip_ = 0;
  }
  void copy(const char* source, std::int64_t bytes) {
    for (std::int64_t i = 0; i < bytes; i += kSimdBytes, cursor_ += kSimdBytes)
      copy_vector(source + i);
  }
  void copy_vector(const char* source) {
    vec<float> v;
    std::memcpy(&v, source, kSimdBytes);
    if (stream_)
      store_stream(reinterpret_cast<float*>(cursor_), v);
    else
      std::memcpy(cursor_, &v, kSimdBytes);
  }

  char staged_[kSimdBytes];
  std::int64_t offset_; // bytes of the vector at cursor_ that are staged
  std::int64_t skip_;   // bytes of the first vector that are not ours
  char* cursor_;
  bool stream_;
};

} // namespace fastseg::pyramid_pool::FASTSEG_CPU_LEVEL
