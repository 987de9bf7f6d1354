// A team of threads that works on one call: a rank, a size and one barrier. Knows nothing of
// torch: csrc/parallel.h makes teams out of torch's own thread pool.
#pragma once

#include <sched.h>
#include <atomic>
#include <cstdint>

namespace fastchar {

// Spin barrier that counts its generations, cheap enough for one wait per time step: to sleep
// and be woken can take longer than the step. But a machine with fewer cores free than threads
// must make progress too: after kSpins rounds the waiter yields its core.
class SpinBarrier {
 public:
  explicit SpinBarrier(int size) : size_(size) {}

  void wait() {
    if (size_ == 1) return;
    const int generation = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; generation_.load(std::memory_order_acquire) == generation;) {
      if (++spins < kSpins) {
        pause();
      } else {
        spins = 0;
        sched_yield();
      }
    }
  }

 private:
  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  static constexpr int kSpins = 1024;
  // A cache line each: arrivals must not disturb those who spin on the generation.
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> generation_{0};
  alignas(64) const int size_;
};

// One member of a team. `barrier` is shared by all `size` members and outlives the call.
struct Team {
  int rank;
  int size;
  SpinBarrier* barrier;

  // This member's contiguous share [begin, end) of n items; shares differ by at most one item.
  int64_t begin(int64_t n) const { return n * rank / size; }
  int64_t end(int64_t n) const { return n * (rank + 1) / size; }
};

}  // namespace fastchar
