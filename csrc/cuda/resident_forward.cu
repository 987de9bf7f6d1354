// The forward kernels with a resident W_hh.
#include "resident_launch.h"

namespace fastchar::cuda {
namespace {

template <class T, int kParts, int kBatch, template <class> class Exchange>
bool launch(const LstmSequenceParams<T>& p, const SequenceTensors& tensors,
            const OnDevice& device) {
  using Shape = ForwardShape<T, kParts, kBatch>;
  return Resident<Shape, Exchange<Shape>, LstmSequenceParams<T>,
                  resident_forward<Shape, Exchange<Shape>>>(p, tensors, device)
      .launch();
}

// How many sequences a block serves: two units for each thread at most, and tiles that fit the
// shared memory of sm_80 (163 KB).
template <class T>
bool launch_any(const LstmSequenceParams<T>& p, const SequenceTensors& tensors,
                const OnDevice& device) {
  const auto kernel = pack_weights<ForwardShape<T, 1, 8>>;
  return launch_by_rule(p.H, device, kernel, [&](Way way, int parts) {
    if (way == Way::kBlock) {
      return parts == 1 && launch<T, 1, 8, BlockExchange>(p, tensors, device);
    }
    if (way == Way::kCluster) {
      if (parts == 2) return launch<T, 2, 16, ClusterExchange>(p, tensors, device);
      return parts == 4 && launch<T, 4, 16, ClusterExchange>(p, tensors, device);
    }
    if (parts == 2) return launch<T, 2, 8, GridExchange>(p, tensors, device);
    if (parts == 4) return launch<T, 4, 16, GridExchange>(p, tensors, device);
    return launch<T, 8, 32, GridExchange>(p, tensors, device);
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

}  // namespace fastchar::cuda
