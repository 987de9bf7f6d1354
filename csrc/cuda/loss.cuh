// Cross entropy on rows of logits, and its gradient in their place. The products around it are
// GEMMs: logits of a chunk of tokens = input weight^T, then loss_rows, then grad_input = grad
// weight and grad_weight += grad^T input, before the next chunk.
#pragma once

#include "rows.cuh"

namespace fastchar::cuda {

constexpr int kLossRows = 8;    // tokens of a block, a warp each
constexpr int kSumBlocks = 32;  // of sum_tokens
constexpr int kSumThreads = 256;

template <class T>
struct LossParams {
  T* logits;              // [N, C] without bias; gradients afterwards if `grad`
  const T* bias;          // [C] or null
  const int64_t* target;  // [N], 0..C-1 or ignore_index
  const T* class_weight;  // [C] or null
  const T* grad_loss;     // [N] or null: *grad_scale for every token
  const double* grad_scale;
  T* loss;            // [N] or null, 0 where ignored
  Acc<T>* wide_loss;  // likewise, not rounded
  int64_t N, C, ignore_index;
  double label_smoothing;
  bool grad;
};

template <class T>
FASTCHAR_INLINE T warp_max(T x) {
  for (int step = kWarp / 2; step; step /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, x, step);
    x = other > x ? other : x;
  }
  return x;
}
template <class T>
FASTCHAR_INLINE T warp_sum(T x) {
  for (int step = kWarp / 2; step; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// loss = w_t (lse - z_t) + sum_c s_c (lse - z_c), with s_c = label_smoothing / C *
// class_weight[c] and w_t = (1 - label_smoothing) class_weight[t]. One warp per token.
template <class T>
__global__ void __launch_bounds__(kLossRows* kWarp) loss_rows(LossParams<T> p) {
  using A = Acc<T>;
  const int lane = threadIdx.x % kWarp;
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kLossRows + threadIdx.x / kWarp;
  if (n >= p.N) return;
  T* z = p.logits + n * p.C;
  const int64_t target = p.target[n];
  if (target == p.ignore_index) {
    if (lane == 0 && p.loss) p.loss[n] = narrow<T>(A(0));
    if (lane == 0 && p.wide_loss) p.wide_loss[n] = 0;
    if (p.grad) {
      for (int64_t c = lane; c < p.C; c += kWarp) z[c] = narrow<T>(A(0));
    }
    return;
  }
  FASTCHAR_DEVICE_CHECK(target >= 0 && target < p.C);
  const auto logit = [&](int64_t c) {
    return p.bias ? widen(z[c]) + widen(p.bias[c]) : widen(z[c]);
  };
  const auto weight = [&](int64_t c) {
    return p.class_weight ? widen(p.class_weight[c]) : A(1);
  };
  const A smooth = static_cast<A>(p.label_smoothing / p.C);

  A top = -INFINITY;
  for (int64_t c = lane; c < p.C; c += kWarp) {
    const A x = logit(c);
    top = x > top ? x : top;
  }
  top = warp_max(top);
  A sum = 0, smooth_sum = 0, smooth_z = 0;
  for (int64_t c = lane; c < p.C; c += kWarp) {
    const A x = logit(c) - top;
    sum += exp(x);
    if (p.label_smoothing != 0) {
      smooth_sum += smooth * weight(c);
      smooth_z += smooth * weight(c) * x;
    }
  }
  sum = warp_sum(sum);
  smooth_sum = warp_sum(smooth_sum);
  smooth_z = warp_sum(smooth_z);
  const A log_sum = log(sum);
  const A target_weight = static_cast<A>(1 - p.label_smoothing) * weight(target);
  const A loss =
      target_weight * (log_sum - (logit(target) - top)) + (smooth_sum * log_sum - smooth_z);
  if (lane == 0 && p.loss) p.loss[n] = narrow<T>(loss);
  if (lane == 0 && p.wide_loss) p.wide_loss[n] = loss;
  if (!p.grad) return;
  const A g = p.grad_loss ? widen(p.grad_loss[n]) : static_cast<A>(*p.grad_scale);
  const A factor = (target_weight + smooth_sum) / sum;
  __syncwarp();  // everyone has read the target's logit
  for (int64_t c = lane; c < p.C; c += kWarp) {
    A d = factor * exp(logit(c) - top);
    if (p.label_smoothing != 0) d -= smooth * weight(c);
    if (c == target) d -= target_weight;
    z[c] = narrow<T>(g * d);
  }
}

// The block's sum, in a fixed order; thread 0 gets it.
FASTCHAR_INLINE double block_sum(double x) {
  FASTCHAR_SHARED(sums, Array<double, kSumThreads>);
  sums[threadIdx.x] = x;
  for (int half = kSumThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  return threadIdx.x == 0 ? sums[0] : 0;
}

// partial[block] = sum over the block's tokens of value[n], or without it of the target's
// weight, ignored tokens left out. kSumBlocks blocks.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    sum_tokens(LossParams<T> p, const Acc<T>* value, double* partial) {
  double sum = 0;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x; n < p.N;
       n += kSumBlocks * kSumThreads) {
    const int64_t target = p.target[n];
    if (target == p.ignore_index) continue;
    FASTCHAR_DEVICE_CHECK(target >= 0 && target < p.C);
    sum += value ? value[n] : p.class_weight ? widen(p.class_weight[target]) : 1;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// The mean's denominator's inverse: what each token's gradient is multiplied by. One block.
static __global__ void __launch_bounds__(kSumThreads)
    invert_sum(const double* partial, double* scale) {
  const double sum = block_sum(threadIdx.x < kSumBlocks ? partial[threadIdx.x] : 0);
  if (threadIdx.x == 0) *scale = 1 / sum;
}

// The reduced loss: sum of partial times *scale. One block.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    finish_loss(const double* partial, const double* scale, T* loss) {
  const double sum = block_sum(threadIdx.x < kSumBlocks ? partial[threadIdx.x] : 0);
  if (threadIdx.x == 0) *loss = narrow<T>(static_cast<Acc<T>>(sum * *scale));
}

}  // namespace fastchar::cuda
