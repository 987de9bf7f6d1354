// Which kernels are tried, by size, architecture of the code that runs, and what is forced; how
// a batch lies on the teams; which of several ways is taken.
#include "check.h"
#include "ways.h"

using namespace fastchar::cuda;

namespace {

// The ways as "cluster grid 512": names, then the kernels' H.
std::string tried(int H, int architecture, const char* choice = nullptr, bool fp32 = false) {
  const char* names[] = {"block ", "cluster ", "grid ", "steps "};
  const Ways ways = ways_for(H, fp32, architecture, choice);
  std::string all;
  for (int i = 0; i < ways.count; ++i) all += names[static_cast<int>(ways.way[i])];
  return all.empty() ? "steps" : all + std::to_string(ways.hidden);
}

// A batch on teams of at most `most`, as "batch x teams, rounds".
std::string tiled(int64_t B, int most, int64_t room) {
  const Tiling t = tile_batch(B, most, room);
  return std::to_string(t.batch) + " x " + std::to_string(t.teams) + ", " +
         std::to_string(t.rounds);
}

// What a device with room for so many teams of the tried ways takes, and the sequences of a
// team.
std::string taken(int H, int B, bool backward, int most, std::initializer_list<int> rooms,
                  const char* choice = nullptr) {
  const Ways ways = ways_for(H, false, 90, choice);
  const char* names[] = {"block", "cluster", "grid"};
  double costs[2];
  Tiling tilings[2];
  for (int i = 0; i < ways.count; ++i) {
    const int room = *(rooms.begin() + i);
    costs[i] = kNever;
    if (room == 0) continue;
    tilings[i] = tile_batch(B, most, room);
    costs[i] =
        tilings[i].rounds * round_cost(ways.way[i], H, false, backward, tilings[i].batch);
  }
  const int best = cheapest(ways, costs, ways.forced ? kNever : steps_cost(B, H));
  if (best < 0) return "steps";
  return names[static_cast<int>(ways.way[best])] + (" " + std::to_string(tilings[best].batch));
}

void expect(const std::string& got, const std::string& expected) {
  if (got != expected) report("expected " + expected + ", got " + got);
}

}  // namespace

int main(int argc, char** argv) {
  return run_seeds(argc, argv, [] {
    expect(tried(128, 90), "block 128");
    expect(tried(129, 90), "cluster grid 256");
    expect(tried(512, 100), "cluster grid 512");
    expect(tried(513, 90), "grid 1024");
    expect(tried(1025, 90), "steps");
    // Code for sm_80 has no clusters, whatever device runs it; for sm_75, no bf16 products.
    expect(tried(256, 80), "grid 256");
    expect(tried(256, 89, "cluster"), "steps");
    expect(tried(40, 75), "steps");
    expect(tried(40, 75, "block"), "steps");
    expect(tried(40, 0), "steps");
    expect(tried(40, 90, "grid"), "grid 256");
    expect(tried(40, 90, ""), "block 128");
    expect(tried(200, 90, "block"), "steps");
    expect(tried(200, 90, "steps"), "steps");
    expect(tried(64, 90, nullptr, true), "block 64");
    expect(tried(65, 90, nullptr, true), "cluster grid 128");
    expect(tried(256, 80, nullptr, true), "grid 256");
    expect(tried(257, 90, nullptr, true), "grid 512");
    expect(tried(513, 90, nullptr, true), "steps");
    expect(tried(40, 90, "cluster", true), "cluster 128");
    expect(tiled(1, 16, 8), "8 x 1, 1");
    expect(tiled(64, 16, 8), "8 x 8, 1");
    expect(tiled(65, 16, 8), "16 x 5, 1");
    expect(tiled(128, 16, 8), "16 x 8, 1");
    expect(tiled(129, 16, 8), "16 x 9, 2");
    expect(tiled(32, 32, 2), "16 x 2, 1");
    expect(tiled(100000, 8, 132), "8 x 12500, 95");
    // 132 SMs: 8 clusters or 8 rows of 16 blocks (H = 512), 2 rows of 64 (H = 1024).
    expect(taken(512, 32, false, 16, {8, 8}), "cluster 8");
    expect(taken(512, 128, false, 16, {8, 8}), "cluster 16");
    expect(taken(512, 512, false, 16, {8, 8}), "cluster 16");
    expect(taken(512, 512, true, 16, {8, 8}), "steps");
    // A GPU of which a part has fewer SMs than the others may have room for 7 clusters only.
    expect(taken(512, 128, false, 16, {7, 8}), "grid 16");
    // One cluster less than rows of a grid, as on an H100, and a batch may be a grid's.
    expect(taken(256, 256, true, 8, {32, 33}), "cluster 8");
    expect(taken(256, 257, true, 8, {32, 33}), "grid 8");
    // What fastchar/streams.py counts on: two directions that run at once are no grids.
    for (int room = 4; room <= 8; ++room) {
      expect(taken(512, 32, true, 16, {room, 8}), "cluster 8");
      expect(taken(257, 32, false, 16, {room, 14}), "cluster 8");
    }
    for (int room = 16; room <= 33; ++room) {
      expect(taken(256, 128, true, 8, {room, 33}), "cluster 8");
      expect(taken(129, 128, false, 16, {room, 44}), "cluster 8");
    }
    expect(taken(256, 56, true, 8, {7, 15}), "cluster 8");
    expect(taken(512, 64, false, 16, {0, 8}), "grid 8");
    expect(taken(512, 64, false, 16, {0, 0}), "steps");
    expect(taken(1024, 32, false, 32, {2}), "grid 16");
    expect(taken(1024, 512, false, 32, {2}), "steps");
    expect(taken(1024, 512, false, 32, {2}, "grid"), "grid 32");
    expect(taken(1024, 512, false, 32, {0}, "grid"), "steps");
    expect(taken(8, 600000, false, 8, {132}), "steps");
    expect(taken(128, 4096, false, 8, {132}), "block 8");
    try {
      tried(200, 90, "fast");
      report("an unknown way is not refused");
    } catch (const std::runtime_error&) {
    }
  });
}
