// One LSTM step with its products, forward and backward: the step loop of a decoder. Of many
// rows, on weights packed as the sequence kernels pack them; step.h has what few rows take.
// Part of isa_body.h: inside the instruction set's namespace.
//
// A member packs one panel at a time and takes all rows over it while it is in L2. Forward, a
// panel has the gates of kLanes units, and [w_ih w_hh] is one product over [x h]; backward, a
// few columns of w_ih or w_hh.

template <class T>
struct PackedStep {
  const LstmStepParams<T>& p;
  const T* panel;  // of the units from `unit` on
  int64_t unit;
  const JointBlocks sum;

  int64_t blocks() const { return sum.count(); }
  Span span(int64_t block) const { return sum.span(block); }
  const T* row(int64_t i, const Span& span) const {
    return span.k < p.E ? p.x + i * p.E + span.k : p.h + i * p.H + (span.k - p.E);
  }

  void multiply(int64_t, const Span& span, int64_t rows, const T* const* a, T** c, bool add,
                const Lines& soon) const {
    multiply_gates(panel, p.E + p.H, span, rows, a, c, add, soon);
  }

  static constexpr bool kAsks = kVectorBytes == 64;
  static constexpr int kLines = 7;
  int64_t lines(int64_t, int64_t i, const void** out) const {
    const int64_t at = i * p.H + unit;
    out[0] = p.c + at;
    out[1] = p.h_new + at;
    out[2] = p.c_new + at;
    for (int g = 0; g < 4; ++g) out[3 + g] = p.act + (i * 4 + g) * p.H + unit;
    return 7;
  }

  void finish(int64_t, int64_t i, int64_t rows, const T* const* sums) const {
    Vec<T> o[kBlockRows], c[kBlockRows];
    for (int64_t r = 0; r < rows; ++r) {
      Vec<T> gates[4];
      for (int g = 0; g < 4; ++g) gates[g] = load(sums[r] + g * kLanes<T>);
      const auto s = step_gates(p, unit, i + r, gates);
      o[r] = s.o;
      c[r] = s.c;
    }
    for (int64_t r = 0; r < rows; ++r) {
      store_upto(p.h_new + (i + r) * p.H + unit, cell_output(o[r], c[r]), p.H - unit);
    }
  }
};

template <class T>
void lstm_step_packed(const LstmStepParams<T>& p, const Team& team) {
  const int64_t E = p.E, H = p.H, K = E + H, panels = ceil_div(H, kLanes<T>);
  T* packed = p.scratch + team.rank * step_panel(K);
  const Tiles tiles(0, p.B);
  // Half the blocks of the sequence kernels, half the rounding error.
  const JointBlocks of_both(E, H, kBlockK / 2);
  for (int64_t panel = team.begin(panels); panel < team.end(panels); ++panel) {
    pack_gates(p.w_ih, E, packed, K, 0, H, panel);
    pack_gates(p.w_hh, H, packed, K, E, H, panel);
    const PackedStep<T> step{p, packed, panel * kLanes<T>, of_both};
    run_items<T>(step, tiles, 1, 0, tiles.count);
  }
}

template <class T, class W = T>
void lstm_step(const LstmStepParams<T, W>& p, const Team& team) {
  const FlushDenormals flush;
  if constexpr (sizeof(W) == sizeof(T)) {
    if (p.scratch) return lstm_step_packed(p, team);
  }
  const int64_t panels = ceil_div(p.H, kLanes<T>);
  for (int64_t panel = team.begin(panels); panel < team.end(panels); ++panel) {
    for (int64_t b = 0; b < p.B; b += kStepRows) step_rows(p, panel * kLanes<T>, b);
  }
}

// Columns [j, j + width) of out (+)= a [B, M] @ w [M, K], `depth` rows of w from `m` on.
template <class T>
struct ColumnsStep {
  const T* a;      // from column m on
  const T* panel;  // [depth, width filled up to whole vectors]
  T* out;          // from column j on
  int64_t M, K, width;
  bool add;
  const Blocks sum;  // over the depth

  int64_t blocks() const { return sum.count; }
  Span span(int64_t block) const { return sum.span(block); }
  const T* row(int64_t i, const Span& span) const { return a + i * M + span.k; }

  void multiply(int64_t, const Span& span, int64_t rows, const T* const* a, T* const* c,
                bool add_sums, const Lines& soon) const {
    const int64_t padded = padded_columns<T>(width);
    multiply_tile(rows, span.depth, a, 1, panel + span.k * padded, c, padded, add_sums, soon);
  }

  static constexpr bool kAsks = true;
  static constexpr int kLines = kPanelVectors;
  int64_t lines(int64_t, int64_t i, const void** at) const {
    int64_t n = 0;
    for (int64_t j = 0; j < width; j += kLanes<T>) at[n++] = out + i * K + j;
    return n;
  }

  void finish(int64_t, int64_t i, int64_t rows, const T* const* sums) const {
    for (int64_t r = 0; r < rows; ++r) add_to(out + (i + r) * K, sums[r], width, add);
  }
};

// Columns [begin, end) of out [B, K] = a [B, M] @ w [M, K], from whole vectors on; none where
// nobody needs out.
template <class T>
void multiply_columns(const T* a, const T* w, T* out, int64_t B, int64_t M, int64_t K,
                      int64_t begin, int64_t end, T* panel) {
  if (!out || begin >= end) return;
  switch (B) {
    case 1:
      return stream_columns<T, 1>(a, w, out, M, K, begin, end);
    case 2:
      return stream_columns<T, 2>(a, w, out, M, K, begin, end);
    case 3:
      return stream_columns<T, 3>(a, w, out, M, K, begin, end);
    case 4:
      return stream_columns<T, 4>(a, w, out, M, K, begin, end);
  }
  for (int64_t b = 0; M == 0 && b < B; ++b) {  // a sum of nothing, which no piece below writes
    __builtin_memset(out + b * K + begin, 0, sizeof(T) * (end - begin));
  }
  const Tiles tiles(0, B);
  const int64_t vectors = ceil_div(end - begin, kLanes<T>);
  const int64_t panels = ceil_div(vectors, kPanelVectors);
  for (int64_t i = 0; i < panels; ++i) {
    const int64_t j = begin + vectors * i / panels * kLanes<T>;
    const int64_t stop = smaller(begin + vectors * (i + 1) / panels * kLanes<T>, end);
    for (int64_t m = 0; m < M; m += kStepDepth) {
      const int64_t depth = smaller(kStepDepth, M - m);
      pack_panel(w + m * K, K, depth, stop, j, panel);
      const ColumnsStep<T> step{a + m, panel, out + j, M, K, stop - j, m > 0, Blocks(depth)};
      run_items<T>(step, tiles, 1, 0, tiles.count);
    }
  }
}

template <class T>
void lstm_step_backward(const LstmStepBackwardParams<T>& p, const Team& team) {
  lstm_cell_backward(p.cell, team);
  team.barrier->wait();
  const FlushDenormals flush;
  const int64_t B = p.cell.B, H = p.cell.H, W = kLanes<T>;
  // The vectors of grad_x, then those of grad_h_prev.
  const int64_t of_x = p.grad_x ? ceil_div(p.E, W) : 0;
  const int64_t all = of_x + (p.grad_h_prev ? ceil_div(H, W) : 0);
  const int64_t begin = team.begin(all), end = team.end(all);
  T* panel = p.scratch + team.rank * step_panel(kStepDepth);
  multiply_columns(p.cell.grad_gates, p.w_ih, p.grad_x, B, 4 * H, p.E, begin * W,
                   smaller(smaller(end, of_x) * W, p.E), panel);
  multiply_columns(p.cell.grad_gates, p.w_hh, p.grad_h_prev, B, 4 * H, H,
                   begin > of_x ? (begin - of_x) * W : 0, smaller((end - of_x) * W, H), panel);
}
