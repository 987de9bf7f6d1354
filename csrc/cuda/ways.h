// Which kernels may run a sequence of fp16 or bf16, in the order in which they are tried:
//
//   H <= 128                   block    one block per batch tile
//   H <= 512, sm_90 on         cluster  a thread-block cluster per batch tile
//   H <= 1024                  grid     a cooperative grid, as many batch tiles at once as fit
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

// architecture: what the kernels' code was compiled for, 90 for sm_90. That may be less than
// the device, which then runs PTX of an older one: code without its clusters or tensor cores.
inline bool way_serves(Way way, int H, int architecture) {
  switch (way) {
    case Way::kBlock:
      return H <= 128 && architecture >= 80;
    case Way::kCluster:
      return H <= 512 && architecture >= 90;
    case Way::kGrid:
      return H <= 1024 && architecture >= 80;
    default:
      return false;
  }
}

// What to try before steps.
struct Ways {
  Way way[2];
  int count = 0;
  int parts;  // of H: see resident.cuh's shapes
};

inline Ways ways_for(int H, int architecture, const char* choice) {
  Ways ways{};
  ways.parts = H <= 128 ? 1 : H <= 256 ? 2 : H <= 512 ? 4 : 8;
  const auto add = [&](Way way) {
    if (way_serves(way, H, architecture)) ways.way[ways.count++] = way;
  };
  bool forced;
  const Way way = parse_way(choice, &forced);
  if (forced) {
    add(way);
    if (way != Way::kBlock && ways.parts < 2) ways.parts = 2;  // a team of several blocks
  } else if (ways.parts == 1) {
    add(Way::kBlock);
  } else {
    add(Way::kCluster);
    add(Way::kGrid);
  }
  return ways;
}

}  // namespace fastchar::cuda
