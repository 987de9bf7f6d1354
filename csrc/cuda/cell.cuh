// One step of the LSTM cell on pre-activations, and its gradient. One thread per unit.
#pragma once

#include "compat.cuh"

namespace fastchar::cuda {

#include "../cell_math.h"

constexpr int kPointwiseThreads = 256;

template <class T>
struct LstmCellParams {
  const T* gates;  // [B, 4H]
  const T* c;      // [B, H]
  T* h_new;        // [B, H]
  T* c_new;        // [B, H]
  T* act;          // [B, 4H], the gates after sigmoid / tanh
  int64_t B, H;
};

template <class T>
struct LstmCellBackwardParams {
  const T* grad_h;  // [B, H] or null (zeros)
  const T* grad_c;  // [B, H] or null (zeros)
  const T* act;     // [B, 4H]
  const T* c;       // [B, H], before the step
  T* grad_gates;    // [B, 4H]
  T* grad_c_prev;   // [B, H]
  int64_t B, H;
};

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads) cell_step(LstmCellParams<T> p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPointwiseThreads + threadIdx.x;
  if (i >= p.B * p.H) return;
  const int64_t first = i / p.H * 4 * p.H + i % p.H;  // of the unit's four gates, H apart
  const T* gates = p.gates + first;
  const CellState<Acc<T>> s =
      cell_forward(widen(gates[0]), widen(gates[p.H]), widen(gates[2 * p.H]),
                   widen(gates[3 * p.H]), widen(p.c[i]));
  T* act = p.act + first;
  act[0] = narrow<T>(s.i);
  act[p.H] = narrow<T>(s.f);
  act[2 * p.H] = narrow<T>(s.g);
  act[3 * p.H] = narrow<T>(s.o);
  p.c_new[i] = narrow<T>(s.c);
  p.h_new[i] = narrow<T>(s.h);
}

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads)
    cell_step_backward(LstmCellBackwardParams<T> p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPointwiseThreads + threadIdx.x;
  if (i >= p.B * p.H) return;
  const int64_t first = i / p.H * 4 * p.H + i % p.H;
  const T* act = p.act + first;
  const Acc<T> gate_i = widen(act[0]), gate_f = widen(act[p.H]), gate_g = widen(act[2 * p.H]),
               c = widen(p.c[i]);
  const CellGrad<Acc<T>> d = cell_backward(
      gate_i, gate_f, gate_g, widen(act[3 * p.H]), c, next_cell(gate_i, gate_f, gate_g, c),
      p.grad_h ? widen(p.grad_h[i]) : Acc<T>(0), p.grad_c ? widen(p.grad_c[i]) : Acc<T>(0));
  T* grad_gates = p.grad_gates + first;
  grad_gates[0] = narrow<T>(d.i);
  grad_gates[p.H] = narrow<T>(d.f);
  grad_gates[2 * p.H] = narrow<T>(d.g);
  grad_gates[3 * p.H] = narrow<T>(d.o);
  p.grad_c_prev[i] = narrow<T>(d.c_prev);
}

}  // namespace fastchar::cuda
