#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace fastchar::cpu {
namespace {

struct Candidate {
  const Kernels* kernels;
  bool runs_here;
};

// Worst first.
const std::vector<Candidate>& candidates() {
  static const std::vector<Candidate> list = [] {
    std::vector<Candidate> found{{&kPortable, true}};
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 =
        avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    found.push_back({&kAvx2, avx2});
    found.push_back({&kAvx512, avx512});
#endif
    return found;
  }();
  return list;
}

const Kernels* find(const std::string& name) {
  std::string names;
  for (const Candidate& c : candidates()) {
    if (!c.runs_here) continue;
    if (name == c.kernels->isa) return c.kernels;
    names += (names.empty() ? "" : ", ") + std::string(c.kernels->isa);
  }
  throw std::invalid_argument("FASTCHAR_CPU_ISA: expected one of " + names +
                              " on this machine, got '" + name + "'");
}

const Kernels* best() {
  const Kernels* chosen = nullptr;
  for (const Candidate& c : candidates()) {
    if (c.runs_here) chosen = c.kernels;
  }
  return chosen;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> chosen{[] {
    const char* forced = std::getenv("FASTCHAR_CPU_ISA");
    return forced && *forced ? find(forced) : best();
  }()};
  return chosen;
}

}  // namespace

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates()) names.emplace_back(c.kernels->isa);
  return names;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates()) {
    if (c.runs_here) names.emplace_back(c.kernels->isa);
  }
  return names;
}

void set_isa(const std::string& name) { current().store(find(name)); }

}  // namespace fastchar::cpu
