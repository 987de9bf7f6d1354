// What sums over all tokens, or goes to each of them: the gradients of w_hh, grad_gates^T @ h
// before the step, of w_ih and the bias, of x, and of the folded table, the scatter-add of
// grad_gates by id. All are taken chunk by chunk of time, while the gate gradients are in the
// cache. Part of isa_body.h: inside the instruction set's namespace.
//
// Each member owns a range of the 4H gates, for all tokens: no two write the same element, and
// the order of additions is that of the tokens, whatever the team. Of grad_x it owns tiles.

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
  const int64_t slot = p.ring ? s % p.slots : step_at(p, s);
  return p.grad_gates + slot * p.B * 4 * p.H;
}

template <class T>
class TokenGrads {
 public:
  TokenGrads(const LstmSequenceBackwardParams<T>& p, const Team& team)
      : p_(p),
        team_(team),
        of_x_(p.E),
        first_tile_(team.begin(ceil_div(4 * p.H, kBlockRows))),
        begin_(first_tile_ * kBlockRows),
        end_(smaller(team.end(ceil_div(4 * p.H, kBlockRows)) * kBlockRows, 4 * p.H)),
        grads_(p.weight_scratch + first_tile_ * kTile),
        panel_(p.weight_scratch + ceil_div(4 * p.H, kBlockRows) * kTile +
               team.rank * 64 * kWeightGradDepth) {
    for (int64_t v = 0; p.grad_table && v < p.V; ++v) {
      __builtin_memset(p.grad_table + v * 4 * p.H + begin_, 0, sizeof(T) * (end_ - begin_));
    }
    if (p.grad_x) {
      pack_columns(p.w_ih, p.packed_ih, 4 * p.H, p.E, of_x_, team.begin(of_x_.count),
                   team.end(of_x_.count));
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
        token_[count_] = t * p_.B + b;
        gates_[count_] = grads + b * 4 * p_.H;
        h_before_[count_] = first ? p_.h0 + b * p_.H : p_.y + (before * p_.B + b) * p_.H;
        // What starts from zeros adds nothing (but 0 times Inf or NaN is NaN, as ever).
        const bool nothing = first && p_.zero_h0 && all_finite(gates_[count_], 4 * p_.H);
        ++count_;
        if (!nothing) with_h_ = count_;
        if (count_ == kWeightGradDepth) take_in();
      }
    }
    if (count_ > 0) take_in();
  }

  // Without any token the gradients are still to be written.
  void finish() {
    const int64_t H = p_.H, E = p_.E, gates = end_ - begin_;
    if (!any_h_) __builtin_memset(p_.grad_w_hh + begin_ * H, 0, sizeof(T) * gates * H);
    if (any_) return;
    if (p_.grad_w_ih) __builtin_memset(p_.grad_w_ih + begin_ * E, 0, sizeof(T) * gates * E);
    if (p_.grad_bias) __builtin_memset(p_.grad_bias + begin_, 0, sizeof(T) * gates);
  }

 private:
  static constexpr int64_t kTile = weight_grad_tile(kWeightGradDepth);
  static constexpr int64_t kRegroupTiles = 8, kRegroupAhead = 8;
  // Tokens whose products are summed on their own first: longer chains round worse.
  static constexpr int64_t kChain = 32;

  void take_in() {
    regroup();
    if (with_h_ > 0) {
      add_product([&](int64_t k) { return h_before_[k]; }, with_h_, p_.H, p_.grad_w_hh, any_h_);
      any_h_ = true;
    }
    if (p_.grad_w_ih) {
      add_product([&](int64_t k) { return p_.x + token_[k] * p_.E; }, count_, p_.E,
                  p_.grad_w_ih, any_);
    }
    if (p_.grad_x) {
      multiply_rows_by<T>(
          p_.packed_ih, of_x_, nullptr, 4 * p_.H, p_.E, count_,
          [&](int64_t i) { return gates_[i]; },
          [&](int64_t i) { return p_.grad_x + token_[i] * p_.E; }, team_);
    }
    count_ = with_h_ = 0;
    any_ = true;
  }

  // This member's gates of all tokens: into their tiles, a column a token, and onto the table
  // or the bias. A few tiles at a time: as many streams of stores, and a part of the table, as
  // L1 holds.
  void regroup() {
    constexpr int64_t width = kRegroupTiles * kBlockRows;
    T* tiles = grads_;
    for (int64_t m = begin_; m < end_; m += width, tiles += kRegroupTiles * kTile) {
      const int64_t count = smaller(width, end_ - m);
      for (int64_t k = 0; k < count_; ++k) {
        const T* gates = gates_[k] + m;
        if (k + kRegroupAhead < count_) {
          const T* later = gates_[k + kRegroupAhead] + m;
          for (int64_t g = 0; g < width; g += kLine<T>) __builtin_prefetch(later + g);
        }
        T* column = tiles + k * kBlockRows;
        int64_t g = 0;
        for (; g + kBlockRows <= count; g += kBlockRows, column += kTile) {
          __builtin_memcpy(column, gates + g, sizeof(T) * kBlockRows);
        }
        for (int64_t r = 0; g + r < count; ++r) column[r] = gates[g + r];
        if (p_.grad_table) add_to_table(gates, m, count, k);
      }
      if (p_.grad_bias) add_to_bias(m, count);
    }
  }

  // Gates [m, m + count) of token k onto its row of the table.
  FASTCHAR_INLINE void add_to_table(const T* gates, int64_t m, int64_t count, int64_t k) {
    T* row = p_.grad_table + p_.ids[token_[k]] * 4 * p_.H + m;
    for (int64_t g = 0; g < count; g += kLanes<T>) {
      const int64_t n = count - g;
      store_upto(row + g, load_upto(row + g, n) + load_upto(gates + g, n), n);
    }
  }

  // Gates [m, m + count) of all tokens, summed first.
  void add_to_bias(int64_t m, int64_t count) {
    for (int64_t g = 0; g < count; g += kLanes<T>) {
      const int64_t n = count - g;
      const auto gates = [&](int64_t k) { return gates_[k] + m + g; };
      const Vec<T> sum = sum_rows<T>(gates, count_, n, kChain);
      T* at = p_.grad_bias + m + g;
      store_upto(at, any_ ? sum + load_upto(at, n) : sum, n);
    }
  }

  // out[begin_, end_) of [4H, columns] (+)= the tiles of the first `tokens` @ their rows.
  template <class RowOf>
  void add_product(const RowOf& row_of, int64_t tokens, int64_t columns, T* out, bool add) {
    for (int64_t j = 0; j < columns; j += kPanel<T>) {
      const int64_t there = smaller(kPanel<T>, columns - j), width = padded_columns<T>(there);
      for (int64_t k = 0; k < tokens; ++k) {
        T* line = panel_ + k * width;
        const T* row = row_of(k) + j;
        for (int64_t v = 0; v < there; v += kLanes<T>) {
          store(line + v, load_upto(row + v, there - v));
        }
      }
      const T* tile = grads_;
      for (int64_t m = begin_; m < end_; m += kBlockRows, tile += kTile) {
        const int64_t rows = smaller(kBlockRows, end_ - m);
        // The tokens' sum is made here first: out has as few additions as there are take_ins.
        alignas(64) T sums[kBlockRows][kPanel<T>];
        const T* a[kBlockRows];
        T* c[kBlockRows];
        for (int64_t r = 0; r < kBlockRows; ++r) c[r] = sums[r];
        for (int64_t k = 0; k < tokens; k += kChain) {
          for (int64_t r = 0; r < kBlockRows; ++r) a[r] = tile + k * kBlockRows + r;
          multiply_tile(rows, smaller(kChain, tokens - k), a, kBlockRows, panel_ + k * width, c,
                        width, k > 0);
        }
        for (int64_t r = 0; r < rows; ++r) {
          add_to(out + (m + r) * columns + j, sums[r], there, add);
        }
      }
    }
  }

  const LstmSequenceBackwardParams<T>& p_;
  const Team& team_;
  const VectorPanels<T> of_x_;
  int64_t first_tile_, begin_, end_;  // of the gates
  T* grads_;                          // [tiles][tokens][kBlockRows]
  T* panel_;                          // [tokens][up to kPanel]
  // Of the tokens since the last take_in: their numbers in [T*B], and rows.
  int64_t token_[kWeightGradDepth];
  const T* gates_[kWeightGradDepth];
  const T* h_before_[kWeightGradDepth];
  int64_t count_ = 0;
  int64_t with_h_ = 0;  // as many, the last ones that start from zeros not counted
  bool any_ = false, any_h_ = false;
};
