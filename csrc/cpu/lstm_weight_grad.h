// The gradients that sum over all tokens: of w_hh, grad_gates^T @ h before the step, and of the
// folded table, the scatter-add of grad_gates by id. Both are taken chunk by chunk of time,
// while the gate gradients are in the cache. Part of isa_body.h: inside the instruction set's
// namespace.
//
// Each member owns a range of the 4H gates, for all tokens: no two write the same element, and
// the order of additions is that of the tokens, whatever the team.

// The step that the backward pass does as number s, how many sequences have step t, and where
// the gate gradients of number s are.
template <class T>
int64_t step_at(const LstmSequenceBackwardParams<T>& p, int64_t s) {
  return p.reverse ? s : p.steps - 1 - s;
}
template <class T>
int64_t alive_at(const LstmSequenceBackwardParams<T>& p, int64_t t) {
  if (t < 0 || t >= p.steps) return 0;
  return p.alive ? p.alive[t] : p.B;
}
template <class T>
T* grad_gates_at(const LstmSequenceBackwardParams<T>& p, int64_t s) {
  const int64_t slot = p.grad_table ? s % p.slots : step_at(p, s);
  return p.grad_gates + slot * p.B * 4 * p.H;
}

template <class T>
class WeightGrad {
 public:
  WeightGrad(const LstmSequenceBackwardParams<T>& p, const Team& team)
      : p_(p),
        first_tile_(team.begin(round_up(4 * p.H, kBlockRows))),
        begin_(first_tile_ * kBlockRows),
        end_(smaller(team.end(round_up(4 * p.H, kBlockRows)) * kBlockRows, 4 * p.H)),
        grads_(p.weight_scratch + first_tile_ * kTile),
        panel_(p.weight_scratch + round_up(4 * p.H, kBlockRows) * kTile +
               team.rank * 64 * kWeightGradDepth) {
    for (int64_t v = 0; p.grad_table && v < p.V; ++v) {
      __builtin_memset(p.grad_table + v * 4 * p.H + begin_, 0, sizeof(T) * (end_ - begin_));
    }
  }

  // Takes in the backward pass's steps [begin, end). Reads gate gradients of all members.
  void add_steps(int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t t = step_at(p_, s), alive = alive_at(p_, t);
      const T* grads = grad_gates_at(p_, s);
      for (int64_t i = 0; i < alive; ++i) {
        const int64_t b = p_.order ? p_.order[i] : i;
        const int64_t before = p_.reverse ? t + 1 : t - 1;
        const bool first =
            p_.reverse ? t + 1 == (p_.lengths ? p_.lengths[b] : p_.steps) : t == 0;
        gates_[tokens_] = grads + b * 4 * p_.H;
        if (p_.grad_table) ids_[tokens_] = p_.ids[t * p_.B + b];
        // What starts from zeros adds nothing (but 0 times Inf or NaN is NaN, as ever).
        if (first && p_.zero_h0 && all_finite(gates_[tokens_], 4 * p_.H)) {
          if (p_.grad_table)
            add_to_table(gates_[tokens_] + begin_, begin_, end_ - begin_, tokens_);
          continue;
        }
        h_before_[tokens_] = first ? p_.h0 + b * p_.H : p_.y + (before * p_.B + b) * p_.H;
        if (++tokens_ == kWeightGradDepth) multiply();
      }
    }
    if (tokens_ > 0) multiply();
  }

  // Without any token the gradient is still to be written.
  void finish() {
    if (any_) return;
    __builtin_memset(p_.grad_w_hh + begin_ * p_.H, 0, sizeof(T) * (end_ - begin_) * p_.H);
  }

 private:
  static constexpr int64_t kTile = weight_grad_tile(kWeightGradDepth);
  static constexpr int64_t kRegroupTiles = 8, kRegroupAhead = 8;

  // This member's gates of all tokens: into their tiles, a column a token, and onto the table.
  // A few tiles at a time: as many streams of stores, and a part of the table, as L1 holds.
  void regroup() {
    constexpr int64_t width = kRegroupTiles * kBlockRows;
    T* tiles = grads_;
    for (int64_t m = begin_; m < end_; m += width, tiles += kRegroupTiles * kTile) {
      const int64_t count = smaller(width, end_ - m);
      for (int64_t k = 0; k < tokens_; ++k) {
        const T* gates = gates_[k] + m;
        if (k + kRegroupAhead < tokens_) {
          const T* later = gates_[k + kRegroupAhead] + m;
          for (int64_t g = 0; g < width; g += 64 / sizeof(T)) __builtin_prefetch(later + g);
        }
        T* column = tiles + k * kBlockRows;
        int64_t g = 0;
        for (; g + kBlockRows <= count; g += kBlockRows, column += kTile) {
          __builtin_memcpy(column, gates + g, sizeof(T) * kBlockRows);
        }
        for (int64_t r = 0; g + r < count; ++r) column[r] = gates[g + r];
        if (p_.grad_table) add_to_table(gates, m, count, k);
      }
    }
  }

  // Gates [m, m + count) of token k onto its row of the table.
  FASTCHAR_INLINE void add_to_table(const T* gates, int64_t m, int64_t count, int64_t k) {
    T* row = p_.grad_table + ids_[k] * 4 * p_.H + m;
    for (int64_t g = 0; g < count; g += kLanes<T>) {
      const int64_t n = count - g;
      store_upto(row + g, load_upto(row + g, n) + load_upto(gates + g, n), n);
    }
  }

  // grad_w_hh[begin_, end_) (+)= the tiles @ h before the tokens' steps.
  void multiply() {
    const int64_t H = p_.H;
    regroup();
    for (int64_t j = 0; j < H; j += kPanel<T>) {
      const int64_t columns = smaller(kPanel<T>, H - j), width = padded_columns<T>(columns);
      for (int64_t k = 0; k < tokens_; ++k) {
        T* line = panel_ + k * width;
        for (int64_t v = 0; v < columns; v += kLanes<T>) {
          store(line + v, load_upto(h_before_[k] + j + v, columns - v));
        }
      }
      const T* tile = grads_;
      for (int64_t m = begin_; m < end_; m += kBlockRows, tile += kTile) {
        const T* a[kBlockRows];
        T* c[kBlockRows];
        for (int64_t r = 0; r < kBlockRows; ++r) {
          a[r] = tile + r;
          c[r] = p_.grad_w_hh + (m + r) * H + j;
        }
        multiply_tile(smaller(kBlockRows, end_ - m), tokens_, a, kBlockRows, panel_, c, columns,
                      any_);
      }
    }
    tokens_ = 0;
    any_ = true;
  }

  const LstmSequenceBackwardParams<T>& p_;
  int64_t first_tile_, begin_, end_;  // of the gates
  T* grads_;                          // [tiles][tokens][kBlockRows]
  T* panel_;                          // [tokens][up to kPanel]
  // Of the tokens since the last product.
  const T* h_before_[kWeightGradDepth];
  const T* gates_[kWeightGradDepth];
  int64_t ids_[kWeightGradDepth];
  int64_t tokens_ = 0;
  bool any_ = false;
};
