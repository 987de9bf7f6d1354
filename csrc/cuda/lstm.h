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

// False, and nothing launched, where no resident kernel serves: the type, H, the device.
bool resident_forward_launch(const LstmSequenceParams<half>& p, const SequenceTensors& tensors,
                             const OnDevice& device);
bool resident_forward_launch(const LstmSequenceParams<bfloat16>& p,
                             const SequenceTensors& tensors, const OnDevice& device);
bool resident_backward_launch(const LstmSequenceBackwardParams<half>& p,
                              const SequenceTensors& tensors, const OnDevice& device);
bool resident_backward_launch(const LstmSequenceBackwardParams<bfloat16>& p,
                              const SequenceTensors& tensors, const OnDevice& device);

// fp32 and fp64 weights don't fit the tensor cores' fragments: a product per step.
template <class T>
bool resident_forward_launch(const LstmSequenceParams<T>&, const SequenceTensors&,
                             const OnDevice&) {
  return false;
}
template <class T>
bool resident_backward_launch(const LstmSequenceBackwardParams<T>&, const SequenceTensors&,
                              const OnDevice&) {
  return false;
}

}  // namespace fastchar::cuda
