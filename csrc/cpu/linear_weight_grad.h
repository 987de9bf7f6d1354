// The gradient of a linear layer's weight and bias: a product that sums over many rows.
// Part of isa_body.h: inside the instruction set's namespace.
//
// Each member owns a range of the outputs, a block of whose sums stays in L2 while the rows
// stream by, kWeightGradDepth at a time: their gradients regrouped in tiles of kBlockRows
// outputs, their inputs packed into a panel. The sums go out to memory and start anew every
// kLinearGradSpan rows, which keeps the rounding error small.

template <class T>
class LinearWeightGrad {
 public:
  LinearWeightGrad(const LinearWeightGradParams<T>& p, const Team& team)
      : p_(p),
        tiles_(p.scratch + team.rank * linear_grad_scratch<T>()),
        panel_(tiles_ + kLinearGradTiles * kTile),
        bias_(panel_ + kWeightGradDepth * 64),
        sums_(bias_ + ceil_div(kLinearGradTiles * kBlockRows, 16) * 16),
        rows_(p.rows) {}

  // Outputs [begin, end) of grad_weight and grad_bias; begin is a multiple of kBlockRows.
  void run(int64_t begin, int64_t end) {
    const int64_t tiles = ceil_div(end - begin, kBlockRows);
    const int64_t blocks = ceil_div(tiles, kLinearGradTiles);
    const int64_t panels = ceil_div(p_.K, kPanel<T>);
    constexpr int64_t most = kLinearGradColumns<T> / kPanel<T>;
    const int64_t parts = panels > most ? ceil_div(panels, most) : 1;
    for (int64_t block = 0; block < blocks; ++block) {
      m0_ = begin + tiles * block / blocks * kBlockRows;
      m1_ = smaller(begin + tiles * (block + 1) / blocks * kBlockRows, end);
      for (int64_t part = 0; part < parts; ++part) {
        j0_ = panels * part / parts * kPanel<T>;
        j1_ = smaller(panels * (part + 1) / parts * kPanel<T>, p_.K);
        for (int64_t n = 0; n < p_.M; n += kLinearGradSpan) {
          const int64_t rows = smaller(kLinearGradSpan, p_.M - n);
          for (int64_t k = 0; k < rows; k += kWeightGradDepth) {
            add_rows(n + k, smaller(kWeightGradDepth, rows - k), k > 0);
          }
          finish(n > 0);
        }
      }
    }
  }

 private:
  static constexpr int64_t kTile = weight_grad_tile(kWeightGradDepth);
  static constexpr int64_t kSums = kBlockRows * kPanel<T>;  // of a tile and a panel
  static constexpr int64_t kRegroupTiles = 8;
  // Rows whose products are summed on their own first: longer chains round worse than the sums
  // over single steps that torch makes in a loop.
  static constexpr int64_t kChain = 32;

  T* sums_of(int64_t panel, int64_t tile) const {
    return sums_ + (panel * kLinearGradTiles + tile) * kSums;
  }

  // The block's outputs of the first `depth` rows into tiles, a column a row; as many streams
  // of stores at once as L1 holds. The bias's gradient is summed on the way, once.
  void regroup(int64_t depth, bool add) {
    constexpr int64_t width = kRegroupTiles * kBlockRows;
    T* tiles = tiles_;
    for (int64_t m = m0_; m < m1_; m += width, tiles += kRegroupTiles * kTile) {
      const int64_t count = smaller(width, m1_ - m);
      for (int64_t k = 0; k < depth; ++k) {
        const T* grads = grads_[k] + m;
        T* column = tiles + k * kBlockRows;
        int64_t g = 0;
        for (; g + kBlockRows <= count; g += kBlockRows, column += kTile) {
          __builtin_memcpy(column, grads + g, sizeof(T) * kBlockRows);
        }
        for (int64_t r = 0; g + r < count; ++r) column[r] = grads[g + r];
      }
      if (!p_.grad_bias || j0_ > 0) continue;
      for (int64_t g = 0; g < count; g += kLanes<T>) {
        const auto grads = [&](int64_t k) { return grads_[k] + m + g; };
        const Vec<T> sum = sum_rows<T>(grads, depth, count - g, kChain);
        T* at = bias_ + m - m0_ + g;
        store_upto(at, add ? sum + load_upto(at, count - g) : sum, count - g);
      }
    }
  }

  // Where rows [n, n + 2 kWeightGradDepth) are, those to add and those after them.
  void find_rows(int64_t n) {
    if (n < first_) rows_ = p_.rows, first_ = 0;
    for (; n >= first_ + rows_->count; ++rows_) first_ += rows_->count;
    const GradRows<T>* rows = rows_;
    const int64_t count = smaller(2 * kWeightGradDepth, p_.M - n);
    for (int64_t k = 0, i = n - first_; k < count; ++k, ++i) {
      for (; i == rows->count; i = 0) ++rows;
      grads_[k] = rows->grad + i * p_.N;
      inputs_[k] = rows->input + i * p_.K;
    }
  }

  // This product's share, number i of `of`, of the cache lines of the rows from n on, which are
  // the ones after those that it adds.
  int64_t lines_after(int64_t n, int64_t i, int64_t of, const void** lines) const {
    const int64_t of_grad = ceil_div(m1_ - m0_, kLine<T>),
                  of_input = ceil_div(j1_ - j0_, kLine<T>);
    const int64_t rows = smaller(kWeightGradDepth, p_.M - n), per_row = of_grad + of_input;
    if (rows <= 0) return 0;
    const int64_t begin = rows * per_row * i / of;
    const int64_t count = smaller(rows * per_row * (i + 1) / of - begin, kMostLines);
    int64_t row = kWeightGradDepth + begin / per_row, line = begin % per_row;
    for (int64_t k = 0; k < count; ++k) {
      lines[k] = line < of_grad ? grads_[row] + m0_ + line * kLine<T>
                                : inputs_[row] + j0_ + (line - of_grad) * kLine<T>;
      if (++line == per_row) line = 0, ++row;
    }
    return count;
  }

  // The block's sums (+)= grad[n, n + depth)^T @ input[n, n + depth).
  void add_rows(int64_t n, int64_t depth, bool add) {
    find_rows(n);
    regroup(depth, add);
    const int64_t tiles = ceil_div(m1_ - m0_, kBlockRows);
    const int64_t panels = ceil_div(j1_ - j0_, kPanel<T>);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t j = j0_ + panel * kPanel<T>, columns = smaller(kPanel<T>, j1_ - j);
      const int64_t width = padded_columns<T>(columns);
      for (int64_t k = 0; k < depth; ++k) {
        const T* row = inputs_[k] + j;
        for (int64_t v = 0; v < columns; v += kLanes<T>) {
          store(panel_ + k * width + v, load_upto(row + v, columns - v));
        }
      }
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const void* lines[kMostLines];
        const Lines soon{lines, lines_after(n + kWeightGradDepth, panel * tiles + tile,
                                            panels * tiles, lines)};
        const int64_t outputs = smaller(kBlockRows, m1_ - m0_ - tile * kBlockRows);
        for (int64_t k = 0; k < depth; k += kChain) {
          const T* a[kBlockRows];
          T* c[kBlockRows];
          for (int64_t r = 0; r < kBlockRows; ++r) {
            a[r] = tiles_ + tile * kTile + k * kBlockRows + r;
            c[r] = sums_of(panel, tile) + r * kPanel<T>;
          }
          multiply_tile(outputs, smaller(kChain, depth - k), a, kBlockRows, panel_ + k * width,
                        c, width, add || k > 0, k == 0 ? soon : Lines{});
        }
      }
    }
  }

  // The gradients (+)= the block's sums.
  void finish(bool add) {
    if (p_.grad_bias && j0_ == 0) add_to(p_.grad_bias + m0_, bias_, m1_ - m0_, add);
    for (int64_t m = m0_; m < m1_; ++m) {
      const int64_t tile = (m - m0_) / kBlockRows, r = (m - m0_) % kBlockRows;
      for (int64_t j = j0_; j < j1_; j += kPanel<T>) {
        add_to(p_.grad_weight + m * p_.K + j,
               sums_of((j - j0_) / kPanel<T>, tile) + r * kPanel<T>,
               smaller(kPanel<T>, j1_ - j), add);
      }
    }
  }

  static constexpr int64_t kMostLines = kChain;  // one with each step of a chain

  const LinearWeightGradParams<T>& p_;
  T* tiles_;  // [tiles][kWeightGradDepth][kBlockRows]
  T* panel_;  // [kWeightGradDepth][up to kPanel]
  T* bias_;   // [m1 - m0]
  T* sums_;   // [panels][tiles][kBlockRows][kPanel]
  int64_t m0_ = 0, m1_ = 0, j0_ = 0, j1_ = 0;
  const GradRows<T>* rows_;  // where row n is, the first of the rows found
  int64_t first_ = 0;        // the number of *rows_'s first row
  const T *grads_[2 * kWeightGradDepth], *inputs_[2 * kWeightGradDepth];
};

// M > 0.
template <class T>
void linear_weight_grad(const LinearWeightGradParams<T>& p, const Team& team) {
  const FlushDenormals flush;
  const int64_t tiles = ceil_div(p.N, kBlockRows);
  LinearWeightGrad<T> weight(p, team);
  weight.run(team.begin(tiles) * kBlockRows, smaller(team.end(tiles) * kBlockRows, p.N));
}
