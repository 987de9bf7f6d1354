// Vectors of one instruction set: the compiler's own vector types, so that + - * / and
// comparisons are plain operators, and the few operations that have none.
// Part of isa_body.h: inside the instruction set's namespace.
//
// Vec<float> and Vec<double> hold kVectorBytes; kLanes<T> elements. Everything here is always
// inlined. Functions without a remark work for both element types and any argument, and
// propagate NaN.

#define FASTCHAR_INLINE inline __attribute__((always_inline))

#if defined(FASTCHAR_ISA_AVX512)
constexpr int kVectorBytes = 64;
constexpr int kVectorRegisters = 32;
#elif defined(FASTCHAR_ISA_AVX2)
constexpr int kVectorBytes = 32;
constexpr int kVectorRegisters = 16;
#else
constexpr int kVectorBytes = 16;
#if defined(__aarch64__)
constexpr int kVectorRegisters = 32;
#else
constexpr int kVectorRegisters = 16;
#endif
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<BFloat16> : VectorOf<float> {};  // as which they are loaded
template <class T>
using Vec = typename VectorOf<T>::type;
using VecF = Vec<float>;
using VecD = Vec<double>;
using VecI = Vec<int32_t>;  // bits and comparison results of a VecF
using VecL = Vec<int64_t>;  // those of a VecD

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
template <class T>
constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));  // elements of a cache line

// --- counts ---

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// --- memory: p needs no alignment ---

template <class T>
FASTCHAR_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
FASTCHAR_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// The first n lanes, 0 <= n < kLanes; nothing past them is touched, the other lanes are 0.
#if defined(FASTCHAR_ISA_AVX512)
FASTCHAR_INLINE VecF load_first(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
FASTCHAR_INLINE VecD load_first(const double* p, int64_t n) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
}
FASTCHAR_INLINE void store_first(float* p, VecF v, int64_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
FASTCHAR_INLINE void store_first(double* p, VecD v, int64_t n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), v);
}
#elif defined(FASTCHAR_ISA_AVX2)
FASTCHAR_INLINE __m256i first_lanes(float, int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FASTCHAR_INLINE __m256i first_lanes(double, int64_t n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
FASTCHAR_INLINE VecF load_first(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, first_lanes(0.f, n));
}
FASTCHAR_INLINE VecD load_first(const double* p, int64_t n) {
  return _mm256_maskload_pd(p, first_lanes(0., n));
}
FASTCHAR_INLINE void store_first(float* p, VecF v, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(0.f, n), v);
}
FASTCHAR_INLINE void store_first(double* p, VecD v, int64_t n) {
  _mm256_maskstore_pd(p, first_lanes(0., n), v);
}
#else
template <class T>
FASTCHAR_INLINE Vec<T> load_first(const T* p, int64_t n) {
  Vec<T> v{};
  for (int64_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
template <class T>
FASTCHAR_INLINE void store_first(T* p, Vec<T> v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = v[i];
}
#endif

// The same for 1 <= n <= kLanes, cheap where n is full.
template <class T>
FASTCHAR_INLINE Vec<T> load_upto(const T* p, int64_t n) {
  return __builtin_expect(n >= kLanes<T>, 1) ? load(p) : load_first(p, n);
}
template <class T>
FASTCHAR_INLINE void store_upto(T* p, Vec<T> v, int64_t n) {
  if (__builtin_expect(n >= kLanes<T>, 1)) {
    store(p, v);
  } else {
    store_first(p, v, n);
  }
}

// Halves of floats, as floats. (A full mask here too, see at_most.)
FASTCHAR_INLINE VecF load(const BFloat16* p) {
#if defined(FASTCHAR_ISA_AVX512)
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const VecI bits = reinterpret_cast<VecI>(_mm512_maskz_cvtepu16_epi32(0xffff, halves));
#elif defined(FASTCHAR_ISA_AVX2)
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const VecI bits = reinterpret_cast<VecI>(_mm256_cvtepu16_epi32(halves));
#else
  VecI bits{};
  for (int i = 0; i < kLanes<float>; ++i) bits[i] = p[i].bits;
#endif
  return reinterpret_cast<VecF>(bits << 16);
}
FASTCHAR_INLINE VecF load_upto(const BFloat16* p, int64_t n) {
  if (__builtin_expect(n >= kLanes<float>, 1)) return load(p);
  BFloat16 there[kLanes<float>] = {};
  for (int64_t i = 0; i < n; ++i) there[i] = p[i];
  return load(there);
}

// Stores past the caches, for what is not read soon, where a vector is a whole cache line (half
// a line at a time would be slower than a plain store) and p is at a multiple of 64 bytes.
// Other threads see it after finish_streaming().
#if defined(FASTCHAR_ISA_AVX512)
constexpr bool kCanStream = true;
FASTCHAR_INLINE void stream(float* p, VecF v) { _mm512_stream_ps(p, v); }
FASTCHAR_INLINE void stream(double* p, VecD v) { _mm512_stream_pd(p, v); }
FASTCHAR_INLINE void finish_streaming() { _mm_sfence(); }
#else
constexpr bool kCanStream = false;
template <class T>
FASTCHAR_INLINE void stream(T* p, Vec<T> v) {
  store(p, v);
}
FASTCHAR_INLINE void finish_streaming() {}
#endif

// --- arithmetic ---

// All lanes x.
FASTCHAR_INLINE VecF broadcast(float x) {
#if defined(FASTCHAR_ISA_AVX512)
  return _mm512_set1_ps(x);
#elif defined(FASTCHAR_ISA_AVX2)
  return _mm256_set1_ps(x);
#else
  return VecF{x, x, x, x};
#endif
}
FASTCHAR_INLINE VecD broadcast(double x) {
#if defined(FASTCHAR_ISA_AVX512)
  return _mm512_set1_pd(x);
#elif defined(FASTCHAR_ISA_AVX2)
  return _mm256_set1_pd(x);
#else
  return VecD{x, x};
#endif
}

// a * b + c: rounded once where the machine has such an instruction.
#if defined(FASTCHAR_ISA_AVX512)
FASTCHAR_INLINE VecF fma(VecF a, VecF b, VecF c) { return _mm512_fmadd_ps(a, b, c); }
FASTCHAR_INLINE VecD fma(VecD a, VecD b, VecD c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(FASTCHAR_ISA_AVX2)
FASTCHAR_INLINE VecF fma(VecF a, VecF b, VecF c) { return _mm256_fmadd_ps(a, b, c); }
FASTCHAR_INLINE VecD fma(VecD a, VecD b, VecD c) { return _mm256_fmadd_pd(a, b, c); }
#elif defined(__FP_FAST_FMAF) && defined(__FP_FAST_FMA)
FASTCHAR_INLINE VecF fma(VecF a, VecF b, VecF c) {
  for (int i = 0; i < kLanes<float>; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
FASTCHAR_INLINE VecD fma(VecD a, VecD b, VecD c) {
  for (int i = 0; i < kLanes<double>; ++i) c[i] = __builtin_fma(a[i], b[i], c[i]);
  return c;
}
#else
FASTCHAR_INLINE VecF fma(VecF a, VecF b, VecF c) { return a * b + c; }
FASTCHAR_INLINE VecD fma(VecD a, VecD b, VecD c) { return a * b + c; }
#endif

// The bound where x is beyond it, else x: a NaN stays (the instructions return their second
// operand when one is NaN). The full mask keeps GCC 12 from warning about its own headers.
#if defined(FASTCHAR_ISA_AVX512)
FASTCHAR_INLINE VecF at_most(VecF bound, VecF x) {
  return _mm512_maskz_min_ps(0xffff, bound, x);
}
FASTCHAR_INLINE VecD at_most(VecD bound, VecD x) { return _mm512_maskz_min_pd(0xff, bound, x); }
FASTCHAR_INLINE VecF at_least(VecF bound, VecF x) {
  return _mm512_maskz_max_ps(0xffff, bound, x);
}
FASTCHAR_INLINE VecD at_least(VecD bound, VecD x) {
  return _mm512_maskz_max_pd(0xff, bound, x);
}
#elif defined(FASTCHAR_ISA_AVX2)
FASTCHAR_INLINE VecF at_most(VecF bound, VecF x) { return _mm256_min_ps(bound, x); }
FASTCHAR_INLINE VecD at_most(VecD bound, VecD x) { return _mm256_min_pd(bound, x); }
FASTCHAR_INLINE VecF at_least(VecF bound, VecF x) { return _mm256_max_ps(bound, x); }
FASTCHAR_INLINE VecD at_least(VecD bound, VecD x) { return _mm256_max_pd(bound, x); }
#else
template <class V>
FASTCHAR_INLINE V at_most(V bound, V x) {
  return x > bound ? bound : x;
}
template <class V>
FASTCHAR_INLINE V at_least(V bound, V x) {
  return x < bound ? bound : x;
}
#endif

// --- order of lanes ---

template <class T>
struct LaneIndex;
template <>
struct LaneIndex<float> {
  using type = VecI;
};
template <>
struct LaneIndex<double> {
  using type = VecL;
};

// Lanes of a and b side by side, in the order of `lanes`, which is known when compiling.
template <class V, class I>
FASTCHAR_INLINE V shuffle(V a, V b, I lanes) {
#if defined(__clang__)
  constexpr int W = sizeof(I) / sizeof(lanes[0]);
  V v{};
  for (int i = 0; i < W; ++i) v[i] = lanes[i] < W ? a[lanes[i]] : b[lanes[i] - W];
  return v;
#else
  return __builtin_shuffle(a, b, lanes);
#endif
}

// Exchanges the off-diagonal quarters of every 2S x 2S block, then those of their halves.
template <class T, int S>
FASTCHAR_INLINE void transpose_blocks(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int W = kLanes<T>;
  typename LaneIndex<T>::type left{}, right{};
#pragma GCC unroll 16
  for (int lane = 0; lane < W; ++lane) {
    left[lane] = lane & S ? W + lane - S : lane;
    right[lane] = lane & S ? W + lane : lane + S;
  }
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    if (i & S) continue;
    const Vec<T> a = rows[i], b = rows[i + S];
    rows[i] = shuffle(a, b, left);
    rows[i + S] = shuffle(a, b, right);
  }
  if constexpr (S > 1) transpose_blocks<T, S / 2>(rows);
}

// rows[i][j] <-> rows[j][i].
template <class T>
FASTCHAR_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  transpose_blocks<T, kLanes<T> / 2>(rows);
}

// Lane i of the result is the sum over the lanes of rows[i]; rows is overwritten. Half the work
// of a transposition, and the same tree of additions for every row.
template <class T, int S = kLanes<T> / 2>
FASTCHAR_INLINE Vec<T> sums_of_lanes(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int W = kLanes<T>;
  typename LaneIndex<T>::type left{}, right{};
#pragma GCC unroll 16
  for (int lane = 0; lane < W; ++lane) {
    left[lane] = lane & S ? W + lane - S : lane;
    right[lane] = lane & S ? W + lane : lane + S;
  }
#pragma GCC unroll 16
  for (int i = 0; i < S; ++i) {
    rows[i] = shuffle(rows[i], rows[i + S], left) + shuffle(rows[i], rows[i + S], right);
  }
  if constexpr (S > 1) {
    return sums_of_lanes<T, S / 2>(rows);
  } else {
    return rows[0];
  }
}

// Lane i of the result is lane i ^ S.
template <class T, int S>
FASTCHAR_INLINE Vec<T> swap_lanes(Vec<T> v) {
  typename LaneIndex<T>::type other{};
#pragma GCC unroll 16
  for (int lane = 0; lane < kLanes<T>; ++lane) other[lane] = lane ^ S;
  return shuffle(v, v, other);
}

// The sum of the lanes, as a tree; and the largest, which may be any lane's if one is NaN.
template <class T, int S = kLanes<T> / 2>
FASTCHAR_INLINE T sum_of_lanes(Vec<T> v) {
  v = v + swap_lanes<T, S>(v);
  if constexpr (S > 1) return sum_of_lanes<T, S / 2>(v);
  return v[0];
}
template <class T, int S = kLanes<T> / 2>
FASTCHAR_INLINE T largest_of_lanes(Vec<T> v) {
  v = at_least(swap_lanes<T, S>(v), v);
  if constexpr (S > 1) return largest_of_lanes<T, S / 2>(v);
  return v[0];
}

// Whether all lanes are 0 (not NaN).
template <class T>
FASTCHAR_INLINE bool is_zero(Vec<T> v) {
  bool zero = true;
  for (int i = 0; i < kLanes<T>; ++i) zero &= v[i] == 0;
  return zero;
}

// Whether neither Inf nor NaN is among n elements.
template <class T>
FASTCHAR_INLINE bool all_finite(const T* x, int64_t n) {
  Vec<T> zero{};  // NaN as soon as something is not finite
  for (int64_t i = 0; i < n; i += kLanes<T>)
    zero = fma(load_upto(x + i, n - i), Vec<T>{}, zero);
  return is_zero<T>(zero);
}

// --- denormals ---

// Flushes denormal inputs and results to zero in this thread while it lives: a decaying
// gradient must not run a hundred times slower. Nothing to do where the baseline has no such
// mode.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : saved_(__builtin_ia32_stmxcsr()) {
    __builtin_ia32_ldmxcsr(saved_ | 0x8040u);  // FTZ | DAZ
  }
  ~FlushDenormals() { __builtin_ia32_ldmxcsr(saved_); }

 private:
  const unsigned saved_;
#elif defined(__aarch64__)
  FlushDenormals() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t{1} << 24)));  // FZ
  }
  ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  uint64_t saved_;
#else
  FlushDenormals() {}
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};
