// The forward kernels with a resident W_hh.
#include "resident_launch.h"

namespace fastchar::cuda {
namespace {

template <class T, int kHidden, int kBatch, template <class> class Exchange, class F>
void with(const LstmSequenceParams<T>& p, const SequenceTensors& tensors,
          const OnDevice& device, const F& f) {
  using Shape = ForwardShape<T, kHidden, kBatch>;
  Resident<Shape, Exchange<Shape>, LstmSequenceParams<T>,
           resident_forward<Shape, Exchange<Shape>>>
      resident(p, tensors, device);
  f(resident);
}

// How many sequences a block serves: two units for each thread at most, and tiles that fit the
// shared memory of sm_80 (163 KB).
template <class T>
bool launch_any(const LstmSequenceParams<T>& p, const SequenceTensors& tensors,
                const OnDevice& device) {
  constexpr bool kFp32 = sizeof(T) == 4;
  constexpr int kSmall = kFp32 ? 64 : 128;
  const auto kernel = pack_weights<ForwardShape<T, kSmall, 8>>;
  return launch_by_rule(p.B, p.H, kFp32, device, kernel, [&](Way way, int hidden, auto f) {
    if (way == Way::kBlock) return with<T, kSmall, 8, BlockExchange>(p, tensors, device, f);
    if (way == Way::kCluster) {
      if (hidden == 2 * kSmall) {
        return with<T, 2 * kSmall, 16, ClusterExchange>(p, tensors, device, f);
      }
      return with<T, 4 * kSmall, 16, ClusterExchange>(p, tensors, device, f);
    }
    if (hidden == 2 * kSmall)
      return with<T, 2 * kSmall, 8, GridExchange>(p, tensors, device, f);
    if (hidden == 4 * kSmall)
      return with<T, 4 * kSmall, 16, GridExchange>(p, tensors, device, f);
    return with<T, 8 * kSmall, kFp32 ? 16 : 32, GridExchange>(p, tensors, device, f);
  });
}

}  // namespace

bool resident_forward_launch(const LstmSequenceParams<half>& p, const SequenceTensors& tensors,
                             const OnDevice& device) {
  return launch_any(p, tensors, device);
}
bool resident_forward_launch(const LstmSequenceParams<bfloat16>& p,
                             const SequenceTensors& tensors, const OnDevice& device) {
  return launch_any(p, tensors, device);
}

bool resident_forward_launch(const LstmSequenceParams<float>& p, const SequenceTensors& tensors,
                             const OnDevice& device) {
  return tf32_allowed() && launch_any(p, tensors, device);
}

}  // namespace fastchar::cuda
