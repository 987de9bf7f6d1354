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
      row = p.ids[row];
      FASTCHAR_DEVICE_CHECK(row >= 0 && row < p.V);
    }
    const T* gates = p.gates + row * 4 * p.H + unit;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) input[gate] = gates[static_cast<int64_t>(gate) * p.H];
  }

  // recurrent: h_{t-1} W_hh^T. Past the end h and c stay.
  FASTCHAR_INLINE void step(const LstmSequenceParams<T>& p, int t, const T (&input)[4],
                            const Acc<T> (&recurrent)[4]) {
    CellState<Acc<T>> s{};
    const bool alive = t < length;
    if (alive) {
      s = cell_forward(widen(input[0]) + recurrent[0], widen(input[1]) + recurrent[1],
                       widen(input[2]) + recurrent[2], widen(input[3]) + recurrent[3], c);
      h = s.h;
      c = s.c;
    }
    const int64_t row = static_cast<int64_t>(t) * p.B + b, H = p.H;
    p.y[row * H + unit] = narrow<T>(s.h);
    if (!p.act) return;
    T* act = p.act + row * 4 * H + unit;
    act[0] = narrow<T>(s.i);
    act[H] = narrow<T>(s.f);
    act[2 * H] = narrow<T>(s.g);
    act[3 * H] = narrow<T>(s.o);
    p.cell[row * H + unit] = narrow<T>(s.c);
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

  // grad: of step t's pre-activations; zeros past the end, where dh and dc stay.
  FASTCHAR_INLINE void step(const LstmSequenceBackwardParams<T>& p, int t, T (&grad)[4]) {
    moved = t < length;
    const int64_t row = static_cast<int64_t>(t) * p.B + b, H = p.H;
    CellGrad<Acc<T>> d{};
    if (moved) {
      const int before = p.reverse ? t + 1 : t - 1;
      const T* c_prev = before >= 0 && before < length
                            ? p.cell + (static_cast<int64_t>(before) * p.B + b) * H
                            : p.c0 + b * H;
      const T* act = p.act + row * 4 * H + unit;
      const Acc<T> grad_h = p.grad_y ? dh + widen(p.grad_y[row * H + unit]) : dh;
      d = cell_backward(widen(act[0]), widen(act[H]), widen(act[2 * H]), widen(act[3 * H]),
                        widen(c_prev[unit]), widen(p.cell[row * H + unit]), grad_h, dc);
      dc = d.c_prev;
    }
    grad[0] = narrow<T>(d.i);
    grad[1] = narrow<T>(d.f);
    grad[2] = narrow<T>(d.g);
    grad[3] = narrow<T>(d.o);
    T* grad_gates = p.grad_gates + row * 4 * H + unit;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) grad_gates[gate * H] = grad[gate];
  }

  FASTCHAR_INLINE void end(const LstmSequenceBackwardParams<T>& p) const {
    const int64_t i = static_cast<int64_t>(b) * p.H + unit;
    if (p.grad_h0) p.grad_h0[i] = narrow<T>(dh);
    p.grad_c0[i] = narrow<T>(dc);
  }
};

}  // namespace fastchar::cuda
