// The body of every isa_*.cpp: all kernels inside one namespace per instruction set, and the
// table that exports them. Included once per file, after FASTCHAR_ISA and the target pragma are
// set.
//
// Kernel headers may call nothing of the standard library that is not always inlined: a shared
// inline function compiled here would carry this file's instructions to machines without them.
#include "kernels.h"

namespace fastchar::cpu::FASTCHAR_ISA {
namespace {
#include "simd.h"
#include "activations.h"
#include "../cell_math.h"
#include "embedding.h"
#include "gemm.h"
#include "loss.h"
#include "cell.h"
#include "step.h"
#include "generate.h"
#include "lstm_tile.h"
#include "lstm_forward.h"
#include "step_packed.h"
#include "linear.h"
#include "lstm_token_grads.h"
#include "lstm_backward.h"
#include "linear_weight_grad.h"
#include "limits.h"
}  // namespace

template <class T>
constexpr KernelTable<T> make_table() {
  return {
      embedding<T>,
      embedding_backward<T>,
      lstm_cell<T>,
      lstm_cell_backward<T>,
      lstm_step<T>,
      lstm_step_backward<T>,
      lstm_generate_step<T>,
      lstm_forward<T>,
      lstm_backward<T>,
      linear<T>,
      linear_weight_grad<T>,
      linear_cross_entropy<T>,
      linear_cross_entropy_workspace<T>,
      multiply_adds<T>,
      kChains * kLanes<T>,
      read_all<T>,
  };
}
}  // namespace fastchar::cpu::FASTCHAR_ISA
