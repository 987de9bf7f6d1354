// Rows of a matrix in pieces of 16 bytes (or of one element, where alignment forbids), and sums
// of many rows in a fixed order.
#pragma once

#include "compat.cuh"

namespace fastchar::cuda {

constexpr int kRowThreads = 256;

// The lanes of a block that share one row: a power of two, at most a warp, so that rows of few
// columns don't leave most of the block idle. A block covers lanes * n columns of a row.
template <int n>
__host__ __device__ inline int lanes_per_row(int64_t columns) {
  int lanes = 1;
  while (lanes < kWarp && static_cast<int64_t>(lanes) * n < columns) lanes *= 2;
  return lanes;
}
template <int n>
__host__ __device__ inline int64_t column_tiles(int64_t columns) {
  const int64_t tile = static_cast<int64_t>(lanes_per_row<n>(columns)) * n;
  return (columns + tile - 1) / tile;
}

// The block's sum of row(0), ..., row(count - 1) in its column tile `tile`; the threads of the
// result's first group (group 0) get it, and the column it starts at. Each of the groups of
// lanes sums every groups-th row, in order; then the groups are added in order: the same bits
// always.
template <class T, int n, class Row>
struct RowSum {
  Acc<T> value[n];
  int64_t column;  // of value[0]
  bool mine;       // whether this thread holds a result

  // All threads of the block call it. row(i) -> const T* of row i's first column.
  FASTCHAR_INLINE RowSum(const Row& row, int64_t count, int64_t columns, int64_t tile) {
    // Rows in flight per thread: the latency is the device memory's.
    constexpr int kAhead = sizeof(T) == 8 ? 4 : 8;
    const int lanes = lanes_per_row<n>(columns), groups = kRowThreads / lanes;
    const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes;
    column = (tile * lanes + lane) * n;
    const bool inside = column < columns;
    for (int e = 0; e < n; ++e) value[e] = 0;
    for (int64_t first = group; inside && first < count; first += kAhead * groups) {
      Pack<T, n> pack[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int64_t i = first + a * groups;
        if (i < count) pack[a] = load_pack<T, n>(row(i) + column);
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (first + a * groups >= count) break;
        not_before(pack[a]);  // widened all at once, eight rows take twice the registers
#pragma unroll
        for (int e = 0; e < n; ++e) value[e] += widen(pack[a].value[e]);
      }
    }
    FASTCHAR_SHARED(sums, Array<Acc<T>, kRowThreads * n>);
    for (int half = groups / 2; half > 0; half /= 2) {
      __syncthreads();  // the round before has been read
      if (group >= half && group < 2 * half) {
#pragma unroll
        for (int e = 0; e < n; ++e) sums[e * kRowThreads + threadIdx.x] = value[e];
      }
      __syncthreads();
      if (group < half) {
#pragma unroll
        for (int e = 0; e < n; ++e)
          value[e] += sums[e * kRowThreads + threadIdx.x + half * lanes];
      }
    }
    mine = inside && group == 0;
  }
};

// out[i, :] = sum of rows [N, columns] from i * piece on, at most `piece` of them. Grid:
// (column tiles, pieces), since a weight's gradient is one row of more tiles than a grid has
// along y.
template <class T, class Out, int n>
__global__ void __launch_bounds__(kRowThreads)
    sum_rows(const T* rows, Out* out, int64_t N, int64_t columns, int64_t piece) {
  const int64_t i = blockIdx.y, begin = i * piece, left = N - begin;
  const auto row = [&](int64_t k) { return rows + (begin + k) * columns; };
  const RowSum<T, n, decltype(row)> sum(row, left < piece ? left : piece, columns, blockIdx.x);
  if (!sum.mine) return;
  for (int e = 0; e < n; ++e) out[i * columns + sum.column + e] = narrow<Out>(sum.value[e]);
}

}  // namespace fastchar::cuda
