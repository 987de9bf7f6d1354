// Threads for the launchers, out of torch's own pool (torch.set_num_threads is obeyed; inside a
// DataLoader worker or another parallel region everything runs serially).
#pragma once

#include <torch/csrc/stable/ops.h>
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

#include "cpu/team.h"

namespace fastchar {

// The size of a team for `work`, of which each member has `least` or more.
inline int64_t team_size(int64_t work, int64_t least) {
  return std::clamp<int64_t>(work / least, 1,
                             static_cast<int64_t>(torch::stable::get_num_threads()));
}

// Runs body(Team) on every member of a team of at most `max_size` threads.
//
// torch::stable::parallel_for hands out ranges, not thread numbers, and may give fewer threads
// than asked for (one, inside another parallel region). A barrier sized for threads that never
// come would hang, so the size is derived from the range of the member that starts at 0, which
// publishes it before anybody can wait.
template <class Body>
void run_team(int64_t max_size, const Body& body) {
  const int64_t wanted =
      std::min<int64_t>(max_size, static_cast<int64_t>(torch::stable::get_num_threads()));
  if (wanted <= 1) {
    SpinBarrier barrier(1);
    body(Team{0, 1, &barrier});
    return;
  }
  // Storage for the barrier, constructed by the first member once the size is known.
  alignas(SpinBarrier) unsigned char storage[sizeof(SpinBarrier)];
  std::atomic<int64_t> chunk{0};
  torch::stable::parallel_for(0, wanted, 1, [&](int64_t begin, int64_t end) {
    if (begin == 0) {
      new (storage) SpinBarrier(static_cast<int>((wanted + end - 1) / end));
      chunk.store(end, std::memory_order_release);
    }
    int64_t per_member;
    while ((per_member = chunk.load(std::memory_order_acquire)) == 0) sched_yield();
    const int size = static_cast<int>((wanted + per_member - 1) / per_member);
    body(Team{static_cast<int>(begin / per_member), size,
              reinterpret_cast<SpinBarrier*>(storage)});
  });
}

// body(begin, end) over [0, n) in parallel; no member waits for another.
template <class Body>
void parallel_range(int64_t n, int64_t grain, const Body& body) {
  torch::stable::parallel_for(0, n, grain, body);
}

}  // namespace fastchar
