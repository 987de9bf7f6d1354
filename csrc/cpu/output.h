// Tensors for a launcher's results.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <algorithm>
#include <vector>

#include "../check.h"
#include "workspace.h"

namespace fastchar {

// An uninitialised contiguous CPU tensor of like's dtype; large ones out of the pool, small
// ones past the dispatcher, whose new_empty costs a small step as much as its arithmetic.
inline Tensor new_output(const Tensor& like, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;)
    strides[d - 1] = strides[d] * std::max<int64_t>(sizes[d], 1);
  int64_t bytes = like.element_size();
  bool too_large = false;  // for int64: torch says so
  for (int64_t size : sizes) too_large |= __builtin_mul_overflow(bytes, size, &bytes);
  if (too_large || bytes < cpu::BlockPool::kSmallest) {
    int32_t dtype = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()),
                                                    sizes.data(), strides.data(), dtype,
                                                    aoti_torch_device_type_cpu(), 0, &handle));
    return Tensor(handle);
  }
  int64_t capacity = 0;
  void* block = cpu::BlockPool::get().take(bytes, &capacity);
  return torch::stable::from_blob(
      block, sizes, strides, like.device(), like.scalar_type(),
      [capacity](void* memory) { cpu::BlockPool::get().give_back(memory, capacity); });
}

}  // namespace fastchar
