// Ids of a call as int64, and the error about one outside the vocabulary.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <sstream>

#include "check.h"
#include "cpu/kernels.h"

namespace fastchar {

// Throws std::out_of_range (IndexError in Python) for the first id outside 0..V-1.
inline void check_id_range(const char* op, const char* arg, const int64_t* ids, int64_t n,
                           int64_t V) {
  if (cpu::all_ids_inside(ids, n, V)) return;
  for (int64_t i = 0; i < n; ++i) {
    if (ids[i] >= 0 && ids[i] < V) continue;
    std::ostringstream s;
    s << "fastchar::" << op << ": argument '" << arg << "': expected ids in 0.." << V - 1
      << ", got " << ids[i] << " at position " << i;
    throw std::out_of_range(s.str());
  }
}

// An int64 tensor of the same ids: `ids` itself where it is one already.
inline Tensor as_int64(const char* op, const char* arg, const Tensor& ids) {
  check_cpu(op, arg, ids);
  check_ids(op, arg, ids);
  if (ids.scalar_type() == ScalarType::Long) return ids;
  return torch::stable::to(ids, ScalarType::Long);
}

}  // namespace fastchar
