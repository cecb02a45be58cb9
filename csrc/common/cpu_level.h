// One CPU source, several instruction sets.
//
// Every <op>_cpu.cpp is compiled once per level with FASTSEG_CPU_LEVEL set to its name, and defines
// `const CpuKernels kernels` inside namespace <op>::<level>. The header of the op declares them:
//
//   struct CpuKernels { void (*forward)(...); };
//   FASTSEG_DECLARE_CPU_LEVELS(CpuKernels)      // declares the levels and cpu_kernels()
//
// Code of a level must stay inside its namespace: an inline function shared between levels would be
// merged by the linker, and AVX-512 code could end up running on a machine without it.
#pragma once

#ifndef FASTSEG_X86 // the test build sets it to 0: one level
#if defined(__x86_64__) || defined(_M_X64)
#define FASTSEG_X86 1
#else
#define FASTSEG_X86 0
#endif
#endif

namespace fastseg {

enum class CpuLevel : int { baseline = 0, avx2 = 1, avx512 = 2 };

// The level in use: the best that this processor has, unless set_cpu_level lowered it.
CpuLevel cpu_level();
CpuLevel best_cpu_level();
// Throws std::invalid_argument when the processor lacks `level`.
void set_cpu_level(CpuLevel level);

} // namespace fastseg

#if FASTSEG_X86
#define FASTSEG_DECLARE_CPU_LEVELS(Kernels)                                                        \
  namespace baseline {                                                                             \
  extern const Kernels kernels;                                                                    \
  }                                                                                                \
  namespace avx2 {                                                                                 \
  extern const Kernels kernels;                                                                    \
  }                                                                                                \
  namespace avx512 {                                                                               \
  extern const Kernels kernels;                                                                    \
  }                                                                                                \
  inline const Kernels& cpu_kernels() {                                                            \
    switch (::fastseg::cpu_level()) {                                                              \
    case ::fastseg::CpuLevel::avx512:                                                              \
      return avx512::kernels;                                                                      \
    case ::fastseg::CpuLevel::avx2:                                                                \
      return avx2::kernels;                                                                        \
    default:                                                                                       \
      return baseline::kernels;                                                                    \
    }                                                                                              \
  }
#else
#define FASTSEG_DECLARE_CPU_LEVELS(Kernels)                                                        \
  namespace baseline {                                                                             \
  extern const Kernels kernels;                                                                    \
  }                                                                                                \
  inline const Kernels& cpu_kernels() { return baseline::kernels; }
#endif
