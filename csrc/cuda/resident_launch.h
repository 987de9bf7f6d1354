// Chooses and launches a resident kernel. The rule, for fp16 and bf16 on sm_80 and newer:
//
//   H <= 128                   block    one block per batch tile
//   H <= 512, sm_90 on         cluster  a thread-block cluster per batch tile
//   H <= 1024                  grid     a cooperative grid, as many batch tiles at once as fit
//   else, or where the device lacks the shared memory or the room: a product per step
//
// FASTCHAR_CUDA_LSTM = block | cluster | grid | steps forces one, for tests; an error if it
// can't be.
#pragma once

#include <cstdlib>
#include <cstring>

#include "lstm.h"
#include "resident.cuh"

namespace fastchar::cuda {

enum class Way { kBlock, kCluster, kGrid, kSteps };

// The forced way; false if none is.
inline bool forced_way(Way* way) {
  const char* name = std::getenv("FASTCHAR_CUDA_LSTM");
  if (!name || !*name) return false;
  const char* names[] = {"block", "cluster", "grid", "steps"};
  for (int i = 0; i < 4; ++i) {
    if (std::strcmp(name, names[i])) continue;
    *way = static_cast<Way>(i);
    return true;
  }
  throw std::runtime_error(
      std::string("FASTCHAR_CUDA_LSTM: expected block, cluster, grid or steps, got ") + name);
}

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
        at_once_(teams_) {}

  // False, and nothing launched, if the device can't run it.
  bool launch() {
    constexpr int bytes = resident_shared_bytes<Shape, Exchange>();
    static_assert(bytes <= 163 * 1024, "what a block can have on sm_80");
    if (device_.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) < bytes) return false;
    config_.gridDim = dim3(team_, teams_);
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
      if (device_.attribute(cudaDevAttrComputeCapabilityMajor) < 9) return false;
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
      if (room < teams_) at_once_ = room;
      return room > 0;
    }
    return true;
  }

  Tensor pack() const {
    constexpr int kFragments = Shape::kTilesM * Shape::kTilesK;
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

// launch(way, parts) -> whether it ran; tries what the rule says for this H and device.
template <class Launch>
bool launch_by_rule(int H, const OnDevice& device, const Launch& launch) {
  const bool tensor_cores = device.attribute(cudaDevAttrComputeCapabilityMajor) >= 8;
  const int parts = H <= 128 ? 1 : H <= 256 ? 2 : H <= 512 ? 4 : 8;
  const int shared = parts < 2 ? 2 : parts;  // a team of several blocks
  Way way;
  if (forced_way(&way)) {
    if (way == Way::kSteps) return false;
    if (tensor_cores && H <= 1024 && launch(way, way == Way::kBlock ? parts : shared))
      return true;
    throw std::runtime_error(
        "fastchar::lstm_sequence: FASTCHAR_CUDA_LSTM forces a kernel that doesn't serve this "
        "size, type or device");
  }
  if (!tensor_cores || H > 1024) return false;
  if (parts == 1) return launch(Way::kBlock, 1);
  return launch(Way::kCluster, parts) || launch(Way::kGrid, parts);
}

}  // namespace fastchar::cuda
