// Launchers of the LSTM over a whole sequence on the CPU, forward.
#include <torch/csrc/stable/ops.h>
#include <atomic>
#include <tuple>
#include <type_traits>

#include "../check.h"
#include "../ids.h"
#include "../parallel.h"
#include "../registration.h"
#include "dispatch.h"
#include "launchers.h"
#include "lstm_launch.h"
#include "output.h"
#include "ragged.h"
#include "workspace.h"

namespace fastchar {
namespace {

// The most tokens, and sequences, for which packing w_hh costs more than its steps save
// (measured, H 256 to 1024), where a row of w_hh has as many bytes: shorter ones pack quickly.
constexpr int64_t kUnpackedTokens = 20;
constexpr int64_t kUnpackedRows = 5;
constexpr int64_t kUnpackedRowBytes = 1 << 10;

struct States {
  ScalarType dtype;
  int64_t B, H;
};

States check_states(const char* op, const Tensor& w_hh, const Tensor& h0, const Tensor& c0) {
  check_cpu(op, "w_hh", w_hh);
  check_shape(op, "w_hh", w_hh, {kAny, kAny});
  const ScalarType dtype = check_real(op, "w_hh", w_hh);
  const int64_t H = w_hh.size(1);
  check_dense(op, "w_hh", w_hh, dtype, {4 * H, H});
  check_dense(op, "h0", h0, dtype, {kAny, H});
  check_dense(op, "c0", c0, dtype, {h0.size(0), H});
  return {dtype, h0.size(0), H};
}

// y, h_n, c_n, act and cell of T steps, with `set_input` to fill in where a step's
// pre-activations come from.
template <class SetInput>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> run_forward(
    int64_t T, const Ragged& ragged, const Tensor& w_hh, const Tensor& h0, const Tensor& c0,
    const std::optional<Tensor>& lengths, bool reverse, bool save, const SetInput& set_input) {
  const int64_t B = h0.size(0), H = h0.size(1);
  Tensor y = new_output(w_hh, {T, B, H}), h_n = new_output(w_hh, {B, H}),
         c_n = new_output(w_hh, {B, H});
  Tensor act = save ? new_output(w_hh, {T, B, 4 * H}) : new_output(w_hh, {0});
  Tensor cell = save ? new_output(w_hh, {T, B, H}) : new_output(w_hh, {0});
  if (B == 0 || H == 0) return {y, h_n, c_n, act, cell};
  with_real(w_hh.scalar_type(), [&](auto zero) {
    using T_ = decltype(zero);
    cpu::LstmSequenceParams<T_> p{};
    set_input(p);
    p.w_hh = data<T_>(w_hh);
    p.h0 = data<T_>(h0);
    p.c0 = data<T_>(c0);
    p.lengths = data<int64_t>(lengths);
    p.y = mutable_data<T_>(y);
    p.h_n = mutable_data<T_>(h_n);
    p.c_n = mutable_data<T_>(c_n);
    p.act = save ? mutable_data<T_>(act) : nullptr;
    p.cell = save ? mutable_data<T_>(cell) : nullptr;
    p.order = ragged.order_data();
    p.alive = ragged.alive_data();
    p.steps = T;
    p.B = B;
    p.H = H;
    p.reverse = reverse;
    p.zero_h0 = all_zero(p.h0, B * H);
    const int64_t K = p.E + H;
    const Split split(B, H, K, sizeof(T_));
    p.split_batch = split.batch;
    if (p.x || packs(T, B, w_hh)) {
      p.packed = cpu::Workspace::get<T_>(cpu::packed_size(H, K));
    }
    std::atomic<bool> infinite{false};
    p.infinite = &infinite;
    const auto kernel = cpu::kernels().table(zero).lstm_forward;
    run_team(split.members, [&](const Team& team) { kernel(p, team); });
  });
  return {y, h_n, c_n, act, cell};
}

}  // namespace

bool packs(int64_t T, int64_t B, const Tensor& w_hh) {
  return B > kUnpackedRows || T * B > kUnpackedTokens ||
         w_hh.size(1) * static_cast<int64_t>(w_hh.element_size()) < kUnpackedRowBytes;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_sequence(
    const Tensor& gates, const std::optional<Tensor>& ids_arg, const Tensor& w_hh,
    const Tensor& h0, const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse,
    bool save) {
  constexpr const char* op = "lstm_sequence";
  const auto [dtype, B, H] = check_states(op, w_hh, h0, c0);
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
  return run_forward(T, ragged, w_hh, h0, c0, lengths, reverse, save, [&](auto& p) {
    using T_ = std::remove_cv_t<std::remove_pointer_t<decltype(p.y)>>;
    p.gates = data<T_>(gates);
    p.ids = data<int64_t>(ids);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_over_input(
    const Tensor& x, const Tensor& w_ih, const Tensor& bias, const Tensor& w_hh,
    const Tensor& h0, const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse,
    bool save) {
  constexpr const char* op = "lstm_layer";
  const auto [dtype, B, H] = check_states(op, w_hh, h0, c0);
  check_dense(op, "x", x, dtype, {kAny, B, kAny});
  const int64_t T = x.size(0), E = x.size(2);
  check_dense(op, "w_ih", w_ih, dtype, {4 * H, E});
  check_dense(op, "bias", bias, dtype, {4 * H});
  const Ragged ragged(op, lengths, T, B);
  return run_forward(T, ragged, w_hh, h0, c0, lengths, reverse, save, [&](auto& p) {
    using T_ = std::remove_cv_t<std::remove_pointer_t<decltype(p.y)>>;
    p.gates = data<T_>(bias);
    p.x = data<T_>(x);
    p.w_ih = data<T_>(w_ih);
    p.E = E;
  });
}

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) { FASTCHAR_IMPL(m, lstm_sequence); }

}  // namespace fastchar
