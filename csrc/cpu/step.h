// One LSTM step of few rows with its products, forward and backward: the weights as they lie.
// Part of isa_body.h: inside the instruction set's namespace.
//
// Forward, each pre-activation is the dot product of a row of the weights and a row of [x h],
// in kLanes partial sums: the four gates of a unit times a few rows stay in registers. The
// partial sums of kLanes units then become vectors over units, on which the cell works.
//
// Backward, the weights' rows are read once, a few at a time.

// Weights are asked for this many bytes ahead of their turn: the processor does so by itself,
// but not from one page into the next, and four streams come to a page's end often.
constexpr int64_t kStepAhead = 512;

// Rows of [x h] that share a load of the weights.
constexpr int kStepRows = kVectorRegisters == 32 ? 5 : 2;

// sums[g][r] += w[g * gate + k ..] * a[r][k ..], n lanes of them.
template <class T, int R, class W>
FASTCHAR_INLINE void add_products(const W* w, int64_t gate, const T* const (&a)[R], int64_t k,
                                  int64_t n, Vec<T> (&sums)[4][R]) {
  Vec<T> weights[4];
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    weights[g] = load_upto(w + g * gate + k, n);
    __builtin_prefetch(w + g * gate + k + kStepAhead / sizeof(W));
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const Vec<T> x = load_upto(a[r] + k, n);
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) sums[g][r] = fma(weights[g], x, sums[g][r]);
  }
}

// The same over whole rows of K elements, added to partial[g][r][u]; a sum of its own first,
// which keeps the rounding error small. Rows of w are those of one unit's gates.
template <class T, int R, class W>
FASTCHAR_INLINE void add_dot_products(const W* w, int64_t gate, const T* const (&a)[R],
                                      int64_t K, int64_t u,
                                      Vec<T> (&partial)[4][R][kLanes<T>]) {
  constexpr int L = kLanes<T>;
  Vec<T> sums[4][R] = {};
  int64_t k = 0;
  for (; k + L <= K; k += L) add_products<T, R>(w, gate, a, k, L, sums);
  if (k < K) add_products<T, R>(w, gate, a, k, K - k, sums);
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) partial[g][r][u] += sums[g][r];
  }
}

// The cell of kLanes units from unit j on (fewer at the end) of row b, from the products: all
// but h'.
template <class T, class W>
FASTCHAR_INLINE CellGates<Vec<T>> step_gates(const LstmStepParams<T, W>& p, int64_t j,
                                             int64_t b, Vec<T> (&gates)[4]) {
  const int64_t H = p.H, n = H - j, at = b * H + j;
  for (int g = 0; g < 4; ++g) {
    if (p.b_ih) gates[g] += load_upto(p.b_ih + g * H + j, n);
    if (p.b_hh) gates[g] += load_upto(p.b_hh + g * H + j, n);
  }
  const auto s = cell_gates(gates[0], gates[1], gates[2], gates[3], load_upto(p.c + at, n));
  store_upto(p.c_new + at, s.c, n);
  store_gates<T>(p.act + b * 4 * H + j, H, s, n);
  return s;
}

// kLanes units from unit j on (fewer at the end) of rows [b, b + R).
template <class T, int R, class W>
void step_tile(const LstmStepParams<T, W>& p, int64_t j, int64_t b) {
  constexpr int L = kLanes<T>;
  const int64_t E = p.E, H = p.H, units = H - j < L ? H - j : L;
  const T *x[R], *h[R];
  for (int r = 0; r < R; ++r) {
    x[r] = p.x + (b + r) * E;
    h[r] = p.h + (b + r) * H;
  }
  Vec<T> partial[4][R][L] = {};
  for (int64_t u = 0; u < units; ++u) {
    add_dot_products<T, R>(p.w_ih + (j + u) * E, H * E, x, E, u, partial);
    add_dot_products<T, R>(p.w_hh + (j + u) * H, H * H, h, H, u, partial);
  }
  Vec<T> o[R], c[R];
  for (int r = 0; r < R; ++r) {
    Vec<T> gates[4];
    for (int g = 0; g < 4; ++g) gates[g] = sums_of_lanes<T>(partial[g][r]);
    const auto s = step_gates(p, j, b + r, gates);
    o[r] = s.o;
    c[r] = s.c;
  }
  for (int r = 0; r < R; ++r) {
    store_upto(p.h_new + (b + r) * H + j, cell_output(o[r], c[r]), H - j);
  }
}

// As many rows from b on as fit one tile.
template <class T, int R = kStepRows, class W>
void step_rows(const LstmStepParams<T, W>& p, int64_t j, int64_t b) {
  if constexpr (R > 1) {
    if (p.B - b < R) return step_rows<T, R - 1>(p, j, b);
  }
  step_tile<T, R>(p, j, b);
}

// Columns [begin, end) of out [R, K] = a [R, M] @ w [M, K], a few rows of w at a time. Each
// such group is summed on its own first, which keeps the rounding error small.
template <class T, int R>
void stream_columns(const T* a, const T* w, T* out, int64_t M, int64_t K, int64_t begin,
                    int64_t end) {
  constexpr int W = kLanes<T>;
  for (int r = 0; r < R; ++r) {
    __builtin_memset(out + r * K + begin, 0, sizeof(T) * (end - begin));
  }
  for (int64_t m = 0; m < M; m += 4) {  // M is 4H
    Vec<T> x[R][4];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) x[r][i] = broadcast(a[r * M + m + i]);
    }
    for (int64_t j = begin; j < end; j += W) {
      Vec<T> rows[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        rows[i] = load_upto(w + (m + i) * K + j, end - j);
        __builtin_prefetch(w + (m + i + 4) * K + j);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        Vec<T> sum = x[r][0] * rows[0];
#pragma GCC unroll 4
        for (int i = 1; i < 4; ++i) sum = fma(x[r][i], rows[i], sum);
        T* at = out + r * K + j;
        store_upto(at, load_upto(at, end - j) + sum, end - j);
      }
    }
  }
}
