// Scratch memory of the launchers: one buffer a calling thread, kept from call to call because
// fresh pages cost more than what is done with them.
#pragma once

#include <sys/mman.h>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace fastchar::cpu {

// Asks for huge pages where [p, p + bytes) covers any: fewer page faults on fresh memory, fewer
// TLB misses later. A hint only.
inline void advise_huge_pages(void* p, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHuge = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) / kHuge * kHuge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

class Workspace {
 public:
  // At least `bytes` at a multiple of 64, valid until this thread's next call. Contents are
  // undefined.
  static void* get(int64_t bytes) {
    thread_local Workspace workspace;
    return workspace.grow(bytes);
  }

  ~Workspace() { std::free(memory_); }

 private:
  void* grow(int64_t bytes) {
    if (bytes <= capacity_) return memory_;
    std::free(memory_);
    capacity_ = 0;
    constexpr int64_t kPage = int64_t{1} << 12, kHuge = int64_t{1} << 21;
    const int64_t unit = bytes < kHuge ? kPage : kHuge;
    const int64_t rounded = (bytes + unit - 1) / unit * unit;
    memory_ = std::aligned_alloc(static_cast<size_t>(unit), static_cast<size_t>(rounded));
    if (!memory_) throw std::bad_alloc();
    advise_huge_pages(memory_, rounded);
    capacity_ = rounded;
    return memory_;
  }

  void* memory_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace fastchar::cpu
