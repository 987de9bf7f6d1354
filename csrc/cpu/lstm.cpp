// Launchers of the LSTM over a whole sequence on the CPU.
#include <torch/csrc/stable/ops.h>
#include <algorithm>
#include <atomic>
#include <tuple>

#include "../check.h"
#include "../ids.h"
#include "../parallel.h"
#include "../registration.h"
#include "dispatch.h"
#include "launchers.h"
#include "output.h"
#include "ragged.h"
#include "workspace.h"

namespace fastchar {
namespace {

// Work per step (multiplications) below which another member costs more in barriers than it
// saves, and the largest packed w_hh, in bytes, that every member can keep in its own L2.
constexpr int64_t kWorkPerMember = 1 << 15;
constexpr int64_t kPrivateWeights = 1 << 19;
constexpr int64_t kPrivateRows = 12;

// The most tokens, and sequences, for which packing w_hh costs more than its steps save
// (measured, H 256 to 1024), where a row of w_hh has as many bytes: shorter ones pack quickly.
constexpr int64_t kUnpackedTokens = 20;
constexpr int64_t kUnpackedRows = 5;
constexpr int64_t kUnpackedRowBytes = 1 << 10;

bool packs(int64_t T, int64_t B, int64_t H, int64_t element_size) {
  return B > kUnpackedRows || T * B > kUnpackedTokens || H * element_size < kUnpackedRowBytes;
}

// How a team shares a call: its largest useful size, and whether by sequences (no barrier) or
// by hidden units.
struct Split {
  int64_t members;
  bool batch;

  Split(int64_t B, int64_t H, int64_t element_size)
      : members(std::clamp<int64_t>(B * H * H * 4 / kWorkPerMember, 1,
                                    torch::stable::get_num_threads())),
        batch(cpu::packed_size(H) * element_size <= kPrivateWeights &&
              B >= kPrivateRows * members) {}
};

template <class T>
T* packed_weights(int64_t H) {
  return static_cast<T*>(cpu::Workspace::get(cpu::packed_size(H) * sizeof(T)));
}

template <class T>
bool all_zero(const T* x, int64_t n) {
  bool other = false;  // without a branch per element
  for (int64_t i = 0; i < n; ++i) other |= x[i] != 0;
  return !other;
}

// Ids outside the table, where a sequence is alive.
void check_table_ids(const char* op, const Tensor& ids, const int64_t* lengths, int64_t V) {
  const int64_t T = ids.size(0), B = ids.size(1);
  const int64_t* id = data<int64_t>(ids);
  if (!lengths) return check_id_range(op, "ids", id, T * B, V);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t b = 0; b < B; ++b) {
      if (t < lengths[b]) check_id_range(op, "ids", id + t * B + b, 1, V);
    }
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_sequence(
    const Tensor& gates, const std::optional<Tensor>& ids_arg, const Tensor& w_hh,
    const Tensor& h0, const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse,
    bool save) {
  constexpr const char* op = "lstm_sequence";
  check_cpu(op, "w_hh", w_hh);
  check_shape(op, "w_hh", w_hh, {kAny, kAny});
  const ScalarType dtype = check_real(op, "w_hh", w_hh);
  const int64_t H = w_hh.size(1);
  check_dense(op, "w_hh", w_hh, dtype, {4 * H, H});
  check_dense(op, "h0", h0, dtype, {kAny, H});
  const int64_t B = h0.size(0);
  check_dense(op, "c0", c0, dtype, {B, H});
  std::optional<Tensor> ids;
  int64_t T = 0;
  if (ids_arg) {
    check_dense(op, "gates", gates, dtype, {kAny, 4 * H});
    check_shape(op, "ids", *ids_arg, {kAny, B});
    ids = as_int64(op, "ids", *ids_arg);
    T = ids->size(0);
  } else {
    check_dense(op, "gates", gates, dtype, {kAny, B, 4 * H});
    T = gates.size(0);
  }
  const Ragged ragged(op, lengths, T, B);
  if (ids) check_table_ids(op, *ids, data<int64_t>(lengths), gates.size(0));

  Tensor y = new_output(w_hh, {T, B, H}), h_n = new_output(w_hh, {B, H}),
         c_n = new_output(w_hh, {B, H});
  Tensor act = save ? new_output(w_hh, {T, B, 4 * H}) : new_output(w_hh, {0});
  Tensor cell = save ? new_output(w_hh, {T, B, H}) : new_output(w_hh, {0});
  if (B == 0 || H == 0) return {y, h_n, c_n, act, cell};
  with_real(dtype, [&](auto zero) {
    using T_ = decltype(zero);
    const Split split(B, H, sizeof(T_));
    cpu::LstmSequenceParams<T_> p{};
    p.gates = data<T_>(gates);
    p.ids = data<int64_t>(ids);
    p.w_hh = data<T_>(w_hh);
    p.h0 = data<T_>(h0);
    p.c0 = data<T_>(c0);
    p.lengths = data<int64_t>(lengths);
    p.y = mutable_data<T_>(y);
    p.h_n = mutable_data<T_>(h_n);
    p.c_n = mutable_data<T_>(c_n);
    p.act = save ? mutable_data<T_>(act) : nullptr;
    p.cell = save ? mutable_data<T_>(cell) : nullptr;
    p.packed = packs(T, B, H, sizeof(T_)) ? packed_weights<T_>(H) : nullptr;
    p.order = ragged.order_data();
    p.alive = ragged.alive_data();
    p.steps = T;
    p.B = B;
    p.H = H;
    p.reverse = reverse;
    p.split_batch = split.batch;
    p.zero_h0 = all_zero(p.h0, B * H);
    std::atomic<bool> infinite{false};
    p.infinite = &infinite;
    const auto kernel = cpu::kernels().table(zero).lstm_forward;
    run_team(split.members, [&](const Team& team) { kernel(p, team); });
  });
  return {y, h_n, c_n, act, cell};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_sequence_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& act, const Tensor& cell,
    const Tensor& y, const std::optional<Tensor>& ids_arg, const Tensor& w_hh, const Tensor& h0,
    const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse, int64_t num_rows,
    bool need_h0) {
  constexpr const char* op = "lstm_sequence_backward";
  check_cpu(op, "cell", cell);
  check_shape(op, "cell", cell, {kAny, kAny, kAny});
  check_contiguous(op, "cell", cell);
  const ScalarType dtype = check_real(op, "cell", cell);
  const int64_t T = cell.size(0), B = cell.size(1), H = cell.size(2);
  check_dense(op, "act", act, dtype, {T, B, 4 * H});
  check_dense(op, "y", y, dtype, {T, B, H});
  check_dense(op, "w_hh", w_hh, dtype, {4 * H, H});
  check_dense(op, "h0", h0, dtype, {B, H});
  check_dense(op, "c0", c0, dtype, {B, H});
  check_dense(op, "grad_y", grad_y, dtype, {T, B, H});
  check_dense(op, "grad_h_n", grad_h_n, dtype, {B, H});
  check_dense(op, "grad_c_n", grad_c_n, dtype, {B, H});
  const Ragged ragged(op, lengths, T, B);
  std::optional<Tensor> ids;
  if (ids_arg) {
    check_shape(op, "ids", *ids_arg, {T, B});
    if (num_rows < 0) fail(op, "num_rows", "a count", num_rows);
    ids = as_int64(op, "ids", *ids_arg);
    check_table_ids(op, *ids, data<int64_t>(lengths), num_rows);
  }

  Tensor grad_gates =
      ids ? new_output(w_hh, {num_rows, 4 * H}) : new_output(w_hh, {T, B, 4 * H});
  Tensor grad_w_hh = new_output(w_hh, {4 * H, H});
  Tensor grad_h0 = need_h0 ? new_output(w_hh, {B, H}) : new_output(w_hh, {0});
  Tensor grad_c0 = new_output(w_hh, {B, H});
  with_real(dtype, [&](auto zero) {
    using T_ = decltype(zero);
    const Split split(B, H, sizeof(T_));
    cpu::LstmSequenceBackwardParams<T_> p{};
    p.chunk = std::clamp<int64_t>(cpu::kWeightGradDepth / std::max<int64_t>(B, 1), 1,
                                  std::max<int64_t>(T, 1));
    p.slots = ids ? p.chunk + 1 : T;
    const int64_t packed = cpu::packed_size(H);
    const int64_t scratch = cpu::weight_grad_scratch(H, split.members) + 15;
    const int64_t ring = ids ? p.slots * B * 4 * H : 0;
    p.packed =
        static_cast<T_*>(cpu::Workspace::get(sizeof(T_) * (packed + scratch / 16 * 16 + ring)));
    p.weight_scratch = p.packed + packed;
    p.grad_gates = ids ? p.weight_scratch + scratch / 16 * 16 : mutable_data<T_>(grad_gates);
    p.grad_y = data<T_>(grad_y);
    p.grad_h_n = data<T_>(grad_h_n);
    p.grad_c_n = data<T_>(grad_c_n);
    p.act = data<T_>(act);
    p.cell = data<T_>(cell);
    p.y = data<T_>(y);
    p.ids = data<int64_t>(ids);
    p.w_hh = data<T_>(w_hh);
    p.h0 = data<T_>(h0);
    p.c0 = data<T_>(c0);
    p.lengths = data<int64_t>(lengths);
    p.grad_table = ids ? mutable_data<T_>(grad_gates) : nullptr;
    p.grad_w_hh = mutable_data<T_>(grad_w_hh);
    p.grad_h0 = need_h0 ? mutable_data<T_>(grad_h0) : nullptr;
    p.grad_c0 = mutable_data<T_>(grad_c0);
    p.order = ragged.order_data();
    p.alive = ragged.alive_data();
    p.steps = T;
    p.B = B;
    p.H = H;
    p.V = num_rows;
    p.reverse = reverse;
    p.split_batch = split.batch;
    p.zero_h0 = all_zero(p.h0, B * H);
    const auto kernel = cpu::kernels().table(zero).lstm_backward;
    run_team(split.members, [&](const Team& team) { kernel(p, team); });
  });
  return {grad_gates, grad_w_hh, grad_h0, grad_c0};
}

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) {
  FASTCHAR_IMPL(m, lstm_sequence);
  FASTCHAR_IMPL(m, lstm_sequence_backward);
}

}  // namespace fastchar
