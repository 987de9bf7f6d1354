// CUDA's spelling of what machine.h and meetings.h do: as much of the language as the kernels
// use. Included by csrc/cuda/compat.cuh in place of the CUDA headers when FASTCHAR_EMULATOR is
// defined.
#pragma once

#include <cmath>
#include <utility>

#include "meetings.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (emu::current().index)
#define blockIdx (emu::current().block->index)
#define blockDim (emu::Machine::get().config().block)
#define gridDim (emu::Machine::get().config().grid)

inline void __syncthreads() { emu::current().block->barrier.arrive_and_wait(); }
inline void __syncwarp(unsigned mask = ~0u) { emu::meet("__syncwarp", mask, 0); }
inline void __threadfence() {}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const auto all = emu::meet("__ballot_sync", mask, vote);
  unsigned ballot = 0;
  for (int lane = 0; lane < emu::kWarp; ++lane) {
    if (mask >> lane & 1) ballot |= static_cast<unsigned>(all[lane]) << lane;
  }
  return ballot & emu::current().block->alive_lanes[emu::current().warp];
}

template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  const auto all = emu::meet("__match_any_sync", mask, value);
  unsigned same = 0;
  for (int lane = 0; lane < emu::kWarp; ++lane) {
    if (mask >> lane & 1 && all[lane] == value) same |= 1u << lane;
  }
  return same;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return emu::meet("__shfl_sync", mask, value)[lane % emu::kWarp];
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, int delta) {
  const int lane = emu::current().lane;
  return emu::meet("__shfl_up_sync", mask, value)[lane >= delta ? lane - delta : lane];
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return emu::meet("__shfl_xor_sync", mask, value)[emu::current().lane ^ lanes];
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class T>
T atomicAdd(T* address, T value) {
  static_assert(std::is_integral<T>::value, "sums of floats depend on the order");
  emu::Machine::get().yield();
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

namespace emu {

// Static shared memory: one T per block and place in the source.
template <class T>
T& static_shared(const void* place) {
  const Unobserved scope;
  auto& memory = current().block->static_shared[place];
  if (!memory) {
    memory.reset(new unsigned char[sizeof(T)]);
    std::memset(memory.get(), 0xFF, sizeof(T));
  }
  return *reinterpret_cast<T*>(memory.get());
}

inline unsigned char* dynamic_shared() { return current().block->dynamic_shared.get(); }

// The same place in the dynamic shared memory of the cluster's block `rank`.
template <class T>
T* peer_shared(T* own, int rank) {
  const Block& block = *current().block;
  const auto offset = reinterpret_cast<unsigned char*>(own) - block.dynamic_shared.get();
  if (offset < 0 || static_cast<size_t>(offset) >= block.dynamic_bytes) {
    fail("peer_shared: not in dynamic shared memory");
  }
  Block* peer = block.cluster->blocks.at(rank);
  if (!peer->running) fail("peer_shared: that block of the cluster has ended");
  return reinterpret_cast<T*>(peer->dynamic_shared.get() + offset);
}

template <class... Params, class... Args>
void launch(const Launch& config, void (*kernel)(Params...), const Args&... args) {
  Machine::get().run(config, [&] { kernel(args...); });
}

}  // namespace emu
