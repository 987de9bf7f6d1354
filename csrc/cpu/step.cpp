// Launchers of the LSTM step with its products on the CPU.
#include <torch/csrc/stable/ops.h>
#include <tuple>

#include "../check.h"
#include "../parallel.h"
#include "../registration.h"
#include "dispatch.h"
#include "output.h"
#include "workspace.h"

namespace fastchar {
namespace {

// Below this many multiplications a second thread costs more than it saves.
constexpr int64_t kProductsPerMember = 1 << 17;

// From this many rows on packing the weights pays.
constexpr int64_t kPackedRows = 32;

// [B, H], [B, E] and so on: uninitialised, or without elements where nobody needs it.
Tensor rows(const Tensor& like, int64_t B, int64_t columns, bool needed = true) {
  return needed ? new_output(like, {B, columns}) : new_output(like, {0});
}

std::tuple<Tensor, Tensor, Tensor> lstm_step(const Tensor& x, const Tensor& h, const Tensor& c,
                                             const Tensor& w_ih, const Tensor& w_hh,
                                             const std::optional<Tensor>& b_ih,
                                             const std::optional<Tensor>& b_hh) {
  constexpr const char* op = "lstm_step";
  check_cpu(op, "x", x);
  check_shape(op, "x", x, {kAny, kAny});
  const ScalarType dtype = check_real(op, "x", x);
  const int64_t B = x.size(0), E = x.size(1);
  check_dense(op, "c", c, dtype, {B, kAny});
  const int64_t H = c.size(1);
  check_dense(op, "h", h, dtype, {B, H});
  const bool halves = is_half_of(w_ih, dtype);
  const ScalarType held = halves ? ScalarType::BFloat16 : dtype;
  check_dense(op, "w_ih", w_ih, held, {4 * H, E});
  check_dense(op, "w_hh", w_hh, held, {4 * H, H});
  check_dense(op, "b_ih", b_ih, dtype, {4 * H});
  check_dense(op, "b_hh", b_hh, dtype, {4 * H});

  Tensor h_new = rows(x, B, H), c_new = rows(x, B, H), act = rows(x, B, 4 * H);
  const auto run = [&](auto zero, auto weight, const auto& kernel, bool packs) {
    using T = decltype(zero);
    using W = decltype(weight);
    const int64_t size = team_size(B * 4 * H * (E + H), kProductsPerMember);
    const cpu::LstmStepParams<T, W> p{
        data<T>(x),
        data<T>(h),
        data<T>(c),
        data<W>(w_ih),
        data<W>(w_hh),
        data<T>(b_ih),
        data<T>(b_hh),
        mutable_data<T>(h_new),
        mutable_data<T>(c_new),
        mutable_data<T>(act),
        packs ? cpu::Workspace::get<T>(size * cpu::step_panel(E + H)) : nullptr,
        B,
        E,
        H};
    run_team(size, [&](const Team& team) { kernel(p, team); });
  };
  const cpu::Kernels& kernels = cpu::kernels();
  if (halves) {
    run(float{}, cpu::BFloat16{}, kernels.lstm_step_bf16, false);
  } else {
    with_real(dtype, [&](auto zero) {
      run(zero, zero, kernels.table(zero).lstm_step, B >= kPackedRows);
    });
  }
  return {h_new, c_new, act};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_step_backward(
    const std::optional<Tensor>& grad_h_new, const std::optional<Tensor>& grad_c_new,
    const Tensor& act, const Tensor& c, const Tensor& w_ih, const Tensor& w_hh, bool need_x,
    bool need_h) {
  constexpr const char* op = "lstm_step_backward";
  check_cpu(op, "c", c);
  check_shape(op, "c", c, {kAny, kAny});
  const ScalarType dtype = check_real(op, "c", c);
  const int64_t B = c.size(0), H = c.size(1);
  check_dense(op, "act", act, dtype, {B, 4 * H});
  check_dense(op, "grad_h_new", grad_h_new, dtype, {B, H});
  check_dense(op, "grad_c_new", grad_c_new, dtype, {B, H});
  check_dense(op, "w_ih", w_ih, dtype, {4 * H, kAny});
  check_dense(op, "w_hh", w_hh, dtype, {4 * H, H});
  const int64_t E = w_ih.size(1);

  Tensor grad_gates = rows(c, B, 4 * H), grad_c = rows(c, B, H);
  Tensor grad_x = rows(c, B, E, need_x), grad_h = rows(c, B, H, need_h);
  with_real(dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t columns = need_x * E + need_h * H;
    const int64_t size = team_size(B * 4 * H * columns, kProductsPerMember);
    const cpu::LstmStepBackwardParams<T> p{
        {data<T>(grad_h_new), data<T>(grad_c_new), data<T>(act), data<T>(c),
         mutable_data<T>(grad_gates), mutable_data<T>(grad_c), B, H},
        data<T>(w_ih),
        data<T>(w_hh),
        need_x ? mutable_data<T>(grad_x) : nullptr,
        need_h ? mutable_data<T>(grad_h) : nullptr,
        cpu::Workspace::get<T>(size * cpu::step_panel(cpu::kStepDepth)),
        E};
    const auto kernel = cpu::kernels().table(zero).lstm_step_backward;
    run_team(size, [&](const Team& team) { kernel(p, team); });
  });
  return {grad_gates, grad_x, grad_h, grad_c};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) {
  FASTCHAR_IMPL(m, lstm_step);
  FASTCHAR_IMPL(m, lstm_step_backward);
}

}  // namespace fastchar
