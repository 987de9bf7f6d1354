// The backward kernels with a resident W_hh.
#include "resident_launch.h"

namespace fastchar::cuda {
namespace {

template <class T, int kHidden, int kBatch, template <class> class Exchange, class F>
void with(const LstmSequenceBackwardParams<T>& p, const SequenceTensors& tensors,
          const OnDevice& device, const F& f) {
  using Shape = BackwardShape<T, kHidden, kBatch>;
  Resident<Shape, Exchange<Shape>, LstmSequenceBackwardParams<T>,
           resident_backward<Shape, Exchange<Shape>>>
      resident(p, tensors, device);
  f(resident);
}

// How many sequences a block serves: one unit for each thread (two where a team is one block,
// the registers of a second unit's inputs being there), and tiles that fit the shared memory of
// sm_80 (163 KB).
template <class T>
bool launch_any(const LstmSequenceBackwardParams<T>& p, const SequenceTensors& tensors,
                const OnDevice& device) {
  constexpr bool kFp32 = sizeof(T) == 4;
  constexpr int kSmall = kFp32 ? 64 : 128;
  const auto kernel = pack_weights<BackwardShape<T, kSmall, 8>>;
  return launch_by_rule(p.B, p.H, kFp32, device, kernel, [&](Way way, int hidden, auto f) {
    if (way == Way::kBlock) return with<T, kSmall, 8, BlockExchange>(p, tensors, device, f);
    if (way == Way::kCluster) {
      if (hidden == 2 * kSmall) {
        return with<T, 2 * kSmall, 8, ClusterExchange>(p, tensors, device, f);
      }
      return with<T, 4 * kSmall, 16, ClusterExchange>(p, tensors, device, f);
    }
    if (hidden == 2 * kSmall)
      return with<T, 2 * kSmall, 8, GridExchange>(p, tensors, device, f);
    if (hidden == 4 * kSmall)
      return with<T, 4 * kSmall, 16, GridExchange>(p, tensors, device, f);
    return with<T, 8 * kSmall, 16, GridExchange>(p, tensors, device, f);
  });
}

}  // namespace

bool resident_backward_launch(const LstmSequenceBackwardParams<half>& p,
                              const SequenceTensors& tensors, const OnDevice& device) {
  return launch_any(p, tensors, device);
}
bool resident_backward_launch(const LstmSequenceBackwardParams<bfloat16>& p,
                              const SequenceTensors& tensors, const OnDevice& device) {
  return launch_any(p, tensors, device);
}

bool resident_backward_launch(const LstmSequenceBackwardParams<float>& p,
                              const SequenceTensors& tensors, const OnDevice& device) {
  return tf32_allowed() && launch_any(p, tensors, device);
}

}  // namespace fastchar::cuda
