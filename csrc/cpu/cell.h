// One LSTM step on given pre-activations, forward and backward: the step loop of a decoder; and
// what the kernels that make the pre-activations too share with it.
// Part of isa_body.h: inside the instruction set's namespace.

// n units' gates at act, a row [4H].
template <class T>
FASTCHAR_INLINE void store_gates(T* act, int64_t H, const CellGates<Vec<T>>& s, int64_t n) {
  store_upto(act, s.i, n);
  store_upto(act + H, s.f, n);
  store_upto(act + 2 * H, s.g, n);
  store_upto(act + 3 * H, s.o, n);
}

template <class T>
void lstm_cell(const LstmCellParams<T>& p, const Team& team) {
  const FlushDenormals flush;
  const int64_t H = p.H;
  for (int64_t b = team.begin(p.B); b < team.end(p.B); ++b) {
    for (int64_t j = 0; j < H; j += kLanes<T>) {
      const int64_t n = H - j, at = b * H + j;
      const T* gates = p.gates + b * 4 * H + j;
      T* act = p.act + b * 4 * H + j;
      const auto s = cell_forward(load_upto(gates, n), load_upto(gates + H, n),
                                  load_upto(gates + 2 * H, n), load_upto(gates + 3 * H, n),
                                  load_upto(p.c + at, n));
      store_upto(p.h_new + at, s.h, n);
      store_upto(p.c_new + at, s.c, n);
      store_gates<T>(act, H, s, n);
    }
  }
}

template <class T>
void lstm_cell_backward(const LstmCellBackwardParams<T>& p, const Team& team) {
  const FlushDenormals flush;
  const int64_t H = p.H;
  for (int64_t b = team.begin(p.B); b < team.end(p.B); ++b) {
    for (int64_t j = 0; j < H; j += kLanes<T>) {
      const int64_t n = H - j, at = b * H + j;
      const T* act = p.act + b * 4 * H + j;
      T* grad = p.grad_gates + b * 4 * H + j;
      const Vec<T> i = load_upto(act, n), f = load_upto(act + H, n),
                   g = load_upto(act + 2 * H, n), o = load_upto(act + 3 * H, n),
                   c = load_upto(p.c + at, n);
      const auto d = cell_backward(i, f, g, o, c, next_cell(i, f, g, c),
                                   p.grad_h ? load_upto(p.grad_h + at, n) : Vec<T>{},
                                   p.grad_c ? load_upto(p.grad_c + at, n) : Vec<T>{});
      store_upto(grad, d.i, n);
      store_upto(grad + H, d.f, n);
      store_upto(grad + 2 * H, d.g, n);
      store_upto(grad + 3 * H, d.o, n);
      store_upto(p.grad_c_prev + at, d.c_prev, n);
    }
  }
}
