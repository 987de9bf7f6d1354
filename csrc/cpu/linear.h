// Products of many rows with a weight: a linear layer, and the gradient of its input.
// Part of isa_body.h: inside the instruction set's namespace.
//
// The weight is packed into gemm.h's panels once a call, and the rows pass over them as in the
// recurrence (lstm_tile.h), from whose tiles this has its speed.

template <class T>
struct LinearStep {
  const LinearParams<T>& p;
  const BackwardPanels<T>& panels;

  const T* row(int64_t i) const { return p.input + i * p.K; }

  void multiply(int64_t panel, int64_t k, int64_t depth, int64_t rows, const T* const* a,
                T* const* c, bool add, const Lines& soon) const {
    const int64_t width = panels.width(panel) * kLanes<T>;
    const T* columns = p.packed + panels.begin(panel) * kLanes<T> * p.K;
    multiply_tile(rows, depth, a, 1, columns + k * width, c, width, add, soon);
  }

  static constexpr int64_t kBlock = kBlockK;
  static constexpr bool kAsks = true;
  static constexpr int kLines = kPanelVectors;
  int64_t lines(int64_t panel, int64_t i, const void** out) const {
    const T* at = p.output + i * p.N + panels.begin(panel) * kLanes<T>;
    for (int v = 0; v < panels.width(panel); ++v) out[v] = at + v * kLanes<T>;
    return panels.width(panel);
  }

  void finish(int64_t panel, int64_t i, const T* sums) const {
    int64_t j = panels.begin(panel) * kLanes<T>;
    for (int v = 0; v < panels.width(panel); ++v, j += kLanes<T>, sums += kLanes<T>) {
      const int64_t n = p.N - j;
      const Vec<T> sum = load(sums);
      store_upto(p.output + i * p.N + j, p.bias ? sum + load_upto(p.bias + j, n) : sum, n);
    }
  }
};

// Panels [begin, end) of the packed weight.
template <class T>
void pack_linear(const LinearParams<T>& p, const BackwardPanels<T>& panels, int64_t begin,
                 int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t j = panels.begin(i) * kLanes<T>;
    const int64_t stop = smaller(j + panels.width(i) * kLanes<T>, p.N);
    if (p.transposed) {
      pack_panel(p.weight, p.N, p.K, stop, j, p.packed + j * p.K);
    } else {
      pack_panel_of_transpose(p.weight, p.K, stop, j, p.packed + j * p.K);
    }
  }
}

template <class T>
void linear(const LinearParams<T>& p, const Team& team) {
  const FlushDenormals flush;
  const BackwardPanels<T> panels(p.N);
  pack_linear(p, panels, team.begin(panels.panels), team.end(panels.panels));
  team.barrier->wait();
  const LinearStep<T> step{p, panels};
  const Share share(nullptr, false, team);
  if (p.K > 0) return share.run<T>(step, p.M, panels.panels, p.K);
  share.run_without_product<T>(step, 0, p.M, panels.panels);
}
