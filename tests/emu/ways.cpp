// Which kernels are tried, by size, architecture of the code that runs, and what is forced.
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
    try {
      tried(200, 90, "fast");
      report("an unknown way is not refused");
    } catch (const std::runtime_error&) {
    }
  });
}
