// Memory that is kept from call to call, because the first touch of fresh pages costs as much
// as what a kernel does with them: the launchers' scratch, and blocks for large outputs.
#pragma once

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

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

// A block of at least `bytes` at a multiple of 64, free() gives it back; sets `capacity`.
inline void* allocate_block(int64_t bytes, int64_t* capacity) {
  constexpr int64_t kPage = int64_t{1} << 12, kHuge = int64_t{1} << 21;
  const int64_t unit = bytes < kHuge ? kPage : kHuge;
  *capacity = (bytes + unit - 1) / unit * unit;
  void* block = std::aligned_alloc(static_cast<size_t>(unit), static_cast<size_t>(*capacity));
  if (!block) {  // in torch's words: programs that make do with less memory look for them
    throw std::runtime_error(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate " +
        std::to_string(*capacity) + " bytes.");
  }
  advise_huge_pages(block, *capacity);
  return block;
}

class Workspace {
 public:
  // At least `bytes` at a multiple of 64, valid until this thread's next call. Contents are
  // undefined.
  static void* get(int64_t bytes) {
    thread_local Workspace workspace;
    return workspace.grow(bytes);
  }

  // The same for `count` elements.
  template <class T>
  static T* get(int64_t count) {
    return static_cast<T*>(get(count * static_cast<int64_t>(sizeof(T))));
  }

  ~Workspace() { std::free(memory_); }

 private:
  void* grow(int64_t bytes) {
    if (bytes <= capacity_) return memory_;
    std::free(memory_);
    memory_ = nullptr;
    capacity_ = 0;
    memory_ = allocate_block(bytes, &capacity_);
    return memory_;
  }

  void* memory_ = nullptr;
  int64_t capacity_ = 0;
};

// Blocks of outputs whose tensors are gone, for the next call to use: a training step asks for
// the same sizes over and over. Keeps at most 1 GiB, and of a small machine's memory a
// sixteenth; what comes back beyond that is freed.
class BlockPool {
 public:
  // Bytes of a result; below, malloc keeps the pages itself.
  static constexpr int64_t kSmallest = int64_t{1} << 20;

  // Never destroyed: tensors may outlive everything static.
  static BlockPool& get() {
    static BlockPool* pool = made();
    return *pool;
  }

  // At least `bytes`; sets `capacity`, to be handed to give_back.
  void* take(int64_t bytes, int64_t* capacity) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      size_t best = free_.size();
      for (size_t i = 0; i < free_.size(); ++i) {
        const int64_t size = free_[i].capacity;
        if (size < bytes || size > bytes * 2) continue;
        if (best == free_.size() || size < free_[best].capacity) best = i;
      }
      if (best < free_.size()) {
        const Block block = free_[best];
        free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(best));
        kept_ -= block.capacity;
        *capacity = block.capacity;
        return block.memory;
      }
    }
    try {
      return allocate_block(bytes, capacity);
    } catch (const std::runtime_error&) {
      let_go_beyond(0);
    }
    return allocate_block(bytes, capacity);
  }

  void give_back(void* memory, int64_t capacity) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      free_.push_back({memory, capacity});
      kept_ += capacity;
    }
    let_go_beyond(most_kept_);
  }

 private:
  // The oldest blocks first.
  void let_go_beyond(int64_t most) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (kept_ > most) {
      std::free(free_.front().memory);
      kept_ -= free_.front().capacity;
      free_.erase(free_.begin());
    }
  }

  struct Block {
    void* memory;
    int64_t capacity;
  };

  // A process may be forked, as DataLoader does, while another thread holds the lock, which
  // nobody would give back in the child.
  static BlockPool* made() {
    auto* pool = new BlockPool;
    pthread_atfork([] { get().mutex_.lock(); }, [] { get().mutex_.unlock(); },
                   [] { get().mutex_.unlock(); });
    return pool;
  }

  static int64_t memory_of_the_machine() {
    return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  }

  const int64_t most_kept_ = std::min(int64_t{1} << 30, memory_of_the_machine() / 16);
  std::mutex mutex_;
  std::vector<Block> free_;  // oldest first
  int64_t kept_ = 0;
};

}  // namespace fastchar::cpu
