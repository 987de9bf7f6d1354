// The sequence with one product per step, made by somebody else (torch's GEMM): what is left of
// a step is pointwise. Any type, any size. One thread per unit; its state waits in global
// memory.
//
//   forward:   recurrent = h W_hh^T, forward_step, and so on; h is h0, and from then on h_n
//   backward:  backward_step (the first without a recurrent part), recurrent =
//              grad_gates[t] W_hh, and so on; at the end backward_end
#pragma once

#include "sequence.cuh"

namespace fastchar::cuda {

// recurrent [B, 4H]; c [B, H] is read unless `first`. Writes h to p.h_n and c to both c and
// p.c_n.
template <class T>
__global__ void __launch_bounds__(kPointwiseThreads)
    forward_step(LstmSequenceParams<T> p, const T* recurrent, Acc<T>* c, int t, bool first) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPointwiseThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(p.B) * p.H) return;
  ForwardUnit<T> unit;
  unit.begin(p, static_cast<int>(i / p.H), static_cast<int>(i % p.H));
  if (!first) {
    unit.h = widen(p.h_n[i]);
    unit.c = c[i];
  }
  T input[4];
  unit.load(p, t, input);
  const T* from = recurrent + static_cast<int64_t>(unit.b) * 4 * p.H + unit.unit;
  Acc<T> part[4];
  for (int gate = 0; gate < 4; ++gate)
    part[gate] = widen(from[gate * static_cast<int64_t>(p.H)]);
  Pack<T, 4> gates;
  unit.step(t, input, part, gates);
  unit.store(p, t, gates);
  unit.end(p);
  c[i] = unit.c;
}

// What a unit carries from step to step.
template <class T>
FASTCHAR_INLINE BackwardUnit<T> resume(const LstmSequenceBackwardParams<T>& p,
                                       const T* recurrent, const Acc<T>* dh, const Acc<T>* dc,
                                       int last_t, int64_t i) {
  BackwardUnit<T> unit;
  unit.begin(p, static_cast<int>(i / p.H), static_cast<int>(i % p.H));
  if (recurrent) {
    unit.dh = dh[i];
    unit.dc = dc[i];
    unit.moved = last_t < unit.length;
    unit.receive(widen(recurrent[i]));
  }
  return unit;
}

// recurrent [B, H]: of the step before in this order, last_t; null for the first. dh and dc
// [B, H].
template <class T>
__global__ void __launch_bounds__(kPointwiseThreads)
    backward_step(LstmSequenceBackwardParams<T> p, const T* recurrent, Acc<T>* dh, Acc<T>* dc,
                  int t, int last_t) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPointwiseThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(p.B) * p.H) return;
  BackwardUnit<T> unit = resume(p, recurrent, dh, dc, last_t, i);
  typename BackwardUnit<T>::Input in;
  unit.load(p, t, in);
  Pack<T, 4> grad;
  unit.step(t, in, grad);
  unit.store(p, t, grad);
  dh[i] = unit.dh;
  dc[i] = unit.dc;
}

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads)
    backward_end(LstmSequenceBackwardParams<T> p, const T* recurrent, const Acc<T>* dh,
                 const Acc<T>* dc, int last_t) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPointwiseThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(p.B) * p.H) return;
  resume(p, recurrent, dh, dc, last_t, i).end(p);
}

}  // namespace fastchar::cuda
