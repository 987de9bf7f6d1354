// A whole, possibly ragged, LSTM sequence: its arguments, and what one hidden unit of one
// sequence does at one step. Who computes the recurrent product, and where h waits for it, is
// the business of steps.cuh (a product per step) and resident.cuh (W_hh stays on the chip).
#pragma once

#include "cell.cuh"

namespace fastchar::cuda {

template <class T>
struct LstmSequenceParams {
  const T* gates;          // [T, B, 4H] pre-activations, or the folded table [V, 4H] with ids
  const int64_t* ids;      // [T, B], or null
  const T* w_hh;           // [4H, H]
  const T* h0;             // [B, H]
  const T* c0;             // [B, H]
  const int64_t* lengths;  // [B] on the device, or null (all T)
  T* y;                    // [T, B, H], zeros past each end
  T* h_n;                  // [B, H]
  T* c_n;                  // [B, H]
  T* act;                  // [T, B, 4H] saved for backward, zeros past each end; or null
  T* cell;                 // [T, B, H] c_t likewise; null if and only if act is
  int steps, B, H;
  int64_t V;
  bool reverse;
};

template <class T>
struct LstmSequenceBackwardParams {
  const T* grad_y;         // [T, B, H] or null; not read past an end
  const T* grad_h_n;       // [B, H] or null
  const T* grad_c_n;       // [B, H] or null
  const T* act;            // [T, B, 4H]
  const T* cell;           // [T, B, H]
  const T* w_hh;           // [4H, H]
  const T* c0;             // [B, H]
  const int64_t* lengths;  // [B] on the device, or null
  T* grad_gates;           // [T, B, 4H], zeros past each end
  T* grad_h0;              // [B, H] or null; its product is made all the same, one of T
  T* grad_c0;              // [B, H]
  int steps, B, H;
  bool reverse;
};

template <class Params>
FASTCHAR_INLINE int length_of(const Params& p, int b) {
  if (!p.lengths) return p.steps;
  const int64_t length = p.lengths[b];
  return static_cast<int>(length < 0 ? 0 : length > p.steps ? p.steps : length);
}

// A unit's four gates, or their gradients, as they are stored and exchanged.
template <class T>
FASTCHAR_INLINE Pack<T, 4> narrow_gates(Gate<T> i, Gate<T> f, Gate<T> g, Gate<T> o) {
  const Gate<T> wide[4] = {i, f, g, o};
  Pack<T, 4> gates;
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    gates.value[gate] = narrow<T>(static_cast<Acc<T>>(wide[gate]));
  }
  return gates;
}

// A hidden unit of one sequence on its way through the steps.
template <class T>
struct ForwardUnit {
  int b, unit, length;
  Acc<T> h, c;

  FASTCHAR_INLINE void begin(const LstmSequenceParams<T>& p, int b_, int unit_) {
    b = b_;
    unit = unit_;
    length = length_of(p, b);
    h = widen(p.h0[static_cast<int64_t>(b) * p.H + unit]);
    c = widen(p.c0[static_cast<int64_t>(b) * p.H + unit]);
  }

  // The input's part of step t's pre-activations; nothing is read past the end.
  FASTCHAR_INLINE void load(const LstmSequenceParams<T>& p, int t, T (&input)[4]) const {
    if (t >= length) return;
    int64_t row = static_cast<int64_t>(t) * p.B + b;
    if (p.ids) {
      // A step is about as long as two reads one after the other, of which the first, of memory
      // that nobody has read yet, would be the longer one.
      constexpr int kAhead = 8;
      const int later = p.reverse ? t - kAhead : t + kAhead;
      if (later >= 0 && later < p.steps) {
        prefetch_to_l2(p.ids + static_cast<int64_t>(later) * p.B + b);
      }
      row = p.ids[row];
      FASTCHAR_DEVICE_CHECK(row >= 0 && row < p.V);
    }
    const T* gates = p.gates + row * 4 * p.H + unit;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) input[gate] = gates[static_cast<int64_t>(gate) * p.H];
  }

  // recurrent: h_{t-1} W_hh^T. Past the end h and c stay. gates: after activation.
  FASTCHAR_INLINE void step(int t, const T (&input)[4], const Acc<T> (&recurrent)[4],
                            Pack<T, 4>& gates) {
    if (t >= length) return;
    using G = Gate<T>;
    const CellState<G> s = cell_forward(
        G(widen(input[0]) + recurrent[0]), G(widen(input[1]) + recurrent[1]),
        G(widen(input[2]) + recurrent[2]), G(widen(input[3]) + recurrent[3]), G(c));
    h = static_cast<Acc<T>>(s.h);
    c = static_cast<Acc<T>>(s.c);
    gates = narrow_gates<T>(s.i, s.f, s.g, s.o);
  }

  // What step t leaves: its outputs, zeros past the end. Apart from `step`, so that the other
  // blocks need not wait for it.
  FASTCHAR_INLINE void store(const LstmSequenceParams<T>& p, int t,
                             const Pack<T, 4>& gates) const {
    const bool alive = t < length;
    const T zero = narrow<T>(Acc<T>(0));
    const int64_t row = static_cast<int64_t>(t) * p.B + b, H = p.H;
    p.y[row * H + unit] = alive ? narrow<T>(h) : zero;
    if (!p.act) return;
    T* act = p.act + row * 4 * H + unit;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) act[gate * H] = alive ? gates.value[gate] : zero;
    p.cell[row * H + unit] = alive ? narrow<T>(c) : zero;
  }

  FASTCHAR_INLINE void end(const LstmSequenceParams<T>& p) const {
    p.h_n[static_cast<int64_t>(b) * p.H + unit] = narrow<T>(h);
    p.c_n[static_cast<int64_t>(b) * p.H + unit] = narrow<T>(c);
  }
};

// The same on the way back. dh and dc are with respect to h and c after the step that comes
// next.
template <class T>
struct BackwardUnit {
  int b, unit, length;
  Acc<T> dh, dc;
  bool moved;  // the last step was one of the sequence's: its product is the new dh

  FASTCHAR_INLINE void begin(const LstmSequenceBackwardParams<T>& p, int b_, int unit_) {
    b = b_;
    unit = unit_;
    length = length_of(p, b);
    const int64_t i = static_cast<int64_t>(b) * p.H + unit;
    dh = p.grad_h_n ? widen(p.grad_h_n[i]) : Acc<T>(0);
    dc = p.grad_c_n ? widen(p.grad_c_n[i]) : Acc<T>(0);
    moved = false;
  }

  // recurrent: what the last step's gate gradients give to h before it.
  FASTCHAR_INLINE void receive(Acc<T> recurrent) {
    if (moved) dh = recurrent;
  }

  // What step t reads from memory; nothing is read past the end.
  struct Input {
    T act[4], c_prev, c, grad_y;
  };
  FASTCHAR_INLINE void load(const LstmSequenceBackwardParams<T>& p, int t, Input& in) const {
    if (t >= length) return;
    const int64_t row = static_cast<int64_t>(t) * p.B + b, H = p.H;
    const T* act = p.act + row * 4 * H + unit;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) in.act[gate] = act[gate * H];
    const int before = p.reverse ? t + 1 : t - 1;
    const T* c_prev = before >= 0 && before < length
                          ? p.cell + (static_cast<int64_t>(before) * p.B + b) * H
                          : p.c0 + static_cast<int64_t>(b) * H;
    in.c_prev = c_prev[unit];
    in.c = p.cell[row * H + unit];
    in.grad_y = p.grad_y ? p.grad_y[row * H + unit] : narrow<T>(Acc<T>(0));
  }

  // grad: of step t's pre-activations; zeros past the end, where dh and dc stay.
  FASTCHAR_INLINE void step(int t, const Input& in, Pack<T, 4>& grad) {
    moved = t < length;
    if (!moved) {
#pragma unroll
      for (int gate = 0; gate < 4; ++gate) grad.value[gate] = narrow<T>(Acc<T>(0));
      return;
    }
    using G = Gate<T>;
    const CellGrad<G> d = cell_backward(
        G(widen(in.act[0])), G(widen(in.act[1])), G(widen(in.act[2])), G(widen(in.act[3])),
        G(widen(in.c_prev)), G(widen(in.c)), G(dh + widen(in.grad_y)), G(dc));
    dc = static_cast<Acc<T>>(d.c_prev);
    grad = narrow_gates<T>(d.i, d.f, d.g, d.o);
  }

  // Apart from `step`, so that the other blocks need not wait for it.
  FASTCHAR_INLINE void store(const LstmSequenceBackwardParams<T>& p, int t,
                             const Pack<T, 4>& grad) const {
    const int64_t row = static_cast<int64_t>(t) * p.B + b, H = p.H;
    T* grad_gates = p.grad_gates + row * 4 * H + unit;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) grad_gates[gate * H] = grad.value[gate];
  }

  FASTCHAR_INLINE void end(const LstmSequenceBackwardParams<T>& p) const {
    const int64_t i = static_cast<int64_t>(b) * p.H + unit;
    if (p.grad_h0) p.grad_h0[i] = narrow<T>(dh);
    p.grad_c0[i] = narrow<T>(dc);
  }
};

}  // namespace fastchar::cuda
