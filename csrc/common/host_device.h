// For the *_math.h files that the CPU and the CUDA twin share.
#pragma once

#ifdef __CUDACC__
#define FASTSEG_HD __host__ __device__ __forceinline__
#else
#define FASTSEG_HD inline
#endif

// In a CPU kernel the functions belong to the level's namespace (see common/cpu_level.h).
#ifdef FASTSEG_CPU_LEVEL
#define FASTSEG_MATH_NAMESPACE fastseg::FASTSEG_CPU_LEVEL
#else
#define FASTSEG_MATH_NAMESPACE fastseg
#endif
