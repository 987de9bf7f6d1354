// exp, and the gates' sigmoid and tanh on it, of simd.h's vectors. Part of isa_body.h, after
// simd.h, and as there: always inlined, for both element types, NaN stays NaN.

// Constants of exp for one element type. `magic` is 1.5 * 2^(mantissa bits): adding it rounds
// to an integer, which then stands in the low bits of the sum. ln2 is split so that n * ln2_hi
// is exact. Beyond `upper` 2^n would be Inf (and Inf + Inf m is NaN where m < 0), below `lower`
// denormal.
template <class V>
struct ExpConstants;
template <>
struct ExpConstants<VecF> {
  using Bits = VecI;
  static constexpr int mantissa_bits = 23, bias = 127;
  static constexpr float log2e = 1.44269504088896341f, magic = 12582912.f;
  static constexpr float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
  static constexpr float lower = -87.3f, upper = 88.376f;
  static constexpr float tanh_one = 20.f;  // tanh(x) rounds to 1 for 2x from here on
};
template <>
struct ExpConstants<VecD> {
  using Bits = VecL;
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr double log2e = 1.44269504088896340736, magic = 6755399441055744.;
  static constexpr double ln2_hi = 0.693147180369123816490, ln2_lo = 1.90821492927058770002e-10;
  static constexpr double lower = -708.3, upper = 709.43;
  static constexpr double tanh_one = 40.;
};

// exp(r) - 1 for |r| <= ln(2) / 2. Float: Cephes' minimax coefficients; double: Taylor's, whose
// remainder there is 4e-18.
FASTCHAR_INLINE VecF expm1_reduced(VecF r) {
  VecF q = broadcast(1.9875691500e-4f);
  q = fma(q, r, broadcast(1.3981999507e-3f));
  q = fma(q, r, broadcast(8.3334519073e-3f));
  q = fma(q, r, broadcast(4.1665795894e-2f));
  q = fma(q, r, broadcast(1.6666665459e-1f));
  q = fma(q, r, broadcast(5.0000001201e-1f));
  return fma(q, r * r, r);
}
FASTCHAR_INLINE VecD expm1_reduced(VecD r) {
  constexpr double factorials[] = {6227020800., 479001600., 39916800., 3628800.,
                                   362880.,     40320.,     5040.,     720.,
                                   120.,        24.,        6.,        2.};
  VecD q = broadcast(1. / factorials[0]);
#pragma GCC unroll 11
  for (int i = 1; i < 12; ++i) q = fma(q, r, broadcast(1. / factorials[i]));
  return fma(q, r * r, r);
}

// exp(x) = scale * (1 + m), with scale a power of two; x in [lower, upper] or NaN.
template <class V>
struct ScaledExpm1 {
  V scale, m;
};
template <class V>
FASTCHAR_INLINE ScaledExpm1<V> scaled_expm1(V x) {
  using C = ExpConstants<V>;
  const V shifted = fma(x, broadcast(C::log2e), broadcast(C::magic));
  const V n = shifted - broadcast(C::magic);
  const V r = fma(n, broadcast(-C::ln2_lo), fma(n, broadcast(-C::ln2_hi), x));
  const auto bits = (reinterpret_cast<typename C::Bits>(shifted) + C::bias) << C::mantissa_bits;
  return {reinterpret_cast<V>(bits), expm1_reduced(r)};
}

// Max error 1.1 ULP in the normal range (measured: 1.01 float, 0.99 double); below it the
// smallest normal number, above it the largest 2^n, times sqrt(2).
template <class V>
FASTCHAR_INLINE V exp(V x) {
  using C = ExpConstants<V>;
  const auto e = scaled_expm1(at_most(broadcast(C::upper), at_least(broadcast(C::lower), x)));
  return fma(e.scale, e.m, e.scale);
}

// 1 / (1 + exp(-x)). Max error 3 ULP (measured: 2.47 float, 2.36 double, as torch's); 0 where
// the result would be denormal.
template <class V>
FASTCHAR_INLINE V sigmoid(V x) {
  const V one = broadcast(decltype(x[0] + 0)(1));
  return one / (one + exp(-x));
}

// (e - 1) / (e + 1) with e = exp(2 |x|), e - 1 without cancellation. Max error 3 ULP
// (measured: 2.42 float, 2.52 double).
template <class V>
FASTCHAR_INLINE V tanh(V x) {
  using C = ExpConstants<V>;
  using Bits = typename C::Bits;
  const V zero{};
  const Bits sign = reinterpret_cast<Bits>(x) & reinterpret_cast<Bits>(-zero);
  const V magnitude = reinterpret_cast<V>(reinterpret_cast<Bits>(x) ^ sign);
  const auto e = scaled_expm1(at_most(broadcast(C::tanh_one), magnitude + magnitude));
  const V one = broadcast(decltype(C::magic + 0)(1));
  const V em1 = fma(e.scale, e.m, e.scale - one);
  const V result = em1 / (em1 + (one + one));
  return reinterpret_cast<V>(reinterpret_cast<Bits>(result) ^ sign);
}
