// The LSTM cell's arithmetic, the same for every kernel. V is a vector of a CPU instruction set
// or CUDA's float; whoever includes this has declared sigmoid(V), tanh(V), fma(V, V, V) and
// FASTCHAR_INLINE. Included inside the namespace of its user.
//
//   i, f, o = sigmoid(pre-activations), g = tanh(pre-activation)
//   c' = f c + i g          h' = o tanh(c')

template <class V>
struct CellGates {
  V i, f, g, o;  // after activation
  V c;           // after the step
};

template <class V>
struct CellState : CellGates<V> {
  V h;  // after the step
};

// c' alone, to the bit: backward makes it again, so that nobody has to keep it unchanged.
template <class V>
FASTCHAR_INLINE V next_cell(V i, V f, V g, V c) {
  return fma(f, c, i * g);
}

template <class V>
FASTCHAR_INLINE CellGates<V> cell_gates(V pre_i, V pre_f, V pre_g, V pre_o, V c) {
  CellGates<V> s;
  s.i = sigmoid(pre_i);
  s.f = sigmoid(pre_f);
  s.g = tanh(pre_g);
  s.o = sigmoid(pre_o);
  s.c = next_cell(s.i, s.f, s.g, c);
  return s;
}

template <class V>
FASTCHAR_INLINE V cell_output(V o, V c) {
  return o * tanh(c);
}

template <class V>
FASTCHAR_INLINE CellState<V> cell_forward(V pre_i, V pre_f, V pre_g, V pre_o, V c) {
  CellState<V> s;
  static_cast<CellGates<V>&>(s) = cell_gates(pre_i, pre_f, pre_g, pre_o, c);
  s.h = cell_output(s.o, s.c);
  return s;
}

template <class V>
struct CellGrad {
  V i, f, g, o;  // with respect to the pre-activations
  V c_prev;      // with respect to c before the step
};

// c is after the step, c_prev before it; grad_h and grad_c are with respect to h' and c'.
//   dc = grad_c + grad_h o (1 - tanh(c')^2)
//   di = dc g i (1 - i)   df = dc c_prev f (1 - f)   dg = dc i (1 - g^2)
//   do = grad_h tanh(c') o (1 - o)                   dc_prev = dc f
template <class V>
FASTCHAR_INLINE CellGrad<V> cell_backward(V i, V f, V g, V o, V c_prev, V c, V grad_h,
                                          V grad_c) {
  const V tanh_c = tanh(c);
  const V grad_h_o = grad_h * o;
  const V dc = grad_c + fma(-tanh_c * tanh_c, grad_h_o, grad_h_o);
  const V dc_i = dc * i;
  const V dc_f = dc * f;
  const V grad_o = grad_h_o * tanh_c;
  CellGrad<V> d;
  d.i = fma(-i, g, g) * dc_i;
  d.f = fma(-f, c_prev, c_prev) * dc_f;
  d.g = fma(-g * g, dc_i, dc_i);
  d.o = fma(-o, grad_o, grad_o);
  d.c_prev = dc_f;
  return d;
}
