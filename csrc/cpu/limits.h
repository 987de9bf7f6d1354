// What bounds every kernel of an instruction set: multiply-adds in registers, and loads.
// Part of isa_body.h: inside the instruction set's namespace.

// Chains of multiply-adds side by side: enough to hide their latency, few enough for registers.
constexpr int kChains = kVectorRegisters == 32 ? 24 : 12;

// kChains * kLanes multiply-adds a round, on kChains + 2 different numbers at `seed`.
template <class T>
T multiply_adds(int64_t rounds, const T* seed) {
  Vec<T> sums[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sums[i] = broadcast(seed[i]);
  const Vec<T> a = broadcast(seed[kChains]), b = broadcast(seed[kChains + 1]);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) sums[i] = fma(a, sums[i], b);
  }
  Vec<T> sum{};
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sum += sums[i];
  return sum[0];
}

// Reads n elements, a multiple of 8 vectors.
template <class T>
T read_all(const T* p, int64_t n) {
  constexpr int L = kLanes<T>;
  Vec<T> sums[8] = {};
  for (int64_t i = 0; i < n; i += 8 * L) {
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) sums[v] += load(p + i + v * L);
  }
  return (((sums[0] + sums[1]) + (sums[2] + sums[3])) +
          ((sums[4] + sums[5]) + (sums[6] + sums[7])))[0];
}
