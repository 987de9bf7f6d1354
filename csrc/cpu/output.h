// Tensors for a launcher's results.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <algorithm>
#include <vector>

#include "../check.h"
#include "workspace.h"

namespace fastchar {

// An uninitialised contiguous tensor of like's dtype and device; large ones out of the pool.
inline Tensor new_output(const Tensor& like, const std::vector<int64_t>& sizes) {
  int64_t bytes = like.element_size();
  for (int64_t size : sizes) bytes *= size;
  if (bytes < cpu::BlockPool::kSmallest) return torch::stable::new_empty(like, sizes);
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size() - 1; d > 0; --d) strides[d - 1] = strides[d] * sizes[d];
  int64_t capacity = 0;
  void* block = cpu::BlockPool::get().take(bytes, &capacity);
  return torch::stable::from_blob(
      block, sizes, strides, like.device(), like.scalar_type(),
      [capacity](void* memory) { cpu::BlockPool::get().give_back(memory, capacity); });
}

}  // namespace fastchar
