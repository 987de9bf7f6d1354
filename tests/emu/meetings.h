// Where the threads of machine.h wait for each other: a barrier's two halves, a cluster's, and
// the operations in which a warp's lanes meet.
#pragma once

#include <array>

#include "machine.h"

namespace emu {

inline unsigned Barrier::arrive() {
  publish_order(this);
  const Unobserved scope;
  const unsigned phase = phase_;
  if (++arrived_ == expected_) release();
  return phase;
}

inline void Barrier::wait(unsigned phase) {
  {
    const Unobserved scope;
    if (phase == phase_) {
      waiting_.push_back(&current());
      Machine::get().wait();
    } else {
      Machine::get().yield();
    }
  }
  observe_order(this);
}

inline void Barrier::release() {
  for (Thread* thread : waiting_) Machine::get().make_ready(thread);
  waiting_.clear();
  arrived_ = 0;
  ++phase_;
}

inline void Barrier::leave() {
  --expected_;
  if (expected_ > 0 && arrived_ == expected_) release();
}

inline void cluster_arrive() {
  Thread& self = current();
  if (self.arrived) fail("cluster_arrive twice without cluster_wait");
  self.phase = self.block->cluster->barrier.arrive();
  self.arrived = true;
  Machine::get().yield();
}

inline void cluster_wait() {
  Thread& self = current();
  if (!self.arrived) fail("cluster_wait without cluster_arrive");
  self.arrived = false;
  self.block->cluster->barrier.wait(self.phase);
}

// Every thread of `mask` gives `value` and gets what each gave (lanes outside: garbage).
template <class T>
std::array<T, kWarp> meet(const char* operation, unsigned mask, const T& value) {
  static_assert(sizeof(T) <= Meeting::kBytes, "too large for a meeting");
  const Unobserved scope;
  Thread& self = current();
  const unsigned lanes = mask & self.block->alive_lanes[self.warp];
  if (!(lanes >> self.lane & 1)) fail("a thread is not in the mask of its own warp operation");
  Meeting& meeting = self.block->meetings[self.warp][mask];
  if (meeting.arrived && meeting.operation != operation) {
    fail("the threads of a warp meet in different operations");
  }
  meeting.operation = operation;
  Meeting::Round& round = meeting.rounds[meeting.round];
  std::memcpy(round.value[self.lane], &value, sizeof(T));
  publish_order(&meeting);
  meeting.arrived |= 1u << self.lane;
  meeting.waiting.push_back(&self);
  if (meeting.arrived == lanes) {
    for (Thread* thread : meeting.waiting) Machine::get().make_ready(thread);
    meeting.waiting.clear();
    meeting.arrived = 0;
    meeting.round ^= 1;
  }
  Machine::get().wait();
  observe_order(&meeting);
  std::array<T, kWarp> all;
  for (int lane = 0; lane < kWarp; ++lane)
    std::memcpy(&all[lane], round.value[lane], sizeof(T));
  return all;
}

}  // namespace emu
