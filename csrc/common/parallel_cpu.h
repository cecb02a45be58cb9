// Threads for CPU kernels. Included only by *_cpu.cpp files; lives in the level's namespace.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>

#include "common/threads.h"
#endif

namespace fastseg::FASTSEG_CPU_LEVEL {

// Calls fn(i) for every i in [0, n), handed out one at a time to `threads` threads. Whatever fn
// computes must depend on i alone, so that results are the same bits at any thread count. The first
// exception of fn reaches the caller; calls that have not begun by then are left out.
template <class Fn> inline void parallel_for(std::int64_t n, int threads, const Fn& fn) {
#ifdef _OPENMP
  if (threads > 1 && n > 1) {
    const int team = startable_threads(threads);
    FirstError error;
#pragma omp parallel for schedule(dynamic, 1) num_threads(team)
    for (std::int64_t i = 0; i < n; ++i) {
      if (error.kept()) continue;
      try {
        fn(i);
      } catch (...) {
        error.keep();
      }
    }
    return error.rethrow();
  }
#endif
  for (std::int64_t i = 0; i < n; ++i) fn(i);
  (void)threads;
}

// Index of the calling thread in [0, threads): for picking a slice of a workspace.
inline int thread_index() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

} // namespace fastseg::FASTSEG_CPU_LEVEL
