// The part of the CUDA runtime that the launchers call, for tests/emu/launchers.py: a GPU with
// EMU_SMS multiprocessors of the size of sm_90's, one block of which has room on each. A launch
// runs to its end on the emulator; what a GPU would refuse is the next cudaGetLastError.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <set>

#include "cuda_emu.h"

#define CUDART_VERSION 13000

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorInvalidConfiguration,
  cudaErrorCooperativeLaunchTooLarge
};
using cudaStream_t = void*;
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrCooperativeLaunch,
  cudaDevAttrMultiProcessorCount
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributeNonPortableClusterSizeAllowed
};
enum cudaLaunchAttributeID {
  cudaLaunchAttributeClusterDimension,
  cudaLaunchAttributeCooperative
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 grid, block;  // gridDim and blockDim, which are macros here
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
struct cudaFuncAttributes {
  int ptxVersion;
};

namespace emu {

inline cudaError_t last_error = cudaSuccess;
inline std::map<const void*, int> shared_limit;  // by kernel, where one was asked for
inline std::set<const void*> large_clusters;     // kernels that may have more than 8 blocks

inline int multiprocessors() {
  const char* count = std::getenv("EMU_SMS");
  return count ? std::atoi(count) : 132;
}

// What a call returns is the last error too.
inline cudaError_t refused(cudaError_t error) { return last_error = error; }

template <class... Params, class... Args>
cudaError_t checked_launch(const Launch& config, void (*kernel)(Params...),
                           const Args&... args) {
  const auto limit = shared_limit.find(reinterpret_cast<const void*>(kernel));
  const size_t most = limit == shared_limit.end() ? 48 * 1024 : limit->second;
  if (config.shared_bytes > most) return refused(cudaErrorInvalidValue);
  const dim3 grid = config.grid;
  if (grid.x == 0 || grid.x > INT32_MAX || grid.y == 0 || grid.y > 65535 ||
      config.block.x > 1024) {
    return refused(cudaErrorInvalidConfiguration);
  }
  launch(config, kernel, args...);
  return cudaSuccess;
}

// kernel<<<grid, block, shared_bytes, stream>>>(arguments) as start(...)(arguments).
template <class... Params>
auto start(void (*kernel)(Params...), dim3 grid, unsigned block, size_t shared_bytes,
           cudaStream_t) {
  return [=](const auto&... args) {
    Launch config{grid, dim3(block), shared_bytes};
    config.resident = 16;
    checked_launch(config, kernel, args...);
  };
}

}  // namespace emu

inline cudaError_t cudaGetLastError() { return std::exchange(emu::last_error, cudaSuccess); }
inline const char* cudaGetErrorName(cudaError_t) { return "an error of the emulator"; }
inline const char* cudaGetErrorString(cudaError_t error) {
  const char* names[] = {"none", "invalid value", "invalid configuration", "grid too large"};
  return names[error];
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  *value = name == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 * 1024
           : name == cudaDevAttrCooperativeLaunch          ? 1
                                                           : emu::multiprocessors();
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* about, Kernel*) {
  about->ptxVersion = 90;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute name, int value) {
  const void* key = reinterpret_cast<const void*>(kernel);
  if (name == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    emu::large_clusters.insert(key);
  } else {
    if (value > 227 * 1024) return emu::refused(cudaErrorInvalidValue);
    emu::shared_limit[key] = value;
  }
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, Kernel* kernel,
                                           const cudaLaunchConfig_t* config) {
  const unsigned size = config->attrs->val.clusterDim.x;
  const bool large = emu::large_clusters.count(reinterpret_cast<const void*>(kernel));
  if (size > (large ? 16 : 8) || config->grid.x % size) {
    return emu::refused(cudaErrorInvalidValue);
  }
  *clusters = emu::multiprocessors() / size;
  return cudaSuccess;
}
template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               const Args&... args) {
  emu::Launch launch{config->grid, config->block, config->dynamicSmemBytes};
  launch.resident = 4;
  if (config->numAttrs && config->attrs->id == cudaLaunchAttributeClusterDimension) {
    launch.cluster = launch.resident = config->attrs->val.clusterDim.x;
  } else if (config->numAttrs) {  // a cooperative grid
    launch.resident = 0;
    if (launch.grid.x * launch.grid.y > static_cast<unsigned>(emu::multiprocessors())) {
      return emu::refused(cudaErrorCooperativeLaunchTooLarge);
    }
  }
  return emu::checked_launch(launch, kernel, args...);
}
