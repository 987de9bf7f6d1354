// Launches a resident kernel, where ways.h says that one may serve and the device has the room.
#pragma once

#include <cstdlib>

#include "lstm.h"
#include "resident.cuh"
#include "ways.h"

namespace fastchar::cuda {

constexpr unsigned kMaxTeams = 65535;  // of a launch, along the grid's y

// One kernel and its launch: the blocks along x of one y are a team.
template <class Shape, class Exchange, class Params, auto kernel>
class Resident {
 public:
  using T = typename Shape::T;
  Resident(const Params& p, const SequenceTensors& tensors, const OnDevice& device)
      : p_(p),
        w_hh_(tensors.w_hh),
        device_(device),
        team_(blocks_for(p.H, Shape::kUnits)),
        teams_(blocks_for(p.B, Shape::kBatch)),
        at_once_(teams_ < kMaxTeams ? teams_ : kMaxTeams) {}

  // False, and nothing launched, if the device can't run it.
  bool launch() {
    constexpr int bytes = resident_shared_bytes<Shape, Exchange>();
    static_assert(bytes <= 163 * 1024, "what a block can have on sm_80");
    if (device_.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) < bytes) return false;
    config_.gridDim = dim3(team_, at_once_);
    config_.blockDim = dim3(kThreads);
    config_.dynamicSmemBytes = bytes;
    config_.stream = device_.stream();
    config_.attrs = &attribute_;
    const bool possible =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) ==
            cudaSuccess &&
        prepare();
    if (!possible) {
      cudaGetLastError();  // an answer, not a failure
      return false;
    }
    const Tensor weights = pack();
    for (unsigned first = 0; first < teams_; first += at_once_) {
      const unsigned count = at_once_ < teams_ - first ? at_once_ : teams_ - first;
      config_.gridDim = dim3(team_, count);
      run(static_cast<int>(first * Shape::kBatch), data<Fragment>(weights));
    }
    return true;
  }

 private:
  static constexpr bool kGrid = std::is_same_v<Exchange, GridExchange<Shape>>;
  static constexpr bool kCluster = std::is_same_v<Exchange, ClusterExchange<Shape>>;

  // Sets the launch's attribute, and at_once_; whether the device has the room.
  bool prepare() {
    if constexpr (kCluster) {
      attribute_.id = cudaLaunchAttributeClusterDimension;
      attribute_.val.clusterDim = {team_, 1, 1};
      config_.numAttrs = 1;
      int clusters = 0;
      return cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) ==
                 cudaSuccess &&
             cudaOccupancyMaxActiveClusters(&clusters, kernel, &config_) == cudaSuccess &&
             clusters > 0;
    }
    if constexpr (kGrid) {
      if (!device_.attribute(cudaDevAttrCooperativeLaunch)) return false;
      attribute_.id = cudaLaunchAttributeCooperative;
      attribute_.val.cooperative = 1;
      config_.numAttrs = 1;
      int per_sm = 0;
      if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(
              &per_sm, kernel, kThreads, config_.dynamicSmemBytes) != cudaSuccess) {
        return false;
      }
      const unsigned room = per_sm * device_.attribute(cudaDevAttrMultiProcessorCount) / team_;
      if (room < at_once_) at_once_ = room;
      return room > 0;
    }
    return true;
  }

  Tensor pack() const {
    constexpr int kFragments = Product<Shape>::kFragments;
    constexpr int64_t kElements = kFragments * kThreads * sizeof(Fragment) / sizeof(T);
    Tensor weights = torch::stable::new_empty(w_hh_, {team_ * kElements});
    pack_weights<Shape><<<dim3(team_, kFragments), kThreads, 0, config_.stream>>>(
        p_.w_hh, p_.H, reinterpret_cast<Fragment*>(mutable_data<T>(weights)));
    return weights;
  }

  // One launch, from sequence first_b on.
  void run(int first_b, const Fragment* weights) {
    const int64_t teams = config_.gridDim.y, last_b = first_b + teams * Shape::kBatch;
    const int end_b = last_b < p_.B ? static_cast<int>(last_b) : p_.B;
    typename Exchange::Params params{};
    cudaError_t error;
    if constexpr (kGrid) {
      Tensor tiles = torch::stable::new_empty(w_hh_, {teams * 2 * Exchange::kGlobalTile});
      Tensor flags = torch::stable::new_zeros(w_hh_, {teams * team_}, ScalarType::Int);
      params.tiles = mutable_data<T>(tiles);
      params.flags = mutable_data<int>(flags);
      error = cudaLaunchKernelEx(&config_, kernel, p_, weights, params, first_b, end_b);
    } else {
      error = cudaLaunchKernelEx(&config_, kernel, p_, weights, params, first_b, end_b);
    }
    check_launch("lstm_sequence", error);
  }

  const Params& p_;
  const Tensor& w_hh_;
  const OnDevice& device_;
  const unsigned team_, teams_;
  unsigned at_once_;
  cudaLaunchConfig_t config_{};
  cudaLaunchAttribute attribute_{};
};

// launch(way, hidden) -> whether it ran. `kernel` is any of the library's, which are all
// compiled for the same architectures.
template <class Kernel, class Launch>
bool launch_by_rule(int H, bool fp32, const OnDevice& device, Kernel* kernel,
                    const Launch& launch) {
  const Ways ways =
      ways_for(H, fp32, device.architecture(kernel), std::getenv("FASTCHAR_CUDA_LSTM"));
  for (int i = 0; i < ways.count; ++i) {
    if (launch(ways.way[i], ways.hidden)) return true;
  }
  return false;
}

}  // namespace fastchar::cuda
