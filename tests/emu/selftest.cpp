// The emulator at work on small kernels, each right as it stands and wrong with a bug planted
// (all in one compilation), which the environment's PLANT names:
//   barrier   a __syncthreads removed
//   index     an index off by one (AddressSanitizer)
//   flag      flags that are not reset between two calls
//   exit      a block of a cluster that ends before its peer has written to it
//   lane      half a warp in one shuffle, half in another
//   half      a cluster's barrier that is arrived at and not waited for
// Exits with 0 if every result is right.
#include <cstdlib>
#include <string>

#include "check.h"
#include "compat.cuh"

using namespace fastchar::cuda;

const std::string plant = std::getenv("PLANT") ? std::getenv("PLANT") : "";

// out[block] = sum of the block's part of x: shuffles, then shared memory.
__global__ void block_sum(const int* x, int* out, int n) {
  FASTCHAR_SHARED(sums, Array<int, 32>);
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int sum = i < n + (plant == "index") ? x[i] : 0;
  for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (lane == 0) sums[warp] = sum;
  if (plant != "barrier") __syncthreads();
  if (warp > 0) return;
  sum = lane < static_cast<int>(blockDim.x) / kWarp ? sums[lane] : 0;
  if (plant == "lane" && lane < 16) __ballot_sync(kAllLanes, true);
  for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (lane == 0) out[blockIdx.x] = sum;
}

// A cooperative grid: every block adds up what all blocks wrote, `steps` times over. flags
// [blocks] are zero before the call.
__global__ void grid_steps(int* value, int* flags, int steps) {
  const int blocks = gridDim.x, self = blockIdx.x;
  for (int step = 1; step <= steps; ++step) {
    const int* from = value + (step - 1) % 2 * blocks;
    if (step > 1) {
      for (int b = threadIdx.x; b < blocks; b += blockDim.x) {
        while (load_acquire(flags + b) < step - 1) {
        }
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      int sum = 0;
      for (int b = 0; b < blocks; ++b) sum += from[b];
      value[step % 2 * blocks + self] = sum % 1000 + self;
      store_release(flags + self, step);
    }
    __syncthreads();
  }
}

// A cluster: each block writes its rank to its right neighbour's shared memory.
__global__ void cluster_ring(int* out, int size) {
  FASTCHAR_DYNAMIC_SHARED(memory);
  int* slot = reinterpret_cast<int*>(memory);
  const int rank = blockIdx.x % size;
  if (plant == "exit" && rank == 1) return;
  if (threadIdx.x == 0)
    *emu::peer_shared(slot, (rank + 1) % size) = static_cast<int>(blockIdx.x);
  cluster_arrive();
  if (plant != "half") cluster_wait();
  if (threadIdx.x == 0) out[blockIdx.x] = *slot;
}

// Stable ranks of equal ids within a warp, and sums of integers by atomics.
__global__ void match(const int* ids, int* rank, int* count) {
  const unsigned same = __match_any_sync(kAllLanes, ids[threadIdx.x]);
  rank[threadIdx.x] = __popc(same & ((1u << threadIdx.x) - 1));
  atomicAdd(count + ids[threadIdx.x], 1);
}

void test_block_sum() {
  const int n = 700, blocks = 3;
  std::vector<int> x(n), out(blocks);
  for (int i = 0; i < n; ++i) x[i] = i;
  emu::launch({blocks, 256}, block_sum, x.data(), out.data(), n);
  expect_equal("block_sum", out, {256 * 255 / 2, 256 * 767 / 2, 188 * 1211 / 2});
}

void test_grid_steps() {
  const int blocks = 5, steps = 6;
  std::vector<int> flags(blocks);
  for (int call = 0; call < 2; ++call) {
    std::vector<int> value(2 * blocks), expected(blocks);
    for (int b = 0; b < blocks; ++b) value[b] = expected[b] = b * (call + 1);
    for (int step = 0; step < steps; ++step) {
      int sum = 0;
      for (int v : expected) sum += v;
      for (int b = 0; b < blocks; ++b) expected[b] = sum % 1000 + b;
    }
    if (plant != "flag") flags.assign(blocks, 0);
    emu::launch({blocks, 32}, grid_steps, value.data(), flags.data(), steps);
    value.resize(blocks);  // an even number of steps: the first half
    expect_equal("grid_steps", value, expected);
  }
}

void test_cluster_ring() {
  std::vector<int> out(8);
  emu::Launch config{8, 32};
  config.shared_bytes = sizeof(int);
  config.cluster = 4;
  config.resident = 4;
  emu::launch(config, cluster_ring, out.data(), 4);
  expect_equal("cluster_ring", out, {3, 0, 1, 2, 7, 4, 5, 6});
}

void test_match() {
  std::vector<int> ids(32), rank(32), count(3), expected(32);
  for (int i = 0; i < 32; ++i) {
    ids[i] = i % 3;
    expected[i] = i / 3;
  }
  emu::launch({1, 32}, match, ids.data(), rank.data(), count.data());
  expect_equal("match", rank, expected);
  expect_equal("atomicAdd", count, {11, 11, 10});
}

int main(int argc, char** argv) {
  return run_seeds(argc, argv, [] {
    test_block_sum();
    test_grid_steps();
    test_cluster_ring();
    test_match();
  });
}
