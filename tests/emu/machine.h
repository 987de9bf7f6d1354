// The emulated GPU: threads as fibers, a seeded random scheduler, blocks with shared memory of
// their own, clusters of blocks. A thread runs until it synchronises; then any other ready
// thread may go on, of any block, so an order that the kernel doesn't force comes out
// differently from one seed to the next. Blocks are alive together, up to `resident` of them
// (0: all, as a cooperative grid has).
//
// Found here: a deadlock (every thread waits), a hang (flags polled and never set), threads of
// a warp that meet in different operations, threads that end between a barrier's two halves.
// Left to AddressSanitizer: reads and writes outside of shared memory, also of a cluster's
// block that has ended. To ThreadSanitizer: races.
#pragma once

#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "context.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emu {

inline constexpr int kWarp = 32;

struct Thread;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::_Exit(3);
}

// Everybody waits until all have come; an exiting thread counts as come from then on. In two
// halves: arrive() gives what wait() is told. (Its functions: meetings.h.)
class Barrier {
 public:
  void join() { ++expected_; }
  inline void leave();
  inline unsigned arrive();
  inline void wait(unsigned phase);
  void arrive_and_wait() { wait(arrive()); }

 private:
  inline void release();
  int expected_ = 0, arrived_ = 0;
  unsigned phase_ = 0;  // how often all have come
  std::vector<Thread*> waiting_;
};

// What the threads of a warp give each other: each lane's value, at most 32 bytes of it.
struct Meeting {
  static constexpr int kBytes = 32;
  struct Round {
    alignas(16) unsigned char value[kWarp][kBytes];
  };
  Round rounds[2];  // a lane may be one meeting ahead of another that still reads
  const char* operation = nullptr;
  unsigned arrived = 0;
  int round = 0;
  std::vector<Thread*> waiting;
};

struct Cluster {
  Barrier barrier;
  std::vector<struct Block*> blocks;
};

struct Block {
  dim3 index;
  unsigned number = 0;
  int rank_in_cluster = 0;
  std::shared_ptr<Cluster> cluster;
  Barrier barrier;
  std::vector<unsigned> alive_lanes;                  // by warp
  std::vector<std::map<unsigned, Meeting>> meetings;  // by warp, then by mask
  std::unique_ptr<unsigned char[]> dynamic_shared;    // its exact size, for AddressSanitizer
  size_t dynamic_bytes = 0;
  std::map<const void*, std::unique_ptr<unsigned char[]>> static_shared;
  int running = 0;
};

struct Thread {
  Thread(std::unique_ptr<Stack> own, void (*entry)())
      : stack(std::move(own)), context(*stack, entry) {}
  std::unique_ptr<Stack> stack;
  Context context;
  dim3 index;
  Block* block = nullptr;
  int warp = 0, lane = 0;
  bool arrived = false;  // at the cluster's barrier, without having waited
  unsigned phase = 0;    // of that arrival
};

struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
  unsigned cluster = 1;     // blocks along x
  unsigned resident = 0;    // blocks alive at once; 0: all
};

// Order for ThreadSanitizer, where the GPU's memory model has it.
inline void publish_order([[maybe_unused]] void* object) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(object);
#endif
}
inline void observe_order([[maybe_unused]] void* object) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(object);
#endif
}

class Machine {
 public:
  static Machine& get() {
    static Machine machine;
    return machine;
  }

  void seed(uint64_t seed) { random_.seed(seed); }
  Thread& current() { return *current_; }
  const Launch& config() const { return config_; }

  // The kernel's call with its arguments bound, on every thread of the grid.
  void run(const Launch& config, std::function<void()> kernel) {
    const Unobserved scope;
    config_ = config;
    kernel_ = std::move(kernel);
    next_block_ = 0;
    polls_ = 0;
    const unsigned blocks = config.grid.x * config.grid.y * config.grid.z;
    if (config.grid.x % config.cluster) fail("the grid's x is not a multiple of the cluster");
    resident_ = config.resident ? config.resident : blocks;
    for (unsigned b = 0; b < resident_ && next_block_ < blocks; b += config.cluster)
      add_cluster();
    if (!ready_.empty()) {
      current_ = take_ready();
      host_.switch_to(current_->context, false);
      current_ = nullptr;
      reap();
    }
    blocks_.clear();
    observe_order(this);
  }

  void make_ready(Thread* thread) { ready_.push_back(thread); }

  // The current thread waits until somebody makes it ready again.
  void wait() {
    const Unobserved scope;
    if (ready_.empty()) fail("deadlock: every thread waits at a barrier or in its warp");
    Thread* self = current_;
    Thread* next = take_ready();
    if (next == self) return;
    current_ = next;
    self->context.switch_to(next->context, false);
  }

  // The current thread stays ready, and another one may run.
  void yield() {
    const Unobserved scope;
    make_ready(current_);
    wait();
  }

  // One look at a flag that somebody else is to set.
  void poll() {
    const Unobserved scope;
    if (++polls_ > 20'000'000) fail("hang: a flag is polled and never set");
    yield();
  }

 private:
  static void entry() {
    Context::arrived();
    get().kernel_();
    get().exit();
  }

  void exit() {
    publish_order(this);
    Thread* self = current_;
    Context* next = end_thread(self);
    self->context.switch_to(*next, true);
  }

  // Where to go on once `self` has ended.
  Context* end_thread(Thread* self) {
    const Unobserved scope;
    Block* block = self->block;
    if (self->arrived) fail("a thread ends between cluster_arrive and cluster_wait");
    block->alive_lanes[self->warp] &= ~(1u << self->lane);
    block->barrier.leave();
    block->cluster->barrier.leave();
    finished_.push_back(self);
    --alive_;
    if (--block->running == 0) end_block(block);
    if (ready_.empty()) {
      if (alive_) fail("deadlock: the others wait for threads that have ended");
      return &host_;
    }
    current_ = take_ready();
    return &current_->context;
  }

  // Any of the ready threads; but three in four, by block and by warp, are slow for a while, so
  // that some run far ahead of others.
  Thread* take_ready() {
    if (epoch_left_-- == 0) {
      epoch_ = random_();
      epoch_left_ = random_() % (1u << random_() % 15);  // of all sizes
    }
    size_t i = random_() % ready_.size();
    for (int tries = 0; tries < 16 && slow(*ready_[i]); ++tries) i = random_() % ready_.size();
    Thread* thread = ready_[i];
    ready_[i] = ready_.back();
    ready_.pop_back();
    return thread;
  }

  bool slow(const Thread& thread) const {
    const auto bit = [&](uint64_t id) { return (id + 1) * 0x9E3779B97F4A7C15u * epoch_ >> 63; };
    const uint64_t block = thread.block->number;
    return bit(block) || bit(block << 32 | (thread.warp + 1));
  }

  // A block that ended loses its shared memory, and if its whole cluster did, the next may
  // come.
  void end_block(Block* block) {
    block->dynamic_shared.reset();
    block->static_shared.clear();
    for (Block* peer : block->cluster->blocks) {
      if (peer->running) return;
    }
    if (next_block_ < config_.grid.x * config_.grid.y * config_.grid.z) add_cluster();
  }

  void add_cluster() {
    auto cluster = std::make_shared<Cluster>();
    for (unsigned rank = 0; rank < config_.cluster; ++rank) {
      auto block = std::make_unique<Block>();
      const unsigned i = next_block_++;
      block->number = i;
      block->index = dim3(i % config_.grid.x, i / config_.grid.x % config_.grid.y,
                          i / config_.grid.x / config_.grid.y);
      block->rank_in_cluster = rank;
      block->cluster = cluster;
      cluster->blocks.push_back(block.get());
      // Whatever was there before: here, NaN.
      block->dynamic_bytes = config_.shared_bytes;
      block->dynamic_shared.reset(new unsigned char[config_.shared_bytes]);
      std::memset(block->dynamic_shared.get(), 0xFF, config_.shared_bytes);
      add_threads(block.get());
      blocks_.push_back(std::move(block));
    }
  }

  void add_threads(Block* block) {
    const dim3 size = config_.block;
    const unsigned count = size.x * size.y * size.z;
    block->alive_lanes.assign((count + kWarp - 1) / kWarp, 0);
    block->meetings.resize(block->alive_lanes.size());
    block->running = count;
    reap();
    alive_ += count;
    for (unsigned i = 0; i < count; ++i) {
      std::unique_ptr<Stack> stack;
      if (stacks_.empty()) {
        stack = std::make_unique<Stack>();
      } else {
        stack = std::move(stacks_.back());
        stacks_.pop_back();
      }
      Thread& thread = *new Thread(std::move(stack), &Machine::entry);
      thread.index = dim3(i % size.x, i / size.x % size.y, i / size.x / size.y);
      thread.block = block;
      thread.warp = i / kWarp;
      thread.lane = i % kWarp;
      block->alive_lanes[thread.warp] |= 1u << thread.lane;
      block->barrier.join();
      block->cluster->barrier.join();
      make_ready(&thread);
    }
  }

  // Keeps the stacks of threads that have ended (but for the one that stands on its own).
  void reap() {
    std::vector<Thread*> kept;
    for (Thread* thread : finished_) {
      if (thread == current_) {
        kept.push_back(thread);
        continue;
      }
#if !defined(__SANITIZE_THREAD__)  // which would see the next fiber race with this one
      stacks_.push_back(std::move(thread->stack));
#endif
      delete thread;
    }
    finished_ = std::move(kept);
  }

  Launch config_;
  std::function<void()> kernel_;
  Context host_;
  Thread* current_ = nullptr;
  std::mt19937_64 random_;
  unsigned next_block_ = 0, resident_ = 0;
  uint64_t polls_ = 0;
  uint64_t epoch_ = 0, epoch_left_ = 0;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::unique_ptr<Stack>> stacks_;  // free ones
  unsigned alive_ = 0;
  std::vector<Thread*> ready_, finished_;
};

inline Thread& current() {
  const Unobserved scope;
  return Machine::get().current();
}

}  // namespace emu
