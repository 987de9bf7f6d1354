// What the kernels need beyond plain CUDA C++, in two spellings: PTX for nvcc, and tests/emu
// for the emulator that runs the same kernels on a CPU (FASTCHAR_EMULATOR). No torch here.
#pragma once

#include <cstdint>

#if defined(FASTCHAR_EMULATOR)
#include "cuda_emu.h"
#include "emu_types.h"
#else
#include <cassert>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#define FASTCHAR_INLINE __device__ __forceinline__

namespace fastchar::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// ---------------------------------------------------------------------------- shared memory

#if defined(FASTCHAR_EMULATOR)
#define FASTCHAR_SHARED(name, ...)    \
  static const char name##_place = 0; \
  auto& name = emu::static_shared<__VA_ARGS__>(&name##_place)
#define FASTCHAR_DYNAMIC_SHARED(name) unsigned char* name = emu::dynamic_shared()
#else
// One for the block: FASTCHAR_SHARED(sums, Array<float, 32>).
#define FASTCHAR_SHARED(name, ...) __shared__ __VA_ARGS__ name
#define FASTCHAR_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

template <class T, int n>
struct Array {
  T value[n];
  FASTCHAR_INLINE T& operator[](int i) { return value[i]; }
  FASTCHAR_INLINE const T& operator[](int i) const { return value[i]; }
};

// n elements that are read and written at once; n * sizeof(T) is 2, 4, 8 or 16.
template <class T, int n>
struct alignas(sizeof(T) * n) Pack {
  T value[n];
};

template <class T, int n>
FASTCHAR_INLINE Pack<T, n> load_pack(const T* address) {
  return *reinterpret_cast<const Pack<T, n>*>(address);
}
template <class T, int n>
FASTCHAR_INLINE void store_pack(T* address, const Pack<T, n>& pack) {
  *reinterpret_cast<Pack<T, n>*>(address) = pack;
}

// -------------------------------------------------------------------------------- numbers

using half = __half;
using bfloat16 = __nv_bfloat16;

// What sums of T are kept in.
template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class T>
using Acc = typename Accumulator<T>::type;

FASTCHAR_INLINE float widen(float x) { return x; }
FASTCHAR_INLINE double widen(double x) { return x; }
FASTCHAR_INLINE float widen(half x) { return __half2float(x); }
FASTCHAR_INLINE float widen(bfloat16 x) { return __bfloat162float(x); }

template <class T>
FASTCHAR_INLINE T narrow(Acc<T> x) {
  return x;
}
template <>
FASTCHAR_INLINE half narrow<half>(float x) {
  return __float2half_rn(x);
}
template <>
FASTCHAR_INLINE bfloat16 narrow<bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// x as the tensor cores take it: fp32 as TF32, to nearest with ties away from zero. What reads
// it is not compiled for less than sm_80.
template <class T>
FASTCHAR_INLINE T for_mma(T x) {
  return x;
}
template <>
FASTCHAR_INLINE float for_mma<float>(float x) {
#if defined(FASTCHAR_EMULATOR)
  return emu::round_to_tf32(x);
#elif __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#else
  return x;
#endif
}

// The gates' functions, for cell_math.h. expf and tanhf are within 2 ULP (CUDA C++ Programming
// Guide, 5.5), so sigmoid is within 4; expf overflows to Inf, whose sigmoid is 0.
FASTCHAR_INLINE float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
FASTCHAR_INLINE double sigmoid(double x) { return 1. / (1. + exp(-x)); }
FASTCHAR_INLINE float tanh(float x) { return tanhf(x); }
FASTCHAR_INLINE double tanh(double x) { return ::tanh(x); }
FASTCHAR_INLINE float fma(float a, float b, float c) { return fmaf(a, b, c); }
FASTCHAR_INLINE double fma(double a, double b, double c) { return ::fma(a, b, c); }

// ------------------------------------------------------------------ between blocks and
// clusters

#if defined(FASTCHAR_EMULATOR)

// Ends the kernel with an error unless `condition`.
#define FASTCHAR_DEVICE_CHECK(condition) \
  if (!(condition)) emu::fail("device check failed: " #condition)

inline int load_acquire(const int* flag) {
  emu::Machine::get().poll();
  return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}
inline void store_release(int* flag, int value) {
  __atomic_store_n(flag, value, __ATOMIC_RELEASE);
  emu::Machine::get().yield();
}
template <class T>
T load_from_l2(const T* address) {
  return *address;
}
inline void cluster_sync() { emu::current().block->cluster->barrier.arrive_and_wait(); }
using emu::peer_shared;

#else

// As torch's own kernels do: cudaErrorAssert, with the condition and the line on stderr. The
// trap tells the compiler that nothing comes after, so that no register is kept over the call.
#define FASTCHAR_DEVICE_CHECK(condition)                     \
  if (!(condition)) {                                        \
    __assert_fail(#condition, __FILE__, __LINE__, __func__); \
    __trap();                                                \
  }

// Flags in global memory that other blocks of a cooperative grid set and read.
FASTCHAR_INLINE int load_acquire(const int* flag) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
FASTCHAR_INLINE void store_release(int* flag, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

// Past L1, which may hold what stood there before another block wrote; and, unlike an __ldcg of
// some versions of CUDA, not to be moved over the flag that says that it did.
template <class T>
FASTCHAR_INLINE T load_from_l2(const T* address) {
  static_assert(sizeof(T) == 16, "16 bytes at once");
  union {
    uint4 bits;
    T value;
  } u;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(u.bits.x), "=r"(u.bits.y), "=r"(u.bits.z), "=r"(u.bits.w)
               : "l"(address)
               : "memory");
  return u.value;
}

// Every thread of the cluster; what was written to shared memory before, anywhere in the
// cluster, is seen after. The aligned barrier wants whole warps, and loops before it end at
// different times.
FASTCHAR_INLINE void cluster_sync() {
  __syncwarp();
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
#endif
}

// The same place in the shared memory of the cluster's block `rank`, for ordinary stores.
template <class T>
FASTCHAR_INLINE T* peer_shared(T* own, int rank) {
  T* peer = own;
#if __CUDA_ARCH__ >= 900
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(own), "r"(rank));
#endif
  return peer;
}

#endif

}  // namespace fastchar::cuda
