// One step of a language model that writes: a symbol in, the logits of the next one out.
// Part of isa_body.h: inside the instruction set's namespace.
//
// Of one row, so that the step reads the weights once and does little else: they are taken as
// they lie, each member's hidden units from the cache that it had them in a step before.

// Columns of p.rows[p.id] that belong to the units from j on: table[id] w_ih^T + b_ih.
template <class T, class W>
void project_symbol(const LstmGenerateParams<T, W>& p, int64_t j) {
  const int64_t E = p.E, H = p.H, units = smaller(kLanes<T>, H - j);
  const W* w_ih = p.weights[0];
  const T *b_ih = p.biases[0], *x[1] = {p.table + p.id * E};
  Vec<T> partial[4][1][kLanes<T>] = {};
  for (int64_t u = 0; u < units; ++u) {
    add_dot_products<T, 1>(w_ih + (j + u) * E, H * E, x, E, u, partial);
  }
  for (int g = 0; g < 4; ++g) {
    const Vec<T> sums = sums_of_lanes<T>(partial[g][0]) + load_upto(b_ih + g * H + j, H - j);
    store_upto(p.rows + (p.id * 4 + g) * H + j, sums, H - j);
  }
}

// logits[v] for kLanes symbols from v on (fewer at the end), of the last layer's h.
template <class T, class W>
void output_logits(const LstmGenerateParams<T, W>& p, const T* h, int64_t v) {
  constexpr int L = kLanes<T>, kSums = 4;
  const int64_t H = p.H, n = p.V - v;
  Vec<T> rows[L] = {};
  for (int64_t i = 0; i < smaller(L, n); ++i) {
    const W* w = p.output_weight + (v + i) * H;
    Vec<T> sums[kSums] = {};
    int64_t k = 0;
    for (; k + kSums * L <= H; k += kSums * L) {
      for (int s = 0; s < kSums; ++s) {
        sums[s] = fma(load(w + k + s * L), load(h + k + s * L), sums[s]);
      }
    }
    for (; k < H; k += L) {
      sums[0] = fma(load_upto(w + k, H - k), load_upto(h + k, H - k), sums[0]);
    }
    rows[i] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  store_upto(p.logits + v, sums_of_lanes<T>(rows) + load_upto(p.output_bias + v, n), n);
}

template <class T, class W = T>
void lstm_generate_step(const LstmGenerateParams<T, W>& p, const Team& team) {
  constexpr int L = kLanes<T>;
  const FlushDenormals flush;
  const int64_t H = p.H, panels = ceil_div(H, L), vectors = ceil_div(p.V, L);
  const T* below = nullptr;
  for (int64_t l = 0; l < p.L; ++l) {
    const W* const* w = p.weights + 2 * l;
    const T* const* b = p.biases + 2 * l;
    const T* b_ih = l ? b[0] : p.rows + p.id * 4 * H;
    T *c = p.c + l * H, *h_new = p.h_new + l * H;
    const LstmStepParams<T, W> step{below, p.h + l * H, c,     w[0],    w[1], b_ih,      b[1],
                                    h_new, c,           p.act, nullptr, 1,    l ? H : 0, H};
    for (int64_t panel = team.begin(panels); panel < team.end(panels); ++panel) {
      if (l == 0 && p.fresh) project_symbol(p, panel * L);
      step_tile<T, 1>(step, panel * L, 0);
    }
    below = h_new;
    team.barrier->wait();
  }
  for (int64_t vector = team.begin(vectors); vector < team.end(vectors); ++vector) {
    output_logits(p, below, vector * L);
  }
  team.barrier->wait();
}
