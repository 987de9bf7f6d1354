// Products of many rows with a weight: a linear layer, and the gradient of its input.
// Part of isa_body.h: inside the instruction set's namespace.
//
// The weight is packed into gemm.h's panels once a call, and the rows pass over them as in the
// recurrence (lstm_tile.h), from whose tiles this has its speed.

template <class T>
struct LinearStep {
  const LinearParams<T>& p;
  const VectorPanels<T>& panels;
  const Blocks sum;  // over K

  int64_t blocks() const { return sum.count; }
  Span span(int64_t block) const { return sum.span(block); }
  const T* row(int64_t i, const Span& span) const { return p.input + i * p.K + span.k; }

  void multiply(int64_t panel, const Span& span, int64_t rows, const T* const* a, T* const* c,
                bool add, const Lines& soon) const {
    const int64_t width = panels.width(panel) * kLanes<T>;
    const T* columns = p.packed + panels.begin(panel) * kLanes<T> * p.K;
    multiply_tile(rows, span.depth, a, 1, columns + span.k * width, c, width, add, soon);
  }

  static constexpr bool kAsks = true;
  static constexpr int kLines = kPanelVectors;
  int64_t lines(int64_t panel, int64_t i, const void** out) const {
    const T* at = p.output + i * p.N + panels.begin(panel) * kLanes<T>;
    for (int v = 0; v < panels.width(panel); ++v) out[v] = at + v * kLanes<T>;
    return panels.width(panel);
  }

  void finish(int64_t panel, int64_t i, int64_t rows, const T* const* sums) const {
    const int64_t first = panels.begin(panel) * kLanes<T>;
    const int64_t width = panels.width(panel) * kLanes<T>;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t v = 0; v < width; v += kLanes<T>) {
        const int64_t j = first + v, n = p.N - j;
        const Vec<T> sum = load(sums[r] + v);
        store_upto(p.output + (i + r) * p.N + j, p.bias ? sum + load_upto(p.bias + j, n) : sum,
                   n);
      }
    }
  }
};

// Panels [begin, end) of the packed weight.
template <class T>
void pack_linear(const LinearParams<T>& p, const VectorPanels<T>& panels, int64_t begin,
                 int64_t end) {
  if (p.transposed) return pack_columns(p.weight, p.packed, p.K, p.N, panels, begin, end);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t j = panels.begin(i) * kLanes<T>;
    const int64_t stop = smaller(j + panels.width(i) * kLanes<T>, p.N);
    pack_panel_of_transpose(p.weight, p.K, stop, j, p.packed + j * p.K);
  }
}

template <class T>
void linear(const LinearParams<T>& p, const Team& team) {
  const FlushDenormals flush;
  const VectorPanels<T> panels(p.N);
  pack_linear(p, panels, team.begin(panels.count), team.end(panels.count));
  team.barrier->wait();
  Share(nullptr, false, team)
      .run<T>(LinearStep<T>{p, panels, Blocks(p.K)}, 0, p.M, panels.count);
}
