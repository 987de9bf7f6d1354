// The LSTM over a whole sequence, forward.
// Part of isa_body.h: inside the instruction set's namespace.
//
// Few rows and steps take w_hh as it lies (step.h): packing it would cost more than it saves.
// Else it is packed once a call into panels of W = kLanes hidden units x 4 gates,
// [panel][4 / kPanelVectors][k][kPanelVectors][W], so that a product ends with the four gates
// of its units together, and activation, cell update and output follow while they are in L1.
// Units past H are zeros. With x it is [w_ih w_hh] that is packed, and each step's product is
// that of [x h], block after block, as if the two lay side by side.

// Saved state of this many bytes or more will be gone from the caches when backward reads it.
constexpr int64_t kStreamStateBytes = 1 << 22;

template <class T>
bool streams_state(const LstmSequenceParams<T>& p) {
  const auto address = reinterpret_cast<uintptr_t>(p.act) | reinterpret_cast<uintptr_t>(p.cell);
  return kCanStream && p.act && p.H % kLanes<T> == 0 && address % 64 == 0 &&
         p.steps * p.B * p.H * 5 * static_cast<int64_t>(sizeof(T)) >= kStreamStateBytes;
}

// c[r] (+)= a[r] @ a span of a panel of K rows that pack_gates packed.
template <class T>
void multiply_gates(const T* panel, int64_t K, const Span& span, int64_t rows,
                    const T* const* a, T* const* c, bool add, const Lines& soon) {
  constexpr int64_t width = kPanel<T>;
  for (int part = 0; part < kSumVectors / kPanelVectors; ++part) {
    T* columns[kBlockRows];
    for (int64_t r = 0; r < rows; ++r) columns[r] = c[r] + part * width;
    multiply_tile(rows, span.depth, a, 1, panel + (part * K + span.k) * width, columns, width,
                  add, part == 0 ? soon : Lines{nullptr, 0, soon.begin, soon.rows});
  }
}

template <class T>
struct ForwardStep {
  const LstmSequenceParams<T>& p;
  const Share& share;
  bool stream_state;
  int64_t t;
  const JointBlocks sum;  // over E, where there is x, and H; of a start from zeros over E alone

  int64_t length(int64_t b) const { return p.lengths ? p.lengths[b] : p.steps; }
  bool is_first(int64_t b) const { return p.reverse ? t + 1 == length(b) : t == 0; }
  bool is_last(int64_t b) const { return p.reverse ? t == 0 : t + 1 == length(b); }

  const T* h_before(int64_t b) const {
    if (is_first(b)) return p.h0 + b * p.H;
    return p.y + ((p.reverse ? t + 1 : t - 1) * p.B + b) * p.H;
  }

  // What is added to the product: pre-activations of a token, or the bias.
  const T* gates(int64_t token) const {
    if (p.x) return p.gates;
    return p.gates + (p.ids ? p.ids[token] : token) * 4 * p.H;
  }

  int64_t blocks() const { return sum.count(); }
  Span span(int64_t block) const { return sum.span(block); }
  const T* row(int64_t i, const Span& span) const {
    const int64_t b = share.sequence(i);
    return span.k < p.E ? p.x + (t * p.B + b) * p.E + span.k : h_before(b) + (span.k - p.E);
  }

  void multiply(int64_t panel, const Span& span, int64_t rows, const T* const* a, T** c,
                bool add, const Lines& soon) const {
    const int64_t K = p.E + p.H;
    multiply_gates(p.packed + panel * K * kSumVectors * kLanes<T>, K, span, rows, a, c, add,
                   soon);
  }

  // Half a line at a time (AVX2) asking costs forward more than it saves.
  static constexpr bool kAsks = kVectorBytes == 64;
  static constexpr int kLines = 10;
  int64_t lines(int64_t panel, int64_t i, const void** out) const {
    const int64_t b = share.sequence(i), j = panel * kLanes<T>;
    const int64_t H = p.H, token = t * p.B + b;
    int64_t n = 0;
    for (int g = 0; g < 4 && !p.x; ++g) out[n++] = gates(token) + g * H + j;
    out[n++] = p.y + token * H + j;
    if (!p.act || stream_state) return n;
    for (int g = 0; g < 4; ++g) out[n++] = p.act + (token * 4 + g) * H + j;
    out[n++] = p.cell + token * H + j;
    return n;
  }

  // The units of one panel of rows [i, i + rows), from the products. In two passes: from c' to
  // h' is a chain of operations, and those of all rows take less time side by side.
  void finish(int64_t panel, int64_t i, int64_t rows, const T* const* sums) const {
    const int64_t j = panel * kLanes<T>, H = p.H, n = H - j;
    Vec<T> o[kBlockRows], c[kBlockRows];
    for (int64_t r = 0; r < rows; ++r) {
      const auto s = finish_gates(j, share.sequence(i + r), sums[r]);
      o[r] = s.o;
      c[r] = s.c;
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t b = share.sequence(i + r);
      const Vec<T> h = cell_output(o[r], c[r]);
      store_upto(p.y + (t * p.B + b) * H + j, h, n);
      if (is_last(b)) store_upto(p.h_n + b * H + j, h, n);
    }
  }

  // Units [j, j + W) of sequence b: all but h'.
  FASTCHAR_INLINE CellGates<Vec<T>> finish_gates(int64_t j, int64_t b, const T* sums) const {
    constexpr int W = kLanes<T>;
    const int64_t H = p.H, n = H - j, token = t * p.B + b;
    const T* gates = this->gates(token) + j;
    const T* c = (is_first(b) ? p.c0 : p.c_n) + b * H + j;
    const auto s =
        cell_gates(load(sums) + load_upto(gates, n), load(sums + W) + load_upto(gates + H, n),
                   load(sums + 2 * W) + load_upto(gates + 2 * H, n),
                   load(sums + 3 * W) + load_upto(gates + 3 * H, n), load_upto(c, n));
    store_upto(p.c_n + b * H + j, s.c, n);
    if (!p.act) return s;
    T *act = p.act + token * 4 * H + j, *cell = p.cell + token * H + j;
    if (stream_state) {
      stream(act, s.i);
      stream(act + H, s.f);
      stream(act + 2 * H, s.g);
      stream(act + 3 * H, s.o);
      stream(cell, s.c);
    } else {
      store_gates<T>(act, H, s, n);
      store_upto(cell, s.c, n);
    }
    return s;
  }
};

// The weights w [4H, columns] of one panel of units as rows [k0, k0 + columns) of its packed
// form of K rows: W x W blocks are transposed in registers, since a line of a panel takes one
// element of each of W rows. Returns whether all of them are finite.
template <class T>
bool pack_gates(const T* w, int64_t columns, T* packed, int64_t K, int64_t k0, int64_t H,
                int64_t panel) {
  constexpr int W = kLanes<T>;
  Vec<T> zero{};  // NaN as soon as something is not finite
  const int64_t units = smaller(W, H - panel * W);
  for (int g = 0; g < 4; ++g) {
    const T* rows = w + (g * H + panel * W) * columns;
    T* out = packed + (g / kPanelVectors * K + k0) * kPanel<T> + g % kPanelVectors * W;
    for (int64_t k = 0; k < columns; k += W) {
      Vec<T> block[W];
      for (int u = 0; u < W; ++u) {
        block[u] = u < units ? load_upto(rows + u * columns + k, columns - k) : Vec<T>{};
        zero = fma(block[u], Vec<T>{}, zero);
      }
      transpose<T>(block);
      const int64_t deep = smaller(W, columns - k);
      for (int64_t i = 0; i < deep; ++i) store(out + (k + i) * kPanel<T>, block[i]);
    }
  }
  return is_zero<T>(zero);
}

// Rows [i, i + R) through one panel of units, on w_hh as it lies.
template <class T, int R>
void unpacked_tile(const ForwardStep<T>& step, int64_t panel, int64_t i) {
  constexpr int W = kLanes<T>;
  const int64_t H = step.p.H, j = panel * W, units = smaller(W, H - j);
  const T* h[R];
  for (int r = 0; r < R; ++r) h[r] = step.h_before(step.share.sequence(i + r));
  Vec<T> partial[4][R][W] = {};
  for (int64_t u = 0; u < units; ++u) {
    add_dot_products<T, R>(step.p.w_hh + (j + u) * H, H * H, h, H, u, partial);
  }
  alignas(64) T sums[R][4 * W];
  const T* rows[R];
  for (int r = 0; r < R; ++r) {
    for (int g = 0; g < 4; ++g) store(sums[r] + g * W, sums_of_lanes<T>(partial[g][r]));
    rows[r] = sums[r];
  }
  step.finish(panel, i, R, rows);
}

// Rows [i, rows) through one panel, as many as fit a tile.
template <class T, int R = kStepRows>
void unpacked_rows(const ForwardStep<T>& step, int64_t panel, int64_t i, int64_t rows) {
  if constexpr (R > 1) {
    if (rows - i < R) return unpacked_rows<T, R - 1>(step, panel, i, rows);
  }
  unpacked_tile<T, R>(step, panel, i);
}

template <class T>
void lstm_forward(const LstmSequenceParams<T>& p, const Team& team) {
  const FlushDenormals flush;
  const int64_t H = p.H, B = p.B, K = p.E + H, panels = ceil_div(H, kLanes<T>);
  const Share share(p.order, p.split_batch, team);
  const bool stream_state = streams_state(p);
  for (int64_t panel = team.begin(panels); p.packed && panel < team.end(panels); ++panel) {
    T* packed = p.packed + panel * K * kSumVectors * kLanes<T>;
    if (p.x) pack_gates(p.w_ih, p.E, packed, K, 0, H, panel);
    if (!pack_gates(p.w_hh, H, packed, K, p.E, H, panel)) {
      p.infinite->store(true, std::memory_order_relaxed);
    }
  }

  // Rows that no step writes: padding, and the states of empty sequences.
  for (int64_t b = team.begin(B); (p.lengths || p.steps == 0) && b < team.end(B); ++b) {
    const int64_t length = p.lengths ? p.lengths[b] : 0;
    for (int64_t t = length; t < p.steps; ++t) {
      const int64_t row = t * B + b;
      __builtin_memset(p.y + row * H, 0, sizeof(T) * H);
      if (!p.act) continue;
      __builtin_memset(p.act + row * 4 * H, 0, sizeof(T) * 4 * H);
      __builtin_memset(p.cell + row * H, 0, sizeof(T) * H);
    }
    if (length > 0) continue;
    __builtin_memcpy(p.h_n + b * H, p.h0 + b * H, sizeof(T) * H);
    __builtin_memcpy(p.c_n + b * H, p.c0 + b * H, sizeof(T) * H);
  }
  team.barrier->wait();

  // A sequence that starts from zeros needs no product (0 times Inf or NaN is NaN, as ever).
  const bool skip_start = p.packed && p.zero_h0 && !p.infinite->load(std::memory_order_relaxed);
  const JointBlocks of_both(p.E, H, kForwardBlockK), of_x(p.E, 0, kForwardBlockK);
  const bool far = share.far<T>(4 * H * K);
  int64_t going_on = 0;  // rows that have been through a step
  for (int64_t s = 0; s < p.steps; ++s) {
    const int64_t t = p.reverse ? p.steps - 1 - s : s;
    const ForwardStep<T> step{p, share, stream_state, t, of_both};
    const int64_t rows = share.count(p.alive ? p.alive[t] : B);
    const int64_t multiplied = skip_start ? smaller(going_on, rows) : rows;
    if (p.packed) {
      share.run<T>(step, 0, multiplied, panels, far);
      const ForwardStep<T> start{p, share, stream_state, t, of_x};
      share.run<T>(start, multiplied, rows, panels);
    } else {
      for (int64_t panel = team.begin(panels); panel < team.end(panels); ++panel) {
        for (int64_t i = 0; i < rows; i += kStepRows) unpacked_rows(step, panel, i, rows);
      }
    }
    going_on = rows;
    if (!p.split_batch) team.barrier->wait();
  }
  finish_streaming();
}
