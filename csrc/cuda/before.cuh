// The h that each step of a sequence started from, for the gradient of W_hh: grad_gates^T times
// these, one product (torch's GEMM) over all tokens.
#pragma once

#include "rows.cuh"
#include "sequence.cuh"

namespace fastchar::cuda {

template <class T>
struct StatesBeforeParams {
  const T* y;              // [T, B, H], not read past an end
  const T* h0;             // [B, H], not read where a sequence is empty
  const int64_t* lengths;  // [B] on the device, or null (all T)
  T* before;               // [T, B, H]
  int steps, B, H;
  bool reverse;
};

// Zeros past an end: grad_gates is zero there, and 0 times an Inf of h0 would not be.
// Grid: (T * B / rows of a block, column tiles).
template <class T, int n>
__global__ void __launch_bounds__(kRowThreads) states_before(StatesBeforeParams<T> p) {
  const int lanes = lanes_per_row<n>(p.H), rows = kRowThreads / lanes;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * rows + threadIdx.x / lanes;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * lanes + threadIdx.x % lanes) * n;
  if (token >= static_cast<int64_t>(p.steps) * p.B || column >= p.H) return;
  const int t = static_cast<int>(token / p.B), b = static_cast<int>(token % p.B);
  const int length = length_of(p, b), before = p.reverse ? t + 1 : t - 1;
  Pack<T, n> h{};
  if (t < length) {
    const T* from = before >= 0 && before < length
                        ? p.y + (static_cast<int64_t>(before) * p.B + b) * p.H
                        : p.h0 + static_cast<int64_t>(b) * p.H;
    h = load_pack<T, n>(from + column);
  }
  store_pack<T, n>(p.before + token * p.H + column, h);
}

}  // namespace fastchar::cuda
