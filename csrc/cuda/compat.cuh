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

// Nothing that is made of the pack is made further up: the compiler moves what is cheap, such
// as widening a bfloat16, over branches, and keeps the results in registers until they are
// wanted.
template <class T, int n>
FASTCHAR_INLINE void not_before(Pack<T, n>& pack) {
#if !defined(FASTCHAR_EMULATOR)
  if constexpr (sizeof(pack) == 16) {
    uint32_t* word = reinterpret_cast<uint32_t*>(&pack);
    asm volatile("" : "+r"(word[0]), "+r"(word[1]), "+r"(word[2]), "+r"(word[3]));
  }
#endif
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

// The same on float for kernels whose results have 16 bits, in a third of the instructions,
// since a step's gates are of the length of its product: by the hardware's 2^x and 1 / x (PTX:
// relative errors below 2^-22 and 2^-23). sigmoid and tanh are within 2^-18, where half and
// bfloat16 round by 2^-12 and 2^-9. NaN stays NaN, and at Inf they are 0 and 1.
struct Quick {
  float value;
  Quick() = default;
  FASTCHAR_INLINE explicit Quick(float x) : value(x) {}
  FASTCHAR_INLINE explicit operator float() const { return value; }
};
FASTCHAR_INLINE Quick operator-(Quick a) { return Quick(-a.value); }
FASTCHAR_INLINE Quick operator+(Quick a, Quick b) { return Quick(a.value + b.value); }
FASTCHAR_INLINE Quick operator*(Quick a, Quick b) { return Quick(a.value * b.value); }
FASTCHAR_INLINE Quick fma(Quick a, Quick b, Quick c) {
  return Quick(fmaf(a.value, b.value, c.value));
}

FASTCHAR_INLINE float quick_exp2(float x) {
#if defined(FASTCHAR_EMULATOR)
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
FASTCHAR_INLINE float quick_reciprocal(float x) {
#if defined(FASTCHAR_EMULATOR)
  return 1 / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
FASTCHAR_INLINE Quick sigmoid(Quick x) {
  return Quick(quick_reciprocal(1.f + quick_exp2(-1.44269504f * x.value)));
}
// Of a small x, where 1 - e^(-2x) would cancel, the series.
FASTCHAR_INLINE Quick tanh(Quick x) {
  const float size = fabsf(x.value), square = x.value * x.value;
  const float e = quick_exp2(-2.88539008f * size);
  const float large = copysignf((1.f - e) * quick_reciprocal(1.f + e), x.value);
  const float small = fmaf(fmaf(square, 2.f / 15, -1.f / 3) * square, x.value, x.value);
  return Quick(size < 0.125f ? small : large);
}

// What the gates of a sequence of T are computed in.
template <class T>
struct GateMath {
  using type = Acc<T>;
};
template <>
struct GateMath<half> {
  using type = Quick;
};
template <>
struct GateMath<bfloat16> {
  using type = Quick;
};
template <class T>
using Gate = typename GateMath<T>::type;

// --------------------------------------------------------- between blocks and in clusters

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
inline void prefetch_to_l2(const void* global) {
  static_cast<void>(*static_cast<const volatile char*>(global));
}
inline void copy_from_l2(void* shared, const void* global) { std::memcpy(shared, global, 16); }
inline void wait_for_copies() {}
inline void cluster_arrive() { emu::cluster_arrive(); }
inline void cluster_wait() { emu::cluster_wait(); }
inline void store_to_peer(void* own, int rank, const Pack<uint32_t, 4>& pack) {
  std::memcpy(emu::peer_shared(static_cast<char*>(own), rank), &pack, sizeof pack);
}

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

FASTCHAR_INLINE void prefetch_to_l2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// 16 bytes, aligned to 16, on their way into shared memory until wait_for_copies, which waits
// for this thread's; all of them in flight at once, and in no register. Past L1, which may hold
// what stood there before another block wrote.
FASTCHAR_INLINE void copy_from_l2(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
#else
  __trap();  // the launcher takes another way there
#endif
}
FASTCHAR_INLINE void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Every thread of the cluster; what was written to shared memory before the arrival, anywhere
// in the cluster, is seen after the wait. The aligned barrier wants whole warps, and loops
// before it end at different times. The arrival waits for this thread's stores to global memory
// too (in machine code, MEMBAR.ALL.GPU): those that can wait are better made after it.
FASTCHAR_INLINE void cluster_arrive() {
  __syncwarp();
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
FASTCHAR_INLINE void cluster_wait() {
  __syncwarp();
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// 16 bytes to the same place in the shared memory of the cluster's block `rank`. By addresses
// of shared memory, whose arithmetic has 32 bits.
FASTCHAR_INLINE void store_to_peer(void* own, int rank, const Pack<uint32_t, 4>& pack) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{ .reg .b32 to; mapa.shared::cluster.u32 to, %0, %1;"
      " st.shared::cluster.v4.b32 [to], {%2, %3, %4, %5}; }" ::"r"(
          static_cast<unsigned>(__cvta_generic_to_shared(own))),
      "r"(rank), "r"(pack.value[0]), "r"(pack.value[1]), "r"(pack.value[2]), "r"(pack.value[3])
      : "memory");
#endif
}

#endif

FASTCHAR_INLINE void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

}  // namespace fastchar::cuda
