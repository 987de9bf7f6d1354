// Which kernels may run a sequence, in the order in which they are tried:
//
//   fp16, bf16   fp32 as TF32
//   H <= 128     H <= 64                 block    one block per batch tile
//   H <= 512     H <= 256     sm_90 on   cluster  a thread-block cluster per batch tile
//   H <= 1024    H <= 512                grid     a cooperative grid, as many batch tiles at
//                                                 once as fit
//   else, or where the device lacks the shared memory or the room: steps, a product per step
//
// Of those that may, the cheapest by the model below: a batch that a resident kernel would have
// to serve in many rounds goes by steps too.
//
// FASTCHAR_CUDA_LSTM = block | cluster | grid | steps forces one, for tests; an error if it
// can't be. No torch and no CUDA here: tests/emu asks it on a CPU.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace fastchar::cuda {

enum class Way { kBlock, kCluster, kGrid, kSteps };

// The forced way; kSteps too where none is, with *forced false.
inline Way parse_way(const char* name, bool* forced) {
  *forced = name && *name;
  if (!*forced) return Way::kSteps;
  const char* names[] = {"block", "cluster", "grid", "steps"};
  for (int i = 0; i < 4; ++i) {
    if (!std::strcmp(name, names[i])) return static_cast<Way>(i);
  }
  throw std::runtime_error(
      std::string("FASTCHAR_CUDA_LSTM: expected block, cluster, grid or steps, got ") + name);
}

// The largest H of a way, for 16-bit types; half of it for fp32, whose weights take twice the
// registers. A cluster has at most 16 blocks.
inline int largest_hidden(Way way, bool fp32) {
  const int largest = way == Way::kBlock ? 128 : way == Way::kCluster ? 512 : 1024;
  return way == Way::kSteps ? 0 : fp32 ? largest / 2 : largest;
}

// What to try before steps.
struct Ways {
  Way way[2];
  int count = 0;
  int hidden;  // H, rounded up to a size that there are kernels for: see resident.cuh's shapes
  bool forced = false;
};

// architecture: what the kernels' code was compiled for, 90 for sm_90. That may be less than
// the device, which then runs PTX of an older one: code without its clusters or tensor cores.
inline Ways ways_for(int H, bool fp32, int architecture, const char* choice) {
  const int smallest = largest_hidden(Way::kBlock, fp32);
  Ways ways{};
  ways.hidden = smallest;
  while (ways.hidden < H && ways.hidden < largest_hidden(Way::kGrid, fp32)) ways.hidden *= 2;
  const auto add = [&](Way way) {
    if (H <= largest_hidden(way, fp32) && architecture >= (way == Way::kCluster ? 90 : 80)) {
      ways.way[ways.count++] = way;
    }
  };
  const Way way = parse_way(choice, &ways.forced);
  if (ways.forced) {
    add(way);
    if (way != Way::kBlock && H <= smallest) ways.hidden = 2 * smallest;  // as for a team
  } else if (H <= smallest) {
    add(Way::kBlock);
  } else {
    add(Way::kCluster);
    add(Way::kGrid);
  }
  return ways;
}

// How a batch lies on the teams: `batch` sequences each, and as many rounds of teams as the
// device has room for at once.
struct Tiling {
  int batch;
  int64_t teams, rounds;
};

// Over as many teams as fit at once, by eights, which is what one mma takes: a step of 8
// sequences is shorter than one of 16. At most `most` a team.
inline Tiling tile_batch(int64_t B, int most, int64_t room) {
  int64_t batch = ((B + room - 1) / room + 7) / 8 * 8;
  if (batch > most) batch = most;
  const int64_t teams = (B + batch - 1) / batch;
  return {static_cast<int>(batch), teams, (teams + room - 1) / room};
}

constexpr double kNever = 1e30;

// The model: microseconds of a step on an H100 or H200 (132 SMs, some 1.75 GHz), from published
// rates of the hardware. Nothing here is measured; it is to tell 3 from 10, not 3 from 4.
// 0.4 is the sums of the product's parts, the gates, and barriers within a block. 0.026 is a
// sequence's 64 K multiplications of 16 bits (or 32 K of TF32) by an SM's mma.sync. To them a
// team of several blocks adds its latency (cluster: stores to the others and their barrier;
// grid: a store to L2, a fence, a flag, a load) and its tile, which every block reads (h of all
// units, or on the way back their 4 gate gradients): 25 KB a us from the cluster's others, 42
// from L2.
inline double round_cost(Way way, int H, bool fp32, bool backward, int batch) {
  double cost = 0.4 + 0.026 * batch;
  if (way == Way::kBlock) return cost;
  const double tile = 1e-3 * H * (backward ? 4 : 1) * (fp32 ? 4 : 2) * batch;
  return cost + (way == Way::kCluster ? 0.5 + tile / 25 : 1.5 + tile / 42);
}

// Two launches, a GEMM that fills few SMs for long, and gates that come and go through memory.
inline double steps_cost(int64_t B, int H) {
  return 8 + 1e-6 * static_cast<double>(B) * H * 7.7;
}

// The index of the way to take, by the costs of a step; -1: steps. A later way has to be a
// fifth cheaper than an earlier one: it is later for a reason.
inline int cheapest(const Ways& ways, const double* costs, double of_steps) {
  int best = -1;
  for (int i = 0; i < ways.count; ++i) {
    if (costs[i] >= of_steps) continue;
    if (best < 0 || costs[i] < 0.8 * costs[best]) best = i;
  }
  return best;
}

}  // namespace fastchar::cuda
