// The sequence in one kernel: W_hh stays in registers from the first step to the last, spread
// over a team of blocks, each with some of the hidden units and all of their gates. Grid:
// (team, batch tiles). A step: the tile of h (back: of gate gradients) times the weights, a
// barrier, the cell for the block's units, and the exchange of what they became.
#pragma once

#include "exchange.cuh"
#include "sequence.cuh"

namespace fastchar::cuda {

// Hidden units of a block of the kernels for H <= kHidden, with all their gates' weights.
template <class T, int kHidden>
constexpr int kBlockUnits =
    kWeights<T> / 4 / kHidden < kHidden ? kWeights<T> / 4 / kHidden : kHidden;

// H <= kHidden; a team has ceil(H / kUnits) blocks.
template <class T_, int kHidden, int kBatch_>
struct ForwardShape {
  using T = T_;
  static constexpr int kBatch = kBatch_;
  static constexpr int kUnits = kBlockUnits<T, kHidden>;  // hidden units of a block
  static constexpr int kRows = 4 * kUnits;                // gate after gate
  static constexpr int kDepth = kHidden;                  // h
  static constexpr int kSlice = kUnits;
  static constexpr int kTilesM = 2;
  static constexpr bool kBackward = false;

  FASTCHAR_INLINE static T weight(const T* w_hh, int H, int block, int row, int depth) {
    const int gate = row / kUnits, unit = block * kUnits + row % kUnits;
    if (unit >= H || depth >= H) return narrow<T>(0.f);
    return w_hh[(static_cast<int64_t>(gate) * H + unit) * H + depth];
  }
};

template <class T_, int kHidden, int kBatch_>
struct BackwardShape {
  using T = T_;
  static constexpr int kBatch = kBatch_;
  static constexpr int kUnits = kBlockUnits<T, kHidden>;
  static constexpr int kRows = kUnits;
  static constexpr int kDepth = 4 * kHidden;  // gate gradients, the four of a unit together
  static constexpr int kSlice = 4 * kUnits;
  static constexpr int kTilesM = 1;
  static constexpr bool kBackward = true;

  FASTCHAR_INLINE static T weight(const T* w_hh, int H, int block, int row, int depth) {
    const int unit = block * kUnits + row, gate = depth % 4, from = depth / 4;
    if (unit >= H || from >= H) return narrow<T>(0.f);
    return w_hh[(static_cast<int64_t>(gate) * H + from) * H + unit];
  }
};

template <class Shape, class Exchange>
constexpr size_t resident_shared_bytes() {
  return Exchange::kElements * sizeof(typename Shape::T) +
         Product<Shape>::kSums * sizeof(float);
}

// What a block works on, and where in its shared memory. A launch serves the sequences from
// first_b to end_b, `batch` of them a team.
template <class Shape, class Exchange>
struct Part {
  using T = typename Shape::T;
  int b0, unit0;  // its first sequence and hidden unit
  int columns;    // how many sequences
  T* tiles;       // the exchange's
  float* sums;    // the product's

  FASTCHAR_INLINE Part(unsigned char* memory, int first_b, int end_b, int batch)
      : b0(first_b + blockIdx.y * batch),
        unit0(blockIdx.x * Shape::kUnits),
        columns(end_b - b0 < batch ? end_b - b0 : batch),
        tiles(reinterpret_cast<T*>(memory)),
        sums(reinterpret_cast<float*>(tiles + Exchange::kElements)) {}
};

// `batch`: kBatch at most. Of a step, only what the other blocks need stands between the
// product and publish(): results are stored after it, and the next step's inputs are on their
// way while this block waits. Forward: steps >= 1, since a block may not end between publish()
// and acquire().
template <class Shape, class Exchange>
__global__ void __launch_bounds__(kThreads, 1)
    resident_forward(LstmSequenceParams<typename Shape::T> p, const Fragment* packed,
                     typename Exchange::Params exchange_params, int first_b, int end_b,
                     int batch) {
  using T = typename Shape::T;
  using Own = Items<Shape>;
  FASTCHAR_DYNAMIC_SHARED(memory);
  const Part<Shape, Exchange> part(memory, first_b, end_b, batch);
  const int columns = part.columns;

  Product<Shape> product;
  product.load(packed);
  Exchange exchange(exchange_params, part.tiles, columns);
  exchange.begin();
  ForwardUnit<T> state[Own::kPerThread];
  bool mine[Own::kPerThread];
#pragma unroll
  for (int j = 0; j < Own::kPerThread; ++j) {
    const int column = Own::column(j), unit = part.unit0 + Own::unit(j);
    mine[j] = Own::exists(j) && column < columns && unit < p.H;
    if (mine[j]) state[j].begin(p, part.b0 + column, unit);
    if (Own::exists(j) && column < columns) {
      const T h = narrow<T>(mine[j] ? state[j].h : 0.f);
      exchange.slice(column)[Own::unit(j)] = for_mma(h);
    }
  }
  exchange.publish(1);

  for (int s = 0; s < p.steps; ++s) {
    const int t = p.reverse ? p.steps - 1 - s : s;
    T input[Own::kPerThread][4];
#pragma unroll
    for (int j = 0; j < Own::kPerThread; ++j) {
      if (mine[j]) state[j].load(p, t, input[j]);
    }
    product.multiply(exchange.acquire(s + 1), columns, p.H, part.sums);
    __syncthreads();
    Pack<T, 4> gates[Own::kPerThread];
#pragma unroll
    for (int j = 0; j < Own::kPerThread; ++j) {
      if (!mine[j]) continue;
      float recurrent[4];
#pragma unroll
      for (int gate = 0; gate < 4; ++gate) {
        recurrent[gate] =
            Product<Shape>::sum(part.sums, gate * Shape::kUnits + Own::unit(j), Own::column(j));
      }
      state[j].step(t, input[j], recurrent, gates[j]);
      exchange.slice(Own::column(j))[Own::unit(j)] = for_mma(narrow<T>(state[j].h));
    }
    if (s + 1 < p.steps) exchange.publish(s + 2);
#pragma unroll
    for (int j = 0; j < Own::kPerThread; ++j) {
      if (mine[j]) state[j].store(p, t, gates[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < Own::kPerThread; ++j) {
    if (mine[j]) state[j].end(p);
  }
}

template <class Shape, class Exchange>
__global__ void __launch_bounds__(kThreads, 1)
    resident_backward(LstmSequenceBackwardParams<typename Shape::T> p, const Fragment* packed,
                      typename Exchange::Params exchange_params, int first_b, int end_b,
                      int batch) {
  using T = typename Shape::T;
  using Own = Items<Shape>;
  FASTCHAR_DYNAMIC_SHARED(memory);
  const Part<Shape, Exchange> part(memory, first_b, end_b, batch);
  const int columns = part.columns;

  Product<Shape> product;
  product.load(packed);
  Exchange exchange(exchange_params, part.tiles, columns);
  exchange.begin();
  BackwardUnit<T> state[Own::kPerThread];
  bool mine[Own::kPerThread];
#pragma unroll
  for (int j = 0; j < Own::kPerThread; ++j) {
    const int column = Own::column(j), unit = part.unit0 + Own::unit(j);
    mine[j] = Own::exists(j) && column < columns && unit < p.H;
    if (mine[j]) state[j].begin(p, part.b0 + column, unit);
  }

  for (int s = 0; s <= p.steps; ++s) {
    const bool more = s < p.steps;
    const int t = p.reverse ? s : p.steps - 1 - s;
    typename BackwardUnit<T>::Input input[Own::kPerThread];
#pragma unroll
    for (int j = 0; j < Own::kPerThread; ++j) {
      if (more && mine[j]) state[j].load(p, t, input[j]);
    }
    if (s > 0) {
      product.multiply(exchange.acquire(s), columns, 4 * p.H, part.sums);
      __syncthreads();
    }
    Pack<T, 4> grad[Own::kPerThread];
#pragma unroll
    for (int j = 0; j < Own::kPerThread; ++j) {
      Pack<T, 4> sent{};
      if (mine[j]) {
        if (s > 0) {
          state[j].receive(Product<Shape>::sum(part.sums, Own::unit(j), Own::column(j)));
        }
        if (more) {
          state[j].step(t, input[j], grad[j]);
#pragma unroll
          for (int gate = 0; gate < 4; ++gate) sent.value[gate] = for_mma(grad[j].value[gate]);
        }
      }
      if (more && Own::exists(j) && Own::column(j) < columns) {
        store_pack<T, 4>(exchange.slice(Own::column(j)) + 4 * Own::unit(j), sent);
      }
    }
    if (!more) break;
    exchange.publish(s + 1);
#pragma unroll
    for (int j = 0; j < Own::kPerThread; ++j) {
      if (mine[j]) state[j].store(p, t, grad[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < Own::kPerThread; ++j) {
    if (mine[j]) state[j].end(p);
  }
}

}  // namespace fastchar::cuda
