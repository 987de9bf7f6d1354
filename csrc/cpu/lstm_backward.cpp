// Launchers of the LSTM over a whole sequence on the CPU, backward.
#include <torch/csrc/stable/ops.h>
#include <algorithm>
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

// What forward was given, saved and is told of its results, as the launchers get it.
struct Saved {
  const std::optional<Tensor>&grad_y, &grad_h_n, &grad_c_n;
  const Tensor &act, &cell, &y, &w_hh, &h0, &c0;
  const std::optional<Tensor>& lengths;
  bool reverse;

  int64_t T() const { return cell.size(0); }
  int64_t B() const { return cell.size(1); }
  int64_t H() const { return cell.size(2); }

  ScalarType check(const char* op) const {
    check_cpu(op, "cell", cell);
    check_shape(op, "cell", cell, {kAny, kAny, kAny});
    const ScalarType dtype = check_real(op, "cell", cell);
    check_dense(op, "act", act, dtype, {T(), B(), 4 * H()});
    check_dense(op, "y", y, dtype, {T(), B(), H()});
    check_dense(op, "w_hh", w_hh, dtype, {4 * H(), H()});
    check_dense(op, "h0", h0, dtype, {B(), H()});
    check_dense(op, "c0", c0, dtype, {B(), H()});
    check_dense(op, "grad_y", grad_y, dtype, {T(), B(), H()});
    check_dense(op, "grad_h_n", grad_h_n, dtype, {B(), H()});
    check_dense(op, "grad_c_n", grad_c_n, dtype, {B(), H()});
    return dtype;
  }
};

// A pointer to a result's elements, or null where nobody needs it.
template <class T>
T* needed(bool need, Tensor& result) {
  return need ? mutable_data<T>(result) : nullptr;
}

// grad_w_hh, grad_h0 and grad_c0, with `set_input` to fill in where the pre-activations came
// from and where their gradients go. `ring`: only the last of those are kept.
template <class SetInput>
std::tuple<Tensor, Tensor, Tensor> run_backward(const Saved& saved, const Ragged& ragged,
                                                bool need_h0, bool ring,
                                                const SetInput& set_input) {
  const int64_t T = saved.T(), B = saved.B(), H = saved.H();
  Tensor grad_w_hh = new_output(saved.w_hh, {4 * H, H});
  Tensor grad_h0 = need_h0 ? new_output(saved.w_hh, {B, H}) : new_output(saved.w_hh, {0});
  Tensor grad_c0 = new_output(saved.w_hh, {B, H});
  with_real(saved.w_hh.scalar_type(), [&](auto zero) {
    using T_ = decltype(zero);
    cpu::LstmSequenceBackwardParams<T_> p{};
    set_input(p);
    p.chunk = std::clamp<int64_t>(cpu::kWeightGradDepth / std::max<int64_t>(B, 1), 1,
                                  std::max<int64_t>(T, 1));
    p.ring = ring;
    p.slots = ring ? p.chunk + 1 : T;
    const Split split(B, H, p.E + H, sizeof(T_));
    const int64_t packed = cpu::packed_size(H, H);
    const int64_t packed_ih = p.grad_x ? cpu::packed_size(p.E, H) : 0;
    const int64_t scratch = (cpu::weight_grad_scratch(H, split.members) + 15) / 16 * 16;
    const int64_t gates = ring ? p.slots * B * 4 * H : 0;
    p.packed = cpu::Workspace::get<T_>(packed + packed_ih + scratch + gates);
    p.packed_ih = p.packed + packed;
    p.weight_scratch = p.packed_ih + packed_ih;
    if (ring) p.grad_gates = p.weight_scratch + scratch;
    p.grad_y = data<T_>(saved.grad_y);
    p.grad_h_n = data<T_>(saved.grad_h_n);
    p.grad_c_n = data<T_>(saved.grad_c_n);
    p.act = data<T_>(saved.act);
    p.cell = data<T_>(saved.cell);
    p.y = data<T_>(saved.y);
    p.w_hh = data<T_>(saved.w_hh);
    p.h0 = data<T_>(saved.h0);
    p.c0 = data<T_>(saved.c0);
    p.lengths = data<int64_t>(saved.lengths);
    p.grad_w_hh = mutable_data<T_>(grad_w_hh);
    p.grad_h0 = needed<T_>(need_h0, grad_h0);
    p.grad_c0 = mutable_data<T_>(grad_c0);
    p.order = ragged.order_data();
    p.alive = ragged.alive_data();
    p.steps = T;
    p.B = B;
    p.H = H;
    p.reverse = saved.reverse;
    p.split_batch = split.batch;
    p.zero_h0 = all_zero(p.h0, B * H);
    const auto kernel = cpu::kernels().table(zero).lstm_backward;
    run_team(split.members, [&](const Team& team) { kernel(p, team); });
  });
  return {grad_w_hh, grad_h0, grad_c0};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_sequence_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& act, const Tensor& cell,
    const Tensor& y, const std::optional<Tensor>& ids_arg, const Tensor& w_hh, const Tensor& h0,
    const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse, int64_t num_rows,
    bool need_h0) {
  constexpr const char* op = "lstm_sequence_backward";
  const Saved saved{grad_y, grad_h_n, grad_c_n, act, cell, y, w_hh, h0, c0, lengths, reverse};
  saved.check(op);
  const int64_t T = saved.T(), B = saved.B(), H = saved.H();
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
  auto [grad_w_hh, grad_h0, grad_c0] =
      run_backward(saved, ragged, need_h0, ids.has_value(), [&](auto& p) {
        using T_ = std::remove_pointer_t<decltype(p.grad_c0)>;
        p.ids = data<int64_t>(ids);
        p.V = num_rows;
        (ids ? p.grad_table : p.grad_gates) = mutable_data<T_>(grad_gates);
      });
  return {grad_gates, grad_w_hh, grad_h0, grad_c0};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_over_input_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& act, const Tensor& cell,
    const Tensor& y, const Tensor& x, const Tensor& w_ih, const Tensor& w_hh, const Tensor& h0,
    const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse, bool need_x,
    bool need_w_ih, bool need_bias, bool need_h0) {
  constexpr const char* op = "lstm_layer_backward";
  const Saved saved{grad_y, grad_h_n, grad_c_n, act, cell, y, w_hh, h0, c0, lengths, reverse};
  const ScalarType dtype = saved.check(op);
  const int64_t T = saved.T(), B = saved.B(), H = saved.H(), E = w_ih.size(1);
  check_dense(op, "x", x, dtype, {T, B, E});
  check_dense(op, "w_ih", w_ih, dtype, {4 * H, E});
  const Ragged ragged(op, lengths, T, B);
  Tensor grad_x = need_x ? new_output(w_ih, {T, B, E}) : new_output(w_ih, {0});
  Tensor grad_w_ih = need_w_ih ? new_output(w_ih, {4 * H, E}) : new_output(w_ih, {0});
  Tensor grad_bias = new_output(w_ih, {need_bias ? 4 * H : 0});
  auto [grad_w_hh, grad_h0, grad_c0] = run_backward(saved, ragged, need_h0, true, [&](auto& p) {
    using T_ = std::remove_pointer_t<decltype(p.grad_c0)>;
    p.x = data<T_>(x);
    p.w_ih = data<T_>(w_ih);
    p.E = E;
    p.grad_x = needed<T_>(need_x, grad_x);
    p.grad_w_ih = needed<T_>(need_w_ih, grad_w_ih);
    p.grad_bias = needed<T_>(need_bias, grad_bias);
  });
  return {grad_x, grad_w_ih, grad_bias, grad_w_hh, grad_h0, grad_c0};
}

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) { FASTCHAR_IMPL(m, lstm_sequence_backward); }

}  // namespace fastchar
