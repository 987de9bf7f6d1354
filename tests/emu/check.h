// What the emulator's test programs share: seeds, random input, comparison.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "compat.cuh"

inline int& failures() {
  static int count = 0;
  return count;
}

inline void report(const std::string& what) {
  if (++failures() <= 10) std::fprintf(stderr, "wrong: %s\n", what.c_str());
}

inline void expect_equal(const char* name, const std::vector<int>& got,
                         const std::vector<int>& expected) {
  if (got.size() != expected.size()) report(std::string(name) + ": size");
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] != expected[i]) {
      report(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(got[i]) +
             ", expected " + std::to_string(expected[i]));
    }
  }
}

inline std::mt19937& random_bits() {
  static std::mt19937 bits(0);
  return bits;
}

inline int random_below(int n) { return static_cast<int>(random_bits()() % n); }

// Uniform in [-scale, scale], rounded to T.
template <class T>
std::vector<T> random_values(size_t n, double scale = 1) {
  std::vector<T> values(n);
  for (T& x : values) {
    const double u = random_bits()() / 4294967295. * 2 - 1;
    x = fastchar::cuda::narrow<T>(static_cast<fastchar::cuda::Acc<T>>(u * scale));
  }
  return values;
}

template <class T>
std::vector<double> widened(const std::vector<T>& values) {
  std::vector<double> wide;
  for (const T& x : values) wide.push_back(fastchar::cuda::widen(x));
  return wide;
}

// Half the distance between 1 and the next T.
template <class T>
inline constexpr double kRounding = sizeof(T) == 8 ? 0x1p-53 : 0x1p-24;
template <>
inline constexpr double kRounding<fastchar::cuda::half> = 0x1p-11;
template <>
inline constexpr double kRounding<fastchar::cuda::bfloat16> = 0x1p-8;

// Within `roundings` roundings of T, at the size of the largest expected value (but at least
// 1).
template <class T>
void expect_close(const std::string& name, const std::vector<T>& got,
                  const std::vector<double>& expected, double roundings) {
  if (got.size() != expected.size()) {
    report(name + ": size");
    return;
  }
  double size = 1;
  for (double x : expected) size = std::fmax(size, std::fabs(x));
  for (size_t i = 0; i < got.size(); ++i) {
    const double x = fastchar::cuda::widen(got[i]);
    if (!(std::fabs(x - expected[i]) <= roundings * kRounding<T> * size)) {
      report(name + "[" + std::to_string(i) + "] is " + std::to_string(x) + ", expected " +
             std::to_string(expected[i]));
    }
  }
}

// Runs `tests` under every seed of the command line; the program's exit code.
inline int run_seeds(int argc, char** argv, const std::function<void()>& tests) {
  for (int i = 1; i < argc; ++i) {
    emu::Machine::get().seed(std::strtoull(argv[i], nullptr, 10));
    tests();
  }
  return failures() ? 1 : 0;
}
