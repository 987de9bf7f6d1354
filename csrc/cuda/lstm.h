// Between lstm.cu, which has the ops, and resident_*.cu, which have the kernels with a resident
// W_hh.
#pragma once

#include "launch.h"
#include "sequence.cuh"

namespace fastchar::cuda {

// The tensors behind the pointers of the parameters, where torch's operations want them.
struct SequenceTensors {
  const Tensor& w_hh;
  const Tensor* h0 = nullptr;
  Tensor* h_n = nullptr;
  Tensor* grad_gates = nullptr;
};

// Whether this thread's fp32 sequences may be computed as TF32.
bool tf32_allowed();

// False, and nothing launched, where no resident kernel serves: the type, H, the device.
bool resident_forward_launch(const LstmSequenceParams<half>& p, const SequenceTensors& tensors,
                             const OnDevice& device);
bool resident_forward_launch(const LstmSequenceParams<bfloat16>& p,
                             const SequenceTensors& tensors, const OnDevice& device);
bool resident_forward_launch(const LstmSequenceParams<float>& p, const SequenceTensors& tensors,
                             const OnDevice& device);
bool resident_backward_launch(const LstmSequenceBackwardParams<half>& p,
                              const SequenceTensors& tensors, const OnDevice& device);
bool resident_backward_launch(const LstmSequenceBackwardParams<bfloat16>& p,
                              const SequenceTensors& tensors, const OnDevice& device);
bool resident_backward_launch(const LstmSequenceBackwardParams<float>& p,
                              const SequenceTensors& tensors, const OnDevice& device);

// fp64 has no tensor cores here: a product per step.
inline bool resident_forward_launch(const LstmSequenceParams<double>&, const SequenceTensors&,
                                    const OnDevice&) {
  return false;
}
inline bool resident_backward_launch(const LstmSequenceBackwardParams<double>&,
                                     const SequenceTensors&, const OnDevice&) {
  return false;
}

}  // namespace fastchar::cuda
