// Launchers of one direction of an LSTM layer, projection of its input included: as part of
// each step, or, where that reads or packs too much weight for too few rows, and of ids, as
// linear before lstm_sequence (one op all the same, since a small batch spends more between
// two than in them).
#include <torch/csrc/stable/ops.h>
#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "../check.h"
#include "../ids.h"
#include "../parallel.h"
#include "../registration.h"
#include "launchers.h"
#include "output.h"
#include "ragged.h"

namespace fastchar {
namespace {

// The most bytes of [w_ih w_hh] a row of the batch for which the projection is part of each
// step (measured, H 64 to 1024, E 64 to H, B 1 to 256).
constexpr int64_t kWeightsPerRow = 1 << 20;
// Below this many elements a second thread costs more than it saves.
constexpr int64_t kElementsPerMember = 16384;

// All that is taken for granted before the launchers that a layer is made of check the rest.
void check_input(const char* op, const Tensor& x, const std::optional<Tensor>& table,
                 const Tensor& w_ih, const Tensor& w_hh) {
  check_shape(op, "w_hh", w_hh, {kAny, kAny});
  check_cpu(op, "w_ih", w_ih);
  const ScalarType dtype = check_real(op, "w_ih", w_ih);
  check_dense(op, "w_ih", w_ih, dtype, {w_hh.size(0), kAny});
  if (table) {
    check_dense(op, "table", *table, dtype, {kAny, w_ih.size(1)});
    check_shape(op, "x", x, {kAny, kAny});
    check_ids(op, "x", x);
  } else {
    check_dense(op, "x", x, dtype, {kAny, kAny, w_ih.size(1)});
  }
}

bool projects_in_steps(const Tensor& x, const std::optional<Tensor>& table, const Tensor& w_ih,
                       const Tensor& w_hh) {
  if (table || w_ih.size(1) == 0) return false;
  const int64_t weights =
      (w_ih.numel() + w_hh.numel()) * static_cast<int64_t>(w_ih.element_size());
  return x.size(1) * kWeightsPerRow >= weights && packs(x.size(0), x.size(1), w_hh);
}

// The rows that a layer projects before its steps, and which of them a token takes.
//
// Of ids there are two ways. With at least as many tokens as symbols the whole table is
// projected once (the fold); else the rows looked up are. Of a ragged batch only real tokens
// are.
struct Rows {
  Tensor rows;                   // [M, K]
  std::optional<Tensor> place;   // [T, B] a token's row, anything in the padding; none: its own
  std::optional<Tensor> looked;  // [M] the ids of rows looked up in the table
  bool folded = false;           // the rows are the table
  std::vector<int64_t> real;     // [M] the rows' numbers in [T*B], if some are left out
};

// Numbers of the tokens before each end, and each one's place among them.
void find_real(const int64_t* lengths, int64_t T, int64_t B, std::vector<int64_t>& real,
               int64_t* place) {
  for (int64_t t = 0, n = 0; t < T; ++t) {
    for (int64_t b = 0; b < B; ++b, ++n) {
      place[n] = 0;
      if (t >= lengths[b]) continue;
      place[n] = static_cast<int64_t>(real.size());
      real.push_back(n);
    }
  }
}

template <class Row>
void for_rows(int64_t M, int64_t K, const Row& row) {
  const int64_t grain = kElementsPerMember / std::max<int64_t>(K, 1) + 1;
  parallel_range(M, grain, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) row(m);
  });
}

Rows rows_of(const char* op, const Tensor& x, const std::optional<Tensor>& table,
             const std::optional<Tensor>& lengths_arg) {
  const int64_t T = x.size(0), B = x.size(1), N = T * B;
  const int64_t* lengths = checked_lengths(op, lengths_arg, T, B);
  if (table && N >= table->size(0)) return {*table, x, std::nullopt, true, {}};

  Rows result;
  int64_t alive = N;
  if (lengths) {
    alive = 0;
    for (int64_t b = 0; b < B; ++b) alive += lengths[b];
  }
  if (alive < N) {
    std::vector<int64_t> sizes{T, B};
    result.place = torch::stable::new_empty(x, sizes, ScalarType::Long);
    result.real.reserve(static_cast<size_t>(alive));
    find_real(lengths, T, B, result.real, mutable_data<int64_t>(*result.place));
  }
  if (table) {
    const Tensor ids = as_int64(op, "x", x);
    if (result.place) {
      Tensor looked = torch::stable::new_empty(ids, {alive});
      const int64_t* id = data<int64_t>(ids);
      int64_t* out = mutable_data<int64_t>(looked);
      for (int64_t m = 0; m < alive; ++m) out[m] = id[result.real[static_cast<size_t>(m)]];
      result.looked = looked;
    } else {
      result.looked = torch::stable::view(ids, {N});
    }
    result.rows = embedding(*table, *result.looked, -1, false);
    return result;
  }
  const int64_t K = x.size(2);
  if (alive == N) {
    result.rows = torch::stable::view(x, {N, K});
    return result;
  }
  result.rows = new_output(x, {alive, K});
  const size_t bytes = static_cast<size_t>(K) * x.element_size();
  const char* from = static_cast<const char*>(x.const_data_ptr());
  char* to = static_cast<char*>(result.rows.mutable_data_ptr());
  const int64_t* real = result.real.data();
  for_rows(alive, K,
           [&](int64_t m) { std::memcpy(to + m * bytes, from + real[m] * bytes, bytes); });
  return result;
}

std::optional<Tensor> sum_of(const char* op, const std::optional<Tensor>& b_ih,
                             const std::optional<Tensor>& b_hh, const Tensor& w_ih) {
  const int64_t gates = w_ih.size(0);
  const ScalarType dtype = w_ih.scalar_type();
  check_dense(op, "b_ih", b_ih, dtype, {gates});
  check_dense(op, "b_hh", b_hh, dtype, {gates});
  if (!b_ih || !b_hh) return b_ih ? b_ih : b_hh;
  Tensor sum = new_output(w_ih, {gates});
  with_real(dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *a = data<T>(*b_ih), *b = data<T>(*b_hh);
    T* out = mutable_data<T>(sum);
    for (int64_t i = 0; i < gates; ++i) out[i] = a[i] + b[i];
  });
  return sum;
}

// The gradient of x, or of the table, from that of the rows, [M, K].
Tensor input_grad(const Tensor& grad_rows, const Rows& rows, const Tensor& x,
                  const std::optional<Tensor>& table, int64_t padding_idx) {
  const int64_t K = grad_rows.size(1);
  const int64_t bytes = K * static_cast<int64_t>(grad_rows.element_size());
  if (rows.folded) {
    Tensor grad = grad_rows;
    if (padding_idx >= 0 && padding_idx < grad.size(0)) {
      char* row = static_cast<char*>(grad.mutable_data_ptr()) + padding_idx * bytes;
      std::memset(row, 0, static_cast<size_t>(bytes));
    }
    return grad;
  }
  if (table) {
    return embedding_backward(grad_rows, *rows.looked, table->size(0), padding_idx, false);
  }
  const int64_t T = x.size(0), B = x.size(1);
  if (!rows.place) return torch::stable::view(grad_rows, {T, B, K});
  Tensor grad = new_output(x, {T, B, K});
  const int64_t* real = rows.real.data();
  const int64_t M = static_cast<int64_t>(rows.real.size());
  const char* from = static_cast<const char*>(grad_rows.const_data_ptr());
  char* to = static_cast<char*>(grad.mutable_data_ptr());
  // Row m, and the padding before it; the last one also that after it.
  for_rows(M, K, [&](int64_t m) {
    const int64_t begin = m ? real[m - 1] + 1 : 0;
    std::memset(to + begin * bytes, 0, static_cast<size_t>((real[m] - begin) * bytes));
    std::memcpy(to + real[m] * bytes, from + m * bytes, static_cast<size_t>(bytes));
  });
  const int64_t tail = M ? real[M - 1] + 1 : 0;
  std::memset(to + tail * bytes, 0, static_cast<size_t>((T * B - tail) * bytes));
  return grad;
}

// A tensor for each bias: compiled autograd would make one tensor the .grad of both, and add to
// it twice.
Tensor copy_of(const Tensor& grad_bias) {
  Tensor copy = new_output(grad_bias, {grad_bias.size(0)});
  if (grad_bias.numel() == 0) return copy;  // nowhere is no place for memcpy
  std::memcpy(copy.mutable_data_ptr(), grad_bias.const_data_ptr(),
              static_cast<size_t>(grad_bias.numel()) * grad_bias.element_size());
  return copy;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_layer(
    const Tensor& x, const std::optional<Tensor>& table, const Tensor& w_ih,
    const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh, const Tensor& w_hh,
    const Tensor& h0, const Tensor& c0, const std::optional<Tensor>& lengths,
    int64_t /*padding_idx*/, bool reverse, bool save) {
  constexpr const char* op = "lstm_layer";
  check_input(op, x, table, w_ih, w_hh);
  if (projects_in_steps(x, table, w_ih, w_hh)) {
    std::optional<Tensor> bias = sum_of(op, b_ih, b_hh, w_ih);
    if (!bias) bias = torch::stable::new_zeros(w_ih, {w_ih.size(0)});
    return lstm_over_input(x, w_ih, *bias, w_hh, h0, c0, lengths, reverse, save);
  }
  const Rows rows = rows_of(op, x, table, lengths);
  Tensor gates = linear(rows.rows, w_ih, sum_of(op, b_ih, b_hh, w_ih));
  if (!rows.place) gates = torch::stable::view(gates, {x.size(0), x.size(1), w_ih.size(0)});
  return lstm_sequence(gates, rows.place, w_hh, h0, c0, lengths, reverse, save);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_layer_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& act, const Tensor& cell,
    const Tensor& y, const Tensor& x, const std::optional<Tensor>& table, const Tensor& w_ih,
    const Tensor& w_hh, const Tensor& h0, const Tensor& c0,
    const std::optional<Tensor>& lengths, int64_t padding_idx, bool reverse, bool need_x,
    bool need_w_ih, bool need_bias, bool need_h0) {
  constexpr const char* op = "lstm_layer_backward";
  check_input(op, x, table, w_ih, w_hh);
  check_shape(op, "cell", cell, {x.size(0), x.size(1), w_hh.size(1)});
  if (projects_in_steps(x, table, w_ih, w_hh)) {
    auto [grad_x, grad_w_ih, grad_bias, grad_w_hh, grad_h0, grad_c0] =
        lstm_over_input_backward(grad_y, grad_h_n, grad_c_n, act, cell, y, x, w_ih, w_hh, h0,
                                 c0, lengths, reverse, need_x, need_w_ih, need_bias, need_h0);
    return {grad_x, grad_w_ih, grad_bias, copy_of(grad_bias), grad_w_hh, grad_h0, grad_c0};
  }
  const Rows rows = rows_of(op, x, table, lengths);
  const int64_t M = rows.rows.size(0);
  auto [gates, grad_w_hh, grad_h0, grad_c0] =
      lstm_sequence_backward(grad_y, grad_h_n, grad_c_n, act, cell, y, rows.place, w_hh, h0, c0,
                             lengths, reverse, rows.place ? M : 0, need_h0);
  if (!rows.place) gates = torch::stable::view(gates, {M, w_ih.size(0)});
  Tensor grad_x = need_x
                      ? input_grad(linear_input_grad(gates, w_ih), rows, x, table, padding_idx)
                      : new_output(w_ih, {0});
  if (!need_w_ih && !need_bias) {
    return {grad_x,
            new_output(w_ih, {0}),
            new_output(w_ih, {0}),
            new_output(w_ih, {0}),
            grad_w_hh,
            grad_h0,
            grad_c0};
  }
  auto [grad_w_ih, grad_bias] = linear_weight_grad(gates, rows.rows, need_bias);
  if (!need_w_ih) grad_w_ih = new_output(w_ih, {0});
  return {grad_x, grad_w_ih, grad_bias, copy_of(grad_bias), grad_w_hh, grad_h0, grad_c0};
}

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) {
  FASTCHAR_IMPL(m, lstm_layer);
  FASTCHAR_IMPL(m, lstm_layer_backward);
}

}  // namespace fastchar
