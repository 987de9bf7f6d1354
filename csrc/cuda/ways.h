// Which kernels may run a sequence, in the order in which they are tried:
//
//   fp16, bf16   fp32 as TF32
//   H <= 128     H <= 64                 block    one block per batch tile
//   H <= 512     H <= 256     sm_90 on   cluster  a thread-block cluster per batch tile
//   H <= 1024    H <= 512                grid     a cooperative grid, as many batch tiles at
//                                                 once as fit
//   else, or where the device lacks the shared memory or the room: steps, a product per step
//
// FASTCHAR_CUDA_LSTM = block | cluster | grid | steps forces one, for tests; an error if it
// can't be. No torch and no CUDA here: tests/emu asks it on a CPU.
#pragma once

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
  bool forced;
  const Way way = parse_way(choice, &forced);
  if (forced) {
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

}  // namespace fastchar::cuda
