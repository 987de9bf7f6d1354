// The embedding's scatter-add for other ops' launchers.
#pragma once

#include "launch.h"

namespace fastchar::cuda {

// [V, E]: sums of the rows of grad [T, B, E] by int64 ids [T, B]. With lengths [B] grad must be
// zero past each sequence's end, and any id may stand there.
Tensor scatter_tokens(const Tensor& grad, const Tensor& ids,
                      const std::optional<Tensor>& lengths, int64_t V);

}  // namespace fastchar::cuda
