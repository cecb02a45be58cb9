// What every *_cuda.cu needs around its kernels: launching, shared memory, index helpers.
//
// A .cu file is compiled twice: by nvcc, and as C++ for the tests, which run it on a CPU
// (csrc/testing/cuda_on_cpu.h, FASTSEG_CUDA_ON_CPU). Both builds go through launch() below, so the
// launch code is tested too. Kernels keep to what the emulation has; where it lacks something the
// test build does not compile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef FASTSEG_CUDA_ON_CPU
#include "testing/cuda_names.h"
#else
#include <cuda_runtime.h>
#endif

#define FASTSEG_DEVICE __device__ __forceinline__

// FASTSEG_SHARED(name, type): `type name` in the block's static shared memory; `type` may be an
// array type, float[32].
// dynamic_shared<T>(): the bytes asked for at the launch, aligned to 16.
#ifdef FASTSEG_CUDA_ON_CPU
#define FASTSEG_SHARED(name, ...)                                                                  \
  static char fastseg_shared_key_##name;                                                           \
  auto& name = *::fastseg::cuda_on_cpu::shared_variable<std::remove_reference_t<__VA_ARGS__>>(     \
      &fastseg_shared_key_##name)
#else
#define FASTSEG_SHARED(name, ...) __shared__ std::remove_reference_t<__VA_ARGS__> name
#endif

namespace fastseg {

#ifdef FASTSEG_CUDA_ON_CPU
template <class T> inline T* dynamic_shared() { return cuda_on_cpu::dynamic_shared<T>(); }
#else
template <class T> FASTSEG_DEVICE T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char fastseg_dynamic_shared[];
  return reinterpret_cast<T*>(fastseg_dynamic_shared);
}
#endif

#ifndef FASTSEG_CUDA_ON_CPU
// Whether a launch returned an error that is none of its own: kernels run later than they are
// launched, so a fault in one shows at whatever is called next.
inline bool is_of_earlier_work(cudaError_t status) {
  switch (status) {
  case cudaErrorIllegalAddress:
  case cudaErrorMisalignedAddress:
  case cudaErrorInvalidAddressSpace:
  case cudaErrorInvalidPc:
  case cudaErrorIllegalInstruction:
  case cudaErrorHardwareStackError:
  case cudaErrorLaunchFailure:
  case cudaErrorLaunchTimeout:
  case cudaErrorAssert:
  case cudaErrorECCUncorrectable:
    return true;
  default:
    return false;
  }
}

// Kernels are loaded when they are first launched. While a graph is captured that must not happen
// in the thread's strict mode, in which loading counts as unsafe.
template <class Kernel> void load_for_capture(Kernel* kernel, cudaStream_t stream) {
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &capturing) != cudaSuccess ||
      capturing != cudaStreamCaptureStatusActive)
    return;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  cudaFuncAttributes loaded;
  cudaFuncGetAttributes(&loaded, kernel);
  cudaThreadExchangeStreamCaptureMode(&mode);
}
#endif

// Launches `kernel` on a line of blocks; zero blocks is no work. Neither allocates nor waits. A
// launch that CUDA refuses becomes an exception that names `what`.
template <class... Params, class... Args>
void launch(const char* what, void (*kernel)(Params...), std::int64_t blocks, int threads,
            std::size_t shared_bytes, std::uintptr_t stream, const Args&... args) {
  if (blocks == 0) return;
  if (blocks > 0x7fffffff)
    throw std::invalid_argument(std::string("fastseg: ") + what + ": the tensor is too large (" +
                                std::to_string(blocks) + " blocks)");
#ifdef FASTSEG_CUDA_ON_CPU
  (void)stream;
  cuda_on_cpu::launch(what, reinterpret_cast<const void*>(kernel),
                      dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                      shared_bytes, [&] { kernel(args...); });
#else
  const auto on = reinterpret_cast<cudaStream_t>(stream);
  load_for_capture(kernel, on);
  cudaGetLastError(); // what was reported already
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared_bytes, on>>>(
      args...);
  const cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess) return;
  const bool no_device = status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver;
  throw std::runtime_error(std::string("fastseg: ") + what + ": " +
                           (no_device ? "no usable CUDA device: "
                            : is_of_earlier_work(status)
                                ? "not launched, something before it failed on the GPU "
                                  "(CUDA_LAUNCH_BLOCKING=1 shows what): "
                                : "CUDA error: ") +
                           cudaGetErrorString(status));
#endif
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// a / b and a % b for a >= 0, b > 0. Most indices fit in 32 bits, where a division costs a quarter.
struct Division {
  std::int64_t quotient, remainder;
};
FASTSEG_DEVICE Division divide(std::int64_t a, std::int64_t b) {
  if (((a | b) >> 32) == 0) {
    const std::uint32_t q = static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b);
    return {q, static_cast<std::uint32_t>(a) - q * static_cast<std::uint32_t>(b)};
  }
  return {a / b, a % b};
}

} // namespace fastseg
