// Measures the rates: limits.h on all threads at once, the best of a few tries.
#include "rates.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>

#include "../parallel.h"
#include "dispatch.h"

namespace fastchar::cpu {
namespace {

constexpr int kTries = 7;
constexpr int64_t kSeeds = 32;     // more than any set has chains
constexpr double kSeconds = 2e-3;  // of one try, at least

// The highest rate of `work(repeats)`, which does repeats * size somethings, by every member at
// once; `repeats` doubles until a try lasts long enough to be timed.
// `longer` is the team's, and false.
template <class Work>
double highest_rate(const Team& team, std::atomic<bool>& longer, double size,
                    const Work& work) {
  double best = 0;
  for (int64_t tries = 0, repeats = 1; tries < kTries;) {
    team.barrier->wait();
    const auto start = std::chrono::steady_clock::now();
    work(repeats);
    team.barrier->wait();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    // All members must agree on whether to repeat: rank 0's clock counts.
    if (team.rank == 0) longer.store(seconds.count() < kSeconds);
    team.barrier->wait();
    if (longer.load()) {
      repeats *= 2;
      continue;
    }
    ++tries;
    best = std::max(best, size * static_cast<double>(team.size * repeats) / seconds.count());
  }
  return best;
}

}  // namespace

double multiply_add_rate() {
  double rate = 0;
  std::atomic<bool> longer{false};
  const auto& table = kernels().f32;
  run_team(torch::stable::get_num_threads(), [&](const Team& team) {
    float seed[kSeeds];
    for (int i = 0; i < kSeeds; ++i) seed[i] = 1 - 1.f / static_cast<float>(i + 2);
    volatile float result = 0;
    const double found = highest_rate(
        team, longer, 2. * static_cast<double>(table.multiply_adds_a_round),
        [&](int64_t rounds) { result = result + table.multiply_adds(rounds, seed); });
    if (team.rank == 0) rate = found;
  });
  return rate;
}

double read_rate(int64_t bytes) {
  constexpr int64_t kUnit = 512;  // 8 of the widest vectors
  const int64_t n = std::max<int64_t>(bytes / kUnit, 1) * kUnit / sizeof(float);
  const int64_t threads = torch::stable::get_num_threads();
  // All at once, since a member that failed would leave the others at the barrier for ever.
  const std::unique_ptr<float[]> memory(new float[threads * n]);
  double rate = 0;
  std::atomic<bool> longer{false};
  const auto& table = kernels().f32;
  run_team(threads, [&](const Team& team) {
    float* own = memory.get() + team.rank * n;
    std::fill(own, own + n, 1.f);  // touched first by who reads it
    volatile float result = 0;
    const double found = highest_rate(team, longer, static_cast<double>(n * sizeof(float)),
                                      [&](int64_t repeats) {
                                        for (int64_t i = 0; i < repeats; ++i) {
                                          result = result + table.read_all(own, n);
                                        }
                                      });
    if (team.rank == 0) rate = found;
  });
  return rate;
}

}  // namespace fastchar::cpu
