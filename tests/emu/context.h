// Switching between stacks, with the sanitizers told about it. One Context per fiber; the
// program's own stack is one too.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace emu {

// While one lives, ThreadSanitizer doesn't look: the emulator's own state has one real thread.
struct Unobserved {
#if defined(__SANITIZE_THREAD__)
  Unobserved() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unobserved() {
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  }
#else
  Unobserved() {}
#endif
  Unobserved(const Unobserved&) = delete;
  Unobserved& operator=(const Unobserved&) = delete;
};

// 256 KiB of address space; only the pages that a fiber touches cost memory.
inline constexpr size_t kStackBytes = 1 << 18;

// The stack's lowest page is not mapped, so that an overflow faults.
class Stack {
 public:
  Stack() {
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    bottom_ = static_cast<char*>(memory);
    mprotect(bottom_, 4096, PROT_NONE);
  }
  ~Stack() { munmap(bottom_, kStackBytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  char* bottom() const { return bottom_; }
  char* top() const { return bottom_ + kStackBytes; }

 private:
  char* bottom_;
};

}  // namespace emu

// Saves the callee-saved registers and the stack pointer in *save, and goes on where `load` was
// saved. swapcontext would do, but asks the kernel about signals twice in every switch.
extern "C" void emu_switch_stack(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
.text
.type emu_switch_stack, @function
emu_switch_stack:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
inline constexpr int kSavedRegisters = 6;
#else
#error "the CUDA emulator switches stacks on x86-64 only"
#endif

namespace emu {

class Context {
 public:
  // The program's own stack.
  Context() {
#if defined(__SANITIZE_THREAD__)
    tsan_ = __tsan_get_current_fiber();
#endif
  }

  // A fiber that starts in `entry` (which never returns) when first switched to.
  Context(const Stack& stack, void (*entry)()) : bottom_(stack.bottom()), size_(kStackBytes) {
    void** frame = reinterpret_cast<void**>(stack.top()) - 2;
    *frame = reinterpret_cast<void*>(entry);  // where the first switch returns to
    frame -= kSavedRegisters;
    for (int i = 0; i < kSavedRegisters; ++i) frame[i] = nullptr;
    pointer_ = frame;
#if defined(__SANITIZE_ADDRESS__)  // what the stack's last fiber left
    __asan_unpoison_memory_region(stack.bottom(), kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
    tsan_ = __tsan_create_fiber(0);
    owned_ = true;
#endif
  }

  ~Context() {
#if defined(__SANITIZE_THREAD__)
    if (owned_) __tsan_destroy_fiber(tsan_);
#endif
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Leaves this context, for good if `last`, and goes on in `next`. For ThreadSanitizer that
  // orders nothing, as between the GPU's threads.
  __attribute__((noinline)) void switch_to(Context& next, [[maybe_unused]] bool last) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, next.bottom_, next.size_);
    came_from() = this;
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(next.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
    emu_switch_stack(&pointer_, next.pointer_);
    arrived(fake_stack_);
  }

  // To be called first thing in a fiber's entry.
  static void arrived(void* fake_stack = nullptr) {
#if defined(__SANITIZE_ADDRESS__)
    Context* from = came_from();
    __sanitizer_finish_switch_fiber(fake_stack, &from->bottom_, &from->size_);
#endif
    (void)fake_stack;
  }

 private:
  [[maybe_unused]] static Context*& came_from() {
    static Context* context = nullptr;
    return context;
  }

  void* pointer_ = nullptr;
  [[maybe_unused]] void* fake_stack_ = nullptr;
  [[maybe_unused]] const void* bottom_ = nullptr;
  [[maybe_unused]] size_t size_ = 0;
  [[maybe_unused]] void* tsan_ = nullptr;
  [[maybe_unused]] bool owned_ = false;
};

}  // namespace emu
