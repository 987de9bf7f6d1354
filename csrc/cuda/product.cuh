// A block's part of a product whose left operand stays in registers: weight [rows, depth] times
// a tile [depth, batch] in shared memory, by mma.sync m16n8k16 (fp32 as TF32: m16n8k8) with the
// weights as M, so that a batch of 8 fills a tile. 16 warps share the rows and the depth; each
// holds 16 fragments of the weights at most, 64 registers a thread.
#pragma once

#include "compat.cuh"

#if defined(FASTCHAR_EMULATOR)
#include "emu_mma.h"
#endif

namespace fastchar::cuda {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * kWarp;

// Elements of the depth that one mma takes.
template <class T>
constexpr int kMmaDepth = 32 / sizeof(T);
// Weights of a block: what its registers have room for.
template <class T>
constexpr int kWeights = kWarps * 16 * 16 * kMmaDepth<T>;

// d += a b. Lane l holds, with g = l / 4 and q = 2 (l % 4),
//   d (row, column):  (g, q), (g, q + 1), (g + 8, q), (g + 8, q + 1)
// and of 16-bit types two neighbours at a time along depth:
//   a (row, depth):   (g, q), (g + 8, q), (g, q + 8), (g + 8, q + 8)
//   b (depth, column):  (q, g), (q + 8, g)
// of fp32 one: a (g, q), (g + 8, q), (g, q + 1), (g + 8, q + 1) and b (q, g), (q + 1, g). PTX
// has l % 4 and l % 4 + 4 there in place of q and q + 1: the order along depth, which a and b
// share, is nothing to their product, and this one makes b one load.
#if defined(FASTCHAR_EMULATOR)
template <class T>
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (sizeof(T) == 4) {
    emu::mma_16x8x8(d, a, b0, b1);
  } else {
    emu::mma_16x8x16<T>(d, a, b0, b1, [](T x) { return widen(x); });
  }
}
#else
template <class T>
FASTCHAR_INLINE void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

#if __CUDA_ARCH__ >= 800
#define FASTCHAR_MMA(shape, type)                                           \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type      \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
#else
#define FASTCHAR_MMA(shape, type) __trap()  // the launcher takes another way there
#endif
template <>
FASTCHAR_INLINE void mma<half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                               uint32_t b1) {
  FASTCHAR_MMA("m16n8k16", "f16");
}
template <>
FASTCHAR_INLINE void mma<bfloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
  FASTCHAR_MMA("m16n8k16", "bf16");
}
template <>
FASTCHAR_INLINE void mma<float>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                uint32_t b1) {
  FASTCHAR_MMA("m16n8k8", "tf32");
}
#undef FASTCHAR_MMA
#endif

// The four registers of a thread's part of 16 x kMmaDepth weights.
using Fragment = Pack<uint32_t, 4>;

// Shape has the element type T, kRows, kDepth, kBatch, kTilesM (how many of a warp's fragments
// lie below each other), and the weights themselves: weight(w_hh, H, block, row, depth) -> T.
template <class Shape>
struct Product {
  using T = typename Shape::T;
  static constexpr int M = Shape::kTilesM;
  static constexpr int kRowGroups = Shape::kRows / (16 * M);
  static constexpr int kSplits = kWarps / kRowGroups;  // warps that share the depth of a row
  static constexpr int kStep = kMmaDepth<T>;
  static constexpr int K = Shape::kDepth / (kSplits * kStep);  // a warp's fragments are M x K
  static constexpr int kFragments = M * K;
  static_assert(kRowGroups * 16 * M == Shape::kRows && kSplits * kRowGroups == kWarps &&
                    kSplits * kStep * K == Shape::kDepth && kFragments <= 16,
                "the warps' parts make the whole");

  // Elements from one column of the tile to the next, in shared memory: 4 banks more than a
  // multiple of 32 (8 of fp32, whose loads are of two), so that a fragment's columns lie in
  // different ones.
  static constexpr int kPitch = Shape::kDepth + 8;
  // Likewise for the sums, in floats: the columns q and q + 1 of the four q lie 8 banks apart.
  static constexpr int kSumPitch = Shape::kRows + 4;
  static constexpr int kSums = kSplits * Shape::kBatch * kSumPitch;

  // Sums that a warp has in flight: an mma waits for the one before that it adds to, some 33
  // cycles, in which the 4 warps of a scheduler have to find something else to do.
  static constexpr int kChains = M == 1 && K % 2 == 0 ? 2 : 1;

  uint32_t weight[M][K][4];

  FASTCHAR_INLINE static int split() { return threadIdx.x / kWarp / kRowGroups; }
  FASTCHAR_INLINE static int first_row() { return threadIdx.x / kWarp % kRowGroups * 16 * M; }
  FASTCHAR_INLINE static int first_depth() { return split() * kStep * K; }

  // This thread's part of fragment f = m K + k.
  FASTCHAR_INLINE static Fragment fragment(const T* w_hh, int H, int block, int f) {
    constexpr int kPair = 4 / sizeof(T);  // elements of a register
    const int lane = threadIdx.x % kWarp;
    union {
      T element[4][kPair];
      Fragment bits;
    } u;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int row = first_row() + f / K * 16 + lane / 4 + r % 2 * 8;
      const int depth =
          first_depth() + f % K * kStep + lane % 4 * 2 + r / 2 * (kPair == 2 ? 8 : 1);
#pragma unroll
      for (int e = 0; e < kPair; ++e) {
        u.element[r][e] = for_mma(Shape::weight(w_hh, H, block, row, depth + e));
      }
    }
    return u.bits;
  }

  // packed: see pack_weights.
  FASTCHAR_INLINE void load(const Fragment* packed) {
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      const Fragment fragment = packed[(blockIdx.x * kFragments + f) * kThreads + threadIdx.x];
#pragma unroll
      for (int r = 0; r < 4; ++r) weight[f / K][f % K][r] = fragment.value[r];
    }
  }

  // The first `columns` columns (rounded up to 8) of tile [kBatch][kPitch]; the result is the
  // sum over `split` of sums [kSplits][kBatch][kSumPitch]. Depth from `depth` on holds zeros:
  // warps that have no other are spared it, but nobody looks from mma to mma, which would keep
  // the loads of one behind the one before.
  FASTCHAR_INLINE void multiply(const T* tile, int columns, int depth, float* sums) const {
    const int lane = threadIdx.x % kWarp;
    __syncwarp();  // mma wants the warp together
    for (int first = 0; first < columns; first += 8) {
      float d[kChains][M][4] = {};
      const T* column = tile + (first + lane / 4) * kPitch + first_depth() + lane % 4 * 2;
      if (first_depth() < depth) {
#pragma unroll
        for (int k = 0; k < K; ++k) {
          const Pack<uint32_t, 2> b = pairs(column + kStep * k);
#pragma unroll
          for (int m = 0; m < M; ++m) {
            mma<T>(d[k % kChains][m], weight[m][k], b.value[0], b.value[1]);
          }
        }
      }
#pragma unroll
      for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (kChains == 2) d[0][m][i] += d[kChains - 1][m][i];
        }
      }
      float* sum = sums + (split() * Shape::kBatch + first + lane % 4 * 2) * kSumPitch +
                   first_row() + lane / 4;
#pragma unroll
      for (int m = 0; m < M; ++m) {
        sum[16 * m] = d[0][m][0];
        sum[16 * m + kSumPitch] = d[0][m][1];
        sum[16 * m + 8] = d[0][m][2];
        sum[16 * m + 8 + kSumPitch] = d[0][m][3];
      }
    }
  }

  // This thread's part of the tile's fragment at `column`.
  FASTCHAR_INLINE static Pack<uint32_t, 2> pairs(const T* column) {
    if constexpr (sizeof(T) == 4) {
      return *reinterpret_cast<const Pack<uint32_t, 2>*>(column);
    } else {
      return {*reinterpret_cast<const uint32_t*>(column),
              *reinterpret_cast<const uint32_t*>(column + 8)};
    }
  }

  FASTCHAR_INLINE static float sum(const float* sums, int row, int column) {
    float total = 0;
#pragma unroll
    for (int s = 0; s < kSplits; ++s) {
      total += sums[(s * Shape::kBatch + column) * kSumPitch + row];
    }
    return total;
  }
};

// Every block's weights in the order in which its threads take them into registers:
// packed [team][fragments][kThreads]. Made once per call by a kernel of its own: the resident
// kernels have no registers to spare for the addresses. Grid: (team, fragments).
template <class Shape>
__global__ void __launch_bounds__(kThreads)
    pack_weights(const typename Shape::T* w_hh, int H, Fragment* packed) {
  packed[(blockIdx.x * gridDim.y + blockIdx.y) * kThreads + threadIdx.x] =
      Product<Shape>::fragment(w_hh, H, blockIdx.x, blockIdx.y);
}

}  // namespace fastchar::cuda
