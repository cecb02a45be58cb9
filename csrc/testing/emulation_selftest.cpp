// The emulation's own controls, and kernels with known faults for testing it.
#include <dlfcn.h>

#include "common/bind.h"
#include "common/cuda_launch.h"

namespace fastseg {
namespace {

constexpr int kThreads = 64;

// Each thread reads what its neighbour wrote; `with_barrier` makes it right.
__global__ void neighbour_kernel(int* out, bool with_barrier) {
  FASTSEG_SHARED(values, int[kThreads]);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (with_barrier) __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = values[(threadIdx.x + 1) % kThreads];
}

__global__ void unwritten_kernel(int* out) {
  FASTSEG_SHARED(values, float[kThreads]);
  if (threadIdx.x != 5) values[threadIdx.x] = 1.0f;
  __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = std::isnan(values[threadIdx.x]) ? 1 : 0;
}

__global__ void divergent_kernel(int* out) {
  if (threadIdx.x < 10)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 0;
}

__global__ void absent_lane_kernel(int* out) {
  if (threadIdx.x == 3) __syncthreads();
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, static_cast<int>(threadIdx.x), 1);
}

__global__ void misaligned_kernel(int* out) { cuda_on_cpu::require_aligned(out + threadIdx.x, 16); }

// Sum of 0..63 by shuffles, a ballot and an atomic: 2016 + 1000 * (number of even lanes).
__global__ void warp_kernel(int* out) {
  FASTSEG_SHARED(total, int);
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  int value = static_cast<int>(threadIdx.x);
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_down_sync(0xffffffffu, value, lanes);
  const unsigned even = __ballot_sync(0xffffffffu, threadIdx.x % 2 == 0);
  if (threadIdx.x % 32 == 0) atomicAdd(&total, value + 1000 * __popc(even));
  __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = total;
}

void run(const std::string& name, std::uintptr_t address, int blocks) {
  int* out = pointer<int>(address);
  const char* what = name.c_str();
  if (name == "neighbour") return launch(what, neighbour_kernel, blocks, kThreads, 0, 0, out, true);
  if (name == "race") return launch(what, neighbour_kernel, blocks, kThreads, 0, 0, out, false);
  if (name == "unwritten") return launch(what, unwritten_kernel, blocks, kThreads, 0, 0, out);
  if (name == "divergent") return launch(what, divergent_kernel, blocks, kThreads, 0, 0, out);
  if (name == "absent lane") return launch(what, absent_lane_kernel, blocks, kThreads, 0, 0, out);
  if (name == "misaligned") return launch(what, misaligned_kernel, blocks, kThreads, 0, 0, out);
  if (name == "warp") return launch(what, warp_kernel, blocks, kThreads, 0, 0, out);
  if (name == "too many threads") return launch(what, warp_kernel, blocks, 2048, 0, 0, out);
  if (name == "too much shared") return launch(what, warp_kernel, blocks, kThreads, 50000, 0, out);
  throw std::invalid_argument("no kernel is called '" + name + "'");
}

py::dict described(const traffic::Accesses& a) {
  py::dict d;
  d["requests"] = a.requests;
  d["sent"] = a.sent;
  d["partial"] = a.partial;
  d["needed"] = a.needed;
  d["by_blocks"] = a.by_blocks;
  return d;
}

py::dict described(const traffic::Launch& launch) {
  Dl_info module{};
  dladdr(launch.kernel, &module);
  py::dict d;
  d["what"] = launch.what;
  // Where nm finds the kernel's name.
  d["offset"] = reinterpret_cast<std::uintptr_t>(launch.kernel) -
                reinterpret_cast<std::uintptr_t>(module.dli_fbase);
  d["blocks"] = launch.blocks;
  d["threads"] = launch.threads;
  d["sampled"] = launch.sampled;
  d["loads"] = described(launch.loads);
  d["stores"] = described(launch.stores);
  d["shared_groups"] = launch.shared_groups;
  d["wavefronts"] = launch.wavefronts;
  return d;
}

} // namespace

void bind_cuda_on_cpu(py::module_& m) {
  py::module_ sub = m.def_submodule("cuda_on_cpu");
  sub.def("set_order", &cuda_on_cpu::set_order, py::arg("seed"));
  sub.def("launches", [] { return cuda_on_cpu::machine().launches; });
  sub.def("watch", &traffic::start, py::arg("sampled_blocks"));
  sub.def(
      "add_memory",
      [](std::uintptr_t p, std::size_t bytes) { traffic::add_memory(pointer(p), bytes); },
      py::arg("address"), py::arg("bytes"));
  sub.def("watched", [] {
    py::list launches;
    for (const traffic::Launch& launch : traffic::stop()) launches.append(described(launch));
    return launches;
  });
  sub.def("run", &run, py::arg("kernel"), py::arg("out"), py::arg("blocks"));
}

} // namespace fastseg
