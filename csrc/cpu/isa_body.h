// The body of every isa_*.cpp: all kernels inside one namespace per instruction set, and the
// table that exports them. Included once per file, after FASTCHAR_ISA and the target pragma are
// set.
//
// Kernel headers may call nothing of the standard library that is not always inlined: a shared
// inline function compiled here would carry this file's instructions to machines without them.
#include "kernels.h"

namespace fastchar::cpu::FASTCHAR_ISA {
namespace {
#include "embedding.h"
}  // namespace

template <class T>
constexpr KernelTable<T> make_table() {
  return {
      embedding<T>,
      embedding_backward<T>,
  };
}
}  // namespace fastchar::cpu::FASTCHAR_ISA
