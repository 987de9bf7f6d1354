// What the forward and the backward launcher of a whole sequence share.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <optional>

#include "../check.h"
#include "../ids.h"
#include "../parallel.h"
#include "kernels.h"

namespace fastchar {

// Work per step (multiplications) below which another member costs more in barriers than it
// saves; the largest packed weights, in bytes, that every member can keep in its own L2; and
// the sequences that are worth them to a member, two full tiles of rows.
constexpr int64_t kWorkPerMember = 1 << 15;
constexpr int64_t kPrivateWeights = 1 << 19;
constexpr int64_t kPrivateRows = 12;

// How a team shares a call: its largest useful size, and whether by sequences (no barrier) or
// by hidden units.
struct Split {
  int64_t members;
  bool batch;

  // K columns of weights: H, and E with the input's.
  Split(int64_t B, int64_t H, int64_t K, int64_t element_size)
      : members(team_size(B * H * K * 4, kWorkPerMember)),
        batch(cpu::packed_size(H, K) * element_size <= kPrivateWeights &&
              B >= kPrivateRows * members) {}
};

template <class T>
bool all_zero(const T* x, int64_t n) {
  bool other = false;  // without a branch per element
  for (int64_t i = 0; i < n; ++i) other |= x[i] != 0;
  return !other;
}

// Ids outside the table, where a sequence is alive.
inline void check_table_ids(const char* op, const Tensor& ids, const int64_t* lengths,
                            int64_t V) {
  const int64_t T = ids.size(0), B = ids.size(1);
  const int64_t* id = data<int64_t>(ids);
  if (!lengths) return check_id_range(op, "ids", id, T * B, V);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t b = 0; b < B; ++b) {
      if (t < lengths[b]) check_id_range(op, "ids", id + t * B + b, 1, V);
    }
  }
}

}  // namespace fastchar
