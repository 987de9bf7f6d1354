// Products of many rows with a packed matrix: a linear layer, and the gradient of its input.
// Part of isa_body.h: inside the instruction set's namespace.
//
// The matrix is packed into gemm.h's panels once a call, and the rows pass over them as in the
// recurrence (lstm_tile.h), from whose tiles this has its speed.

template <class T, class RowOf, class OutOf>
struct ProductStep {
  const VectorPanels<T>& panels;  // of the N columns
  const T* packed;                // [K, N]
  const T* bias;                  // [N] or null
  int64_t N;
  const RowOf& row_of;
  const OutOf& out_of;
  const Blocks sum;  // over K

  int64_t blocks() const { return sum.count; }
  Span span(int64_t block) const { return sum.span(block); }
  const T* row(int64_t i, const Span& span) const { return row_of(i) + span.k; }

  void multiply(int64_t panel, const Span& span, int64_t rows, const T* const* a, T* const* c,
                bool add, const Lines& soon) const {
    const int64_t width = panels.width(panel) * kLanes<T>;
    const T* columns = packed + panels.begin(panel) * kLanes<T> * sum.K;
    multiply_tile(rows, span.depth, a, 1, columns + span.k * width, c, width, add, soon);
  }

  static constexpr bool kAsks = true;
  static constexpr int kLines = kPanelVectors;
  int64_t lines(int64_t panel, int64_t i, const void** out) const {
    const T* at = out_of(i) + panels.begin(panel) * kLanes<T>;
    for (int v = 0; v < panels.width(panel); ++v) out[v] = at + v * kLanes<T>;
    return panels.width(panel);
  }

  void finish(int64_t panel, int64_t i, int64_t rows, const T* const* sums) const {
    const int64_t first = panels.begin(panel) * kLanes<T>;
    const int64_t width = panels.width(panel) * kLanes<T>;
    for (int64_t r = 0; r < rows; ++r) {
      T* out = out_of(i + r);
      for (int64_t v = 0; v < width; v += kLanes<T>) {
        const int64_t j = first + v, n = N - j;
        const Vec<T> sum = load(sums[r] + v);
        store_upto(out + j, bias ? sum + load_upto(bias + j, n) : sum, n);
      }
    }
  }
};

// out_of(i) [N] = row_of(i) [K] @ packed [K, N] + bias for i < rows, by the whole team.
template <class T, class RowOf, class OutOf>
void multiply_rows_by(const T* packed, const VectorPanels<T>& panels, const T* bias, int64_t K,
                      int64_t N, int64_t rows, const RowOf& row_of, const OutOf& out_of,
                      const Team& team) {
  const ProductStep<T, RowOf, OutOf> step{panels, packed, bias, N, row_of, out_of, Blocks(K)};
  Share(nullptr, false, team).run<T>(step, 0, rows, panels.count);
}

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
  multiply_rows_by<T>(
      p.packed, panels, p.bias, p.K, p.N, p.M, [&](int64_t i) { return p.input + i * p.K; },
      [&](int64_t i) { return p.output + i * p.N; }, team);
}
