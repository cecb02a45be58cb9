#include "common/cpu_level.h"

#include <atomic>
#include <stdexcept>

namespace fastseg {

CpuLevel best_cpu_level() {
#if FASTSEG_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return CpuLevel::avx512;
  if (avx2) return CpuLevel::avx2;
#endif
  return CpuLevel::baseline;
}

namespace {
std::atomic<int> current{static_cast<int>(best_cpu_level())};
}

CpuLevel cpu_level() { return static_cast<CpuLevel>(current.load(std::memory_order_relaxed)); }

void set_cpu_level(CpuLevel level) {
  if (level < CpuLevel::baseline || level > best_cpu_level())
    throw std::invalid_argument("fastseg: this processor does not have that instruction set");
  current.store(static_cast<int>(level), std::memory_order_relaxed);
}

} // namespace fastseg
