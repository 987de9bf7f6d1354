// Launches a resident kernel, where ways.h says that one may serve and the device has the room.
#pragma once

#include <atomic>
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
      : p_(p), w_hh_(tensors.w_hh), device_(device), team_(blocks_for(p.H, Shape::kUnits)) {
    config_.gridDim = dim3(team_);
    config_.blockDim = dim3(kThreads);
    config_.dynamicSmemBytes = kBytes;
    config_.attrs = &attribute_;
    if constexpr (kCluster) {
      attribute_.id = cudaLaunchAttributeClusterDimension;
      attribute_.val.clusterDim = {team_, 1, 1};
      config_.numAttrs = 1;
    }
    if constexpr (kGrid) {
      attribute_.id = cudaLaunchAttributeCooperative;
      attribute_.val.cooperative = 1;
      config_.numAttrs = 1;
    }
    room_ = room();
    if (room_ > 0) tiling_ = tile_batch(p.B, Shape::kBatch, room_);
  }

  // Microseconds of a step by the model of ways.h; kNever if the device can't run it.
  double cost() const {
    if (room_ == 0) return kNever;
    constexpr Way kWay = kGrid ? Way::kGrid : kCluster ? Way::kCluster : Way::kBlock;
    return tiling_.rounds *
           round_cost(kWay, p_.H, sizeof(T) == 4, Shape::kBackward, tiling_.batch);
  }

  // Only where cost() is not kNever.
  void launch() {
    config_.stream = device_.stream();
    const Tensor weights = pack();
    const int64_t most = kGrid && room_ < kMaxTeams ? room_ : kMaxTeams;
    for (int64_t first = 0; first < tiling_.teams; first += most) {
      const int64_t left = tiling_.teams - first;
      config_.gridDim = dim3(team_, static_cast<unsigned>(left < most ? left : most));
      run(static_cast<int>(first * tiling_.batch), data<Fragment>(weights));
    }
  }

 private:
  static constexpr bool kGrid = std::is_same_v<Exchange, GridExchange<Shape>>;
  static constexpr bool kCluster = std::is_same_v<Exchange, ClusterExchange<Shape>>;
  static constexpr int kBytes = resident_shared_bytes<Shape, Exchange>();
  static_assert(kBytes <= 163 * 1024, "what a block can have on sm_80");

  // Teams that the device runs at once; 0 if it can't run one. Asked once per device and size
  // of team, since that takes longer than some sequences, and so is what has to be set for it.
  int room() const {
    constexpr int kDevices = 64, kBlocks = 64;
    static std::atomic<int> known[kDevices][kBlocks + 1];  // 1 more than the room; 0: not yet
    if (device_.index() >= kDevices || team_ > kBlocks) return find_room();
    std::atomic<int>& entry = known[device_.index()][team_];
    if (entry == 0) entry = find_room() + 1;
    return entry - 1;
  }

  int find_room() const {
    int found = 0;
    const bool possible =
        device_.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) >= kBytes &&
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes) ==
            cudaSuccess &&
        count_teams(found);
    if (possible) return found;
    cudaGetLastError();  // an answer, not a failure
    return 0;
  }

  bool count_teams(int& found) const {
    if constexpr (kCluster) {
      return cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) ==
                 cudaSuccess &&
             cudaOccupancyMaxActiveClusters(&found, kernel, &config_) == cudaSuccess;
    }
    if (kGrid && !device_.attribute(cudaDevAttrCooperativeLaunch)) return false;
    int per_sm = 0;
    if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, kThreads, kBytes) !=
        cudaSuccess) {
      return false;
    }
    found = per_sm * device_.attribute(cudaDevAttrMultiProcessorCount) / team_;
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
    const int64_t teams = config_.gridDim.y, last_b = first_b + teams * tiling_.batch;
    const int end_b = last_b < p_.B ? static_cast<int>(last_b) : p_.B;
    typename Exchange::Params params{};
    cudaError_t error;
    if constexpr (kGrid) {
      Tensor tiles = torch::stable::new_empty(w_hh_, {teams * 2 * Exchange::kGlobalTile});
      Tensor flags = torch::stable::new_empty(w_hh_, {teams * team_}, ScalarType::Int);
      params.tiles = mutable_data<T>(tiles);
      params.flags = mutable_data<int>(flags);
      // Before every launch, by a node of its own in a graph: a replay finds them at zero too.
      check_launch(
          "lstm_sequence",
          cudaMemsetAsync(params.flags, 0, teams * team_ * sizeof(int), config_.stream));
      error = cudaLaunchKernelEx(&config_, kernel, p_, weights, params, first_b, end_b,
                                 tiling_.batch);
    } else {
      error = cudaLaunchKernelEx(&config_, kernel, p_, weights, params, first_b, end_b,
                                 tiling_.batch);
    }
    check_launch("lstm_sequence", error);
  }

  const Params& p_;
  const Tensor& w_hh_;
  const OnDevice& device_;
  const unsigned team_;
  int room_;
  Tiling tiling_{};
  cudaLaunchConfig_t config_{};
  cudaLaunchAttribute attribute_{};
};

// The cheapest of the ways that may serve: false, and nothing launched, where that is a product
// per step. with(way, hidden, f) calls f with its Resident. `kernel` is any of the library's,
// which are all compiled for the same architectures.
template <class Kernel, class With>
bool launch_by_rule(int B, int H, bool fp32, const OnDevice& device, Kernel* kernel,
                    const With& with) {
  const Ways ways =
      ways_for(H, fp32, device.architecture(kernel), std::getenv("FASTCHAR_CUDA_LSTM"));
  double costs[2];
  for (int i = 0; i < ways.count; ++i) {
    with(ways.way[i], ways.hidden, [&](auto& resident) { costs[i] = resident.cost(); });
  }
  const int best = cheapest(ways, costs, ways.forced ? kNever : steps_cost(B, H));
  if (best < 0) return false;
  with(ways.way[best], ways.hidden, [](auto& resident) { resident.launch(); });
  return true;
}

}  // namespace fastchar::cuda
