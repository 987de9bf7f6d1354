// What the steps of a loop add to a weight's gradient: one product over all their rows.
// Part of isa_body.h: inside the instruction set's namespace.
//
// The rows go in blocks whose panels fit the cache. Each member owns a range of the gates, and
// sums a few rows at a time, so that no sum is longer than that of a step of its own would be.

constexpr int64_t kStepGradDepth = 32;

template <class T>
void lstm_step_weight_grad(const LstmStepWeightGradParams<T>& p, const Team& team) {
  const FlushDenormals flush;
  const int64_t K = p.K, panels = (K + kPanel<T> - 1) / kPanel<T>;
  const int64_t tiles = (p.M + kBlockRows - 1) / kBlockRows;
  T gates[kStepGradBlock * kBlockRows];  // of one tile: [rows][kBlockRows]
  for (int64_t n = 0; n < p.N; n += kStepGradBlock) {
    const int64_t rows = p.N - n < kStepGradBlock ? p.N - n : kStepGradBlock;
    for (int64_t i = team.begin(panels); i < team.end(panels); ++i) {
      pack_panel(p.rows + n * K, K, rows, K, i * kPanel<T>,
                 p.packed + i * kPanel<T> * kStepGradBlock);
    }
    team.barrier->wait();
    for (int64_t tile = team.begin(tiles); tile < team.end(tiles); ++tile) {
      const int64_t m = tile * kBlockRows;
      const int64_t of_tile = p.M - m < kBlockRows ? p.M - m : kBlockRows;
      for (int64_t k = 0; k < rows; ++k) {
        const T* grads = p.grad_gates + (n + k) * p.M + m;
        for (int64_t r = 0; r < of_tile; ++r) gates[k * kBlockRows + r] = grads[r];
      }
      for (int64_t j = 0; j < K; j += kPanel<T>) {
        const int64_t columns = K - j < kPanel<T> ? K - j : kPanel<T>;
        const T* panel = p.packed + j * kStepGradBlock;
        for (int64_t k = 0; k < rows; k += kStepGradDepth) {
          const T* a[kBlockRows];
          T* c[kBlockRows];
          for (int64_t r = 0; r < of_tile; ++r) {
            a[r] = gates + k * kBlockRows + r;
            c[r] = p.grad_weight + (m + r) * K + j;
          }
          multiply_tile(of_tile, rows - k < kStepGradDepth ? rows - k : kStepGradDepth, a,
                        kBlockRows, panel + k * padded_columns<T>(columns), c, columns,
                        n + k > 0);
        }
      }
    }
    team.barrier->wait();
  }
}
