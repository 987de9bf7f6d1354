// What the lengths of a ragged batch say: who is alive when, and where the real tokens are.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../check.h"

namespace fastchar {

// `lengths` as int64 [B] with values in 0..T; null where there are none.
inline const int64_t* checked_lengths(const char* op, const std::optional<Tensor>& lengths,
                                      int64_t T, int64_t B) {
  if (!lengths) return nullptr;
  check_dense(op, "lengths", *lengths, ScalarType::Long, {B});
  const int64_t* length = data<int64_t>(lengths);
  for (int64_t b = 0; b < B; ++b) {
    if (length[b] < 0 || length[b] > T) {
      fail(op, "lengths", "values in 0.." + std::to_string(T), length[b]);
    }
  }
  return length;
}

// The sequences of a ragged batch by falling length (stable), and how many have step t. Both
// empty without lengths.
struct Ragged {
  std::vector<int64_t> order, alive;

  Ragged(const char* op, const std::optional<Tensor>& lengths, int64_t T, int64_t B) {
    const int64_t* length = checked_lengths(op, lengths, T, B);
    if (!length) return;
    alive.assign(T + 1, 0);
    for (int64_t b = 0; b < B; ++b) ++alive[T - length[b]];
    // alive[T - l] counts length l so far: turn it into the position of the first of length l.
    std::vector<int64_t> next(T + 1, 0);
    for (int64_t i = 1; i <= T; ++i) next[i] = next[i - 1] + alive[i - 1];
    order.resize(B);
    for (int64_t b = 0; b < B; ++b) order[next[T - length[b]]++] = b;
    // Now next[T - l] counts those of length l or more.
    for (int64_t t = 0; t < T; ++t) alive[t] = next[T - t - 1];
  }

  const int64_t* order_data() const { return order.empty() ? nullptr : order.data(); }
  const int64_t* alive_data() const { return order.empty() ? nullptr : alive.data(); }
};

}  // namespace fastchar
