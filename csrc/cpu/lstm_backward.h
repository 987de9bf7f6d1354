// The LSTM over a whole sequence, backward: from the saved gates and cells to the gradient with
// respect to the pre-activations.
// Part of isa_body.h: inside the instruction set's namespace.
//
// Step t's gradient with respect to h is grad_y[t] + grad_gates[step after t] @ w_hh. Panels
// are up to kPanelVectors vectors of hidden units wide, [panel][k = 0..4H)[units], and the
// gates' gradient follows in the tile's epilogue. grad_c0 carries the cell's gradient from step
// to step.

template <class T>
struct BackwardStep {
  const LstmSequenceBackwardParams<T>& p;
  const Share& share;
  const VectorPanels<T>& panels;
  int64_t t;
  T* grads;              // [B, 4H], this step's grad_gates
  const T* grads_after;  // [B, 4H], those of the step that the forward pass did after it
  const Blocks sum;      // over 4H, or of none

  int64_t length(int64_t b) const { return p.lengths ? p.lengths[b] : p.steps; }
  bool exists(int64_t b) const { return t >= 0 && t < length(b); }
  // Whether step t is the first or the last that the forward pass did of sequence b.
  bool is_first(int64_t b) const { return p.reverse ? t + 1 == length(b) : t == 0; }
  bool is_last(int64_t b) const { return p.reverse ? t == 0 : t + 1 == length(b); }

  int64_t blocks() const { return sum.count; }
  Span span(int64_t block) const { return sum.span(block); }
  const T* row(int64_t i, const Span& span) const {
    return grads_after + share.sequence(i) * 4 * p.H + span.k;
  }

  void multiply(int64_t panel, const Span& span, int64_t rows, const T* const* grads,
                T* const* c, bool add, const Lines& soon) const {
    const int64_t width = panels.width(panel) * kLanes<T>;
    const T* packed = p.packed + panels.begin(panel) * kLanes<T> * 4 * p.H;
    multiply_tile(rows, span.depth, grads, 1, packed + span.k * width, c, width, add, soon);
  }

  static constexpr bool kAsks = true;
  static constexpr int kLines = 6 * kPanelVectors;
  int64_t lines(int64_t panel, int64_t i, const void** out) const {
    const int64_t b = share.sequence(i), H = p.H;
    if (!exists(b)) return 0;
    const int64_t token = t * p.B + b, before = p.reverse ? t + 1 : t - 1;
    const T* c_prev = is_first(b) ? p.c0 + b * H : p.cell + (before * p.B + b) * H;
    const T* grad_y = p.grad_y ? p.grad_y + token * H : c_prev;
    int64_t n = 0, j = panels.begin(panel) * kLanes<T>;
    for (int v = 0; v < panels.width(panel); ++v, j += kLanes<T>) {
      for (int g = 0; g < 4; ++g) out[n++] = p.act + (token * 4 + g) * H + j;
      out[n++] = c_prev + j;
      out[n++] = grad_y + j;
    }
    return n;
  }

  // The units of one panel of rows [i, i + rows), from what comes from the step after.
  void finish(int64_t panel, int64_t i, int64_t rows, const T* const* sums) const {
    const int64_t j = panels.begin(panel) * kLanes<T>;
    const int64_t width = panels.width(panel) * kLanes<T>;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t b = share.sequence(i + r);
      for (int64_t v = 0; v < width; v += kLanes<T>) {
        finish_units(b, j + v, load(sums[r] + v));
      }
    }
  }

  // Units [j, j + W) of sequence b.
  FASTCHAR_INLINE void finish_units(int64_t b, int64_t j, Vec<T> grad_h) const {
    const int64_t H = p.H, n = H - j;
    if (!exists(b)) return store_upto(p.grad_h0 + b * H + j, grad_h, n);  // needed, see below
    const int64_t token = t * p.B + b, before = p.reverse ? t + 1 : t - 1;
    const bool last = is_last(b);
    if (last && p.grad_h_n) grad_h = grad_h + load_upto(p.grad_h_n + b * H + j, n);
    if (p.grad_y) grad_h = grad_h + load_upto(p.grad_y + token * H + j, n);
    const T* carried = last ? p.grad_c_n : p.grad_c0;
    const Vec<T> grad_c = carried ? load_upto(carried + b * H + j, n) : Vec<T>{};
    const T* c_prev = (is_first(b) ? p.c0 + b * H : p.cell + (before * p.B + b) * H) + j;
    const T* act = p.act + token * 4 * H + j;
    const auto d =
        cell_backward(load_upto(act, n), load_upto(act + H, n), load_upto(act + 2 * H, n),
                      load_upto(act + 3 * H, n), load_upto(c_prev, n),
                      load_upto(p.cell + token * H + j, n), grad_h, grad_c);
    T* grad = grads + b * 4 * H + j;
    store_upto(grad, d.i, n);
    store_upto(grad + H, d.f, n);
    store_upto(grad + 2 * H, d.g, n);
    store_upto(grad + 3 * H, d.o, n);
    store_upto(p.grad_c0 + b * H + j, d.c_prev, n);
  }
};

template <class T>
void copy_or_zero(T* out, const T* from, int64_t n) {
  if (from) {
    __builtin_memcpy(out, from, sizeof(T) * n);
  } else {
    __builtin_memset(out, 0, sizeof(T) * n);
  }
}

template <class T>
void lstm_backward(const LstmSequenceBackwardParams<T>& p, const Team& team) {
  const FlushDenormals flush;
  const int64_t H = p.H, B = p.B;
  const VectorPanels<T> panels(H);
  const Share share(p.order, p.split_batch, team);
  TokenGrads<T> token_grads(p, team);
  if (p.steps > 1 || p.grad_h0) {
    pack_columns(p.w_hh, p.packed, 4 * H, H, panels, team.begin(panels.count),
                 team.end(panels.count));
  }

  // Rows that no step writes: padding, and the states of empty sequences.
  for (int64_t b = team.begin(B); (p.lengths || p.steps == 0) && b < team.end(B); ++b) {
    const int64_t length = p.lengths ? p.lengths[b] : 0;
    for (int64_t t = length; t < p.steps; ++t) {
      const int64_t token = t * B + b;
      if (p.grad_x) __builtin_memset(p.grad_x + token * p.E, 0, sizeof(T) * p.E);
      if (p.ring) continue;
      __builtin_memset(p.grad_gates + token * 4 * H, 0, sizeof(T) * 4 * H);
    }
    if (length > 0) continue;
    if (p.grad_h0)
      copy_or_zero(p.grad_h0 + b * H, p.grad_h_n ? p.grad_h_n + b * H : nullptr, H);
    copy_or_zero(p.grad_c0 + b * H, p.grad_c_n ? p.grad_c_n + b * H : nullptr, H);
  }
  team.barrier->wait();

  const Blocks of_gates(4 * H);
  const bool far = share.far<T>(4 * H * H);
  // One step more than there are: it writes grad_h0. Sequences end at different steps in
  // reverse, and then that of a short one is written among the others' steps. Where nobody
  // needs grad_h0, the product of a sequence's first step is left out.
  for (int64_t s = 0; s <= p.steps && p.steps > 0; ++s) {
    const int64_t t = step_at(p, s);
    T* grads = s < p.steps ? grad_gates_at(p, s) : nullptr;
    const T* grads_after = s > 0 ? grad_gates_at(p, s - 1) : nullptr;
    const BackwardStep<T> step{p, share, panels, t, grads, grads_after, of_gates};
    const BackwardStep<T> last{p, share, panels, t, grads, grads_after, Blocks(0)};
    const int64_t rows = share.count(alive_at(p, t));
    int64_t going_on = s > 0 ? share.count(alive_at(p, step_at(p, s - 1))) : 0;
    if (!p.grad_h0) going_on = smaller(going_on, rows);
    share.run<T>(step, 0, going_on, panels.count, far);
    share.run<T>(last, going_on, rows, panels.count);
    const bool chunk_ends = s < p.steps && ((s + 1) % p.chunk == 0 || s + 1 == p.steps);
    if (!p.split_batch || chunk_ends) team.barrier->wait();
    if (!chunk_ends) continue;
    token_grads.add_steps(s / p.chunk * p.chunk, s + 1);
    // Those who do not wait at every step would overwrite the ring under the others.
    if (p.split_batch) team.barrier->wait();
  }
  token_grads.finish();
}
