// How the blocks that share one sequence's hidden units ("a team": the blocks along x of one y)
// give each other their slices of the next step's tile [kBatch][kDepth]. Three ways, one
// interface:
//
//   begin()           zeroes what no slice fills; every thread of the team
//   slice(column)     where this block's slice of a column goes, kSlice elements: a thread
//                     writes those of its own units (Items)
//   publish(step)     every thread, after its writes to slice(): the tile `step` has this slice
//   acquire(step)     every thread: the whole tile `step`, in shared memory
//
// Steps count up from 1, each published and then acquired by all. What a thread does between
// the two costs nothing while it waits for the others. The tiles alternate between two buffers:
// a block that publishes step s + 2 has acquired s + 1 from all, who had then read s.
#pragma once

#include "product.cuh"

namespace fastchar::cuda {

template <class Shape>
FASTCHAR_INLINE void zero_tiles(typename Shape::T* tiles, int count) {
  constexpr int kVectors =
      Shape::kBatch * Product<Shape>::kPitch * sizeof(typename Shape::T) / 16;
  for (int i = threadIdx.x; i < count * kVectors; i += kThreads) {
    reinterpret_cast<Pack<uint32_t, 4>*>(tiles)[i] = {};
  }
}

// Which units of which sequences a thread looks after: item j is (unit, column) of the block's.
template <class Shape>
struct Items {
  static constexpr int kAll = Shape::kUnits * Shape::kBatch;
  static constexpr int kPerThread = (kAll + kThreads - 1) / kThreads;
  static_assert(kAll % kThreads == 0 || kAll < kThreads, "whole rounds");
  FASTCHAR_INLINE static int index(int j) { return threadIdx.x + j * kThreads; }
  FASTCHAR_INLINE static bool exists(int j) { return index(j) < kAll; }
  FASTCHAR_INLINE static int unit(int j) { return index(j) % Shape::kUnits; }
  FASTCHAR_INLINE static int column(int j) { return index(j) / Shape::kUnits; }
};

// The team is one block.
template <class Shape>
struct BlockExchange {
  using T = typename Shape::T;
  struct Params {};
  static constexpr int kTile = Shape::kBatch * Product<Shape>::kPitch;
  static constexpr int kElements = 2 * kTile;  // of shared memory

  T* tiles;
  int next = 0;

  FASTCHAR_INLINE BlockExchange(const Params&, T* memory, int) : tiles(memory) {}
  FASTCHAR_INLINE void begin() {
    zero_tiles<Shape>(tiles, 2);
    __syncthreads();
  }
  FASTCHAR_INLINE T* slice(int column) {
    return tiles + next * kTile + column * Product<Shape>::kPitch;
  }
  FASTCHAR_INLINE void publish(int) {
    next ^= 1;
    __syncthreads();
  }
  FASTCHAR_INLINE const T* acquire(int) { return tiles + (next ^ 1) * kTile; }
};

// 16 bytes of a slice: bits, which a store takes at once, where numbers may be moved one by
// one.
using Piece = Pack<uint32_t, 4>;

// Own slices wait in `stage` [kBatch][kSlice] until they go out in pieces of 16 bytes. A warp
// sends what its own lanes wrote (Items), and waits for no other.
template <class Shape>
struct Stage {
  using T = typename Shape::T;
  static constexpr int kPiece = 16 / sizeof(T);
  static constexpr int kPieces = Shape::kSlice / kPiece;  // of one column
  static constexpr int kElements = Shape::kBatch * Shape::kSlice;
  // Of a warp's 32 items, which are next to each other; of all that it has.
  static constexpr int kOfItems = kWarp * (Shape::kSlice / Shape::kUnits) / kPiece;
  static constexpr int kOfWarp = kOfItems * Items<Shape>::kPerThread;
  static constexpr int kAtOnce = kWarp / kOfWarp;  // copies of each
  static_assert(kAtOnce * kOfWarp == kWarp, "a thread sends copies of one piece");

  T* memory;

  // send(copy, column, element in the slice, piece) for `copies` copies, kCopies at most, of
  // the first `columns` columns. Nothing is divided by what the compiler doesn't know.
  template <int kCopies, class Send>
  FASTCHAR_INLINE void send(int columns, int copies, const Send& send_piece) const {
    __syncwarp();
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, i = lane % kOfWarp;
    const int piece = (i / kOfItems * kWarps + warp) * kOfItems + i % kOfItems;
    const int column = piece / kPieces, element = piece % kPieces * kPiece;
    if (column >= columns) return;
    const Piece& stored =
        *reinterpret_cast<const Piece*>(memory + column * Shape::kSlice + element);
    if constexpr (kCopies == 1) {
      if (lane < kOfWarp) send_piece(0, column, element, stored);
    } else {
      const Piece own = stored;  // read once
#pragma unroll
      for (int first = 0; first < kCopies; first += kAtOnce) {
        const int copy = first + lane / kOfWarp;
        if (copy < copies) send_piece(copy, column, element, own);
      }
    }
  }
};

// The team is a cluster (sm_90): each block writes its slice into every block's shared memory.
template <class Shape>
struct ClusterExchange {
  using T = typename Shape::T;
  struct Params {};
  static constexpr int kTile = Shape::kBatch * Product<Shape>::kPitch;
  static constexpr int kElements = 2 * kTile + Stage<Shape>::kElements;

  T* tiles;
  Stage<Shape> stage;
  int columns;

  FASTCHAR_INLINE ClusterExchange(const Params&, T* memory, int columns)
      : tiles(memory), stage{memory + 2 * kTile}, columns(columns) {}
  FASTCHAR_INLINE void begin() {
    zero_tiles<Shape>(tiles, 2);
    cluster_sync();
  }
  FASTCHAR_INLINE T* slice(int column) { return stage.memory + column * Shape::kSlice; }
  FASTCHAR_INLINE void publish(int step) {
    T* own = tiles + step % 2 * kTile + blockIdx.x * Shape::kSlice;
    stage.template send<Shape::kDepth / Shape::kSlice>(
        columns, gridDim.x, [&](int rank, int column, int element, const Piece& piece) {
          store_to_peer(own + column * Product<Shape>::kPitch + element, rank, piece);
        });
    cluster_arrive();
  }
  FASTCHAR_INLINE const T* acquire(int step) {
    cluster_wait();
    return tiles + step % 2 * kTile;
  }
};

// The team is a row of a cooperative grid: slices go through global memory (L2), and a flag per
// block says which step it has published. The flags are zero before the launch; steps count
// from 1.
template <class Shape>
struct GridExchange {
  using T = typename Shape::T;
  struct Params {
    T* tiles;    // [teams][2][kBatch][kDepth]
    int* flags;  // [teams][blocks of a team]
  };
  static constexpr int kTile = Shape::kBatch * Product<Shape>::kPitch;
  static constexpr int kGlobalTile = Shape::kBatch * Shape::kDepth;
  static constexpr int kElements = kTile + Stage<Shape>::kElements;

  const Params& p;  // the kernel's: its pointers take no registers
  T* tile;
  Stage<Shape> stage;
  int columns;

  FASTCHAR_INLINE GridExchange(const Params& p, T* memory, int columns)
      : p(p), tile(memory), stage{memory + kTile}, columns(columns) {}
  FASTCHAR_INLINE T* global(int step) const {
    return p.tiles + static_cast<int64_t>(blockIdx.y * 2 + step % 2) * kGlobalTile;
  }
  FASTCHAR_INLINE int* flags() const { return p.flags + blockIdx.y * gridDim.x; }
  FASTCHAR_INLINE void begin() {
    zero_tiles<Shape>(tile, 1);
    __syncthreads();
  }
  FASTCHAR_INLINE T* slice(int column) { return stage.memory + column * Shape::kSlice; }
  FASTCHAR_INLINE void publish(int step) {
    T* own = global(step) + blockIdx.x * Shape::kSlice;
    stage.template send<1>(columns, 1, [&](int, int column, int element, const Piece& piece) {
      *reinterpret_cast<Piece*>(own + column * Shape::kDepth + element) = piece;
    });
    // A release is cumulative: what the barrier orders before it, other threads' pieces too, is
    // seen by whoever acquires the flag. No __threadfence(), which would wait once more, and as
    // a sequentially consistent fence for longer (MEMBAR.SC.GPU).
    __syncthreads();
    if (threadIdx.x == 0) store_release(flags() + blockIdx.x, step);
  }
  FASTCHAR_INLINE const T* acquire(int step) {
    if (threadIdx.x < gridDim.x) {
      while (load_acquire(flags() + threadIdx.x) < step) {
      }
    }
    __syncthreads();
    constexpr int kPiece = Stage<Shape>::kPiece, kPieces = Shape::kDepth / kPiece;
    static_assert(kThreads % kPieces == 0, "a thread stays in its piece of each column");
    const int element = threadIdx.x % kPieces * kPiece;
    if (element < gridDim.x * Shape::kSlice) {  // the rest no block writes
      const T* from = global(step) + element;
      for (int column = threadIdx.x / kPieces; column < columns; column += kThreads / kPieces) {
        copy_from_l2(tile + column * Product<Shape>::kPitch + element,
                     from + column * Shape::kDepth);
      }
    }
    wait_for_copies();
    __syncthreads();
    return tile;
  }
};

}  // namespace fastchar::cuda
