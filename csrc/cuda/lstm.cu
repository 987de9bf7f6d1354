// The sequence LSTM on CUDA: the ops' launchers, and the way without a resident W_hh.
#include "lstm.h"

#include <cstdlib>
#include <tuple>

#include "../registration.h"
#include "before.cuh"
#include "embedding.h"
#include "steps.cuh"
#include "ways.h"

namespace fastchar::cuda {
namespace {

// One product per step (torch's GEMM) and a pointwise kernel.
template <class T>
void forward_by_steps(const LstmSequenceParams<T>& p, const SequenceTensors& tensors,
                      const OnDevice& device) {
  const int64_t B = p.B, H = p.H;
  const Tensor& w_hh = tensors.w_hh;
  const Tensor w_t = torch::stable::transpose(w_hh, 0, 1);
  Tensor recurrent = torch::stable::new_empty(w_hh, {B, 4 * H});
  Tensor c = torch::stable::new_empty(w_hh, {B, H}, accumulator(w_hh.scalar_type()));
  for (int s = 0; s < p.steps; ++s) {
    mm_out(recurrent, s ? *tensors.h_n : *tensors.h0, w_t);
    forward_step<T>
        <<<blocks_for(B * H, kPointwiseThreads), kPointwiseThreads, 0, device.stream()>>>(
            p, data<T>(recurrent), mutable_data<Acc<T>>(c), p.reverse ? p.steps - 1 - s : s,
            s == 0);
  }
}

template <class T>
void backward_by_steps(const LstmSequenceBackwardParams<T>& p, const SequenceTensors& tensors,
                       const OnDevice& device) {
  const int64_t B = p.B, H = p.H;
  const Tensor& w_hh = tensors.w_hh;
  const ScalarType wide = accumulator(w_hh.scalar_type());
  Tensor recurrent = torch::stable::new_empty(w_hh, {B, H});
  Tensor dh = torch::stable::new_empty(w_hh, {B, H}, wide);
  Tensor dc = torch::stable::new_empty(w_hh, {B, H}, wide);
  const unsigned blocks = blocks_for(B * H, kPointwiseThreads);
  int last_t = 0;
  for (int s = 0; s < p.steps; ++s) {
    const int t = p.reverse ? s : p.steps - 1 - s;
    backward_step<T><<<blocks, kPointwiseThreads, 0, device.stream()>>>(
        p, s ? data<T>(recurrent) : nullptr, mutable_data<Acc<T>>(dh), mutable_data<Acc<T>>(dc),
        t, last_t);
    mm_out(recurrent, torch::stable::select(*tensors.grad_gates, 0, t), w_hh);
    last_t = t;
  }
  backward_end<T><<<blocks, kPointwiseThreads, 0, device.stream()>>>(
      p, p.steps ? data<T>(recurrent) : nullptr, data<Acc<T>>(dh), data<Acc<T>>(dc), last_t);
}

// Nothing else served; not what somebody asked for who forced another way.
void check_steps_allowed(const char* op) {
  bool forced;
  if (parse_way(std::getenv("FASTCHAR_CUDA_LSTM"), &forced) == Way::kSteps) return;
  throw std::runtime_error(std::string("fastchar::") + op +
                           ": FASTCHAR_CUDA_LSTM forces a kernel that doesn't serve this size, "
                           "type or device");
}

// Lengths stay on the device, unread by the host: the kernels clamp them to 0..T.
void check_lengths(const Tensor& like, const char* op, const std::optional<Tensor>& lengths,
                   int64_t B) {
  check_dense_on(like, op, "lengths", lengths, ScalarType::Long, {B});
}

void check_sizes(const char* op, int64_t T, int64_t B, int64_t H) {
  if (T > INT32_MAX || B > INT32_MAX || H > INT32_MAX / 4) {
    fail(op, "gates", "sizes below 2^31", "larger ones");
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_sequence(
    const Tensor& gates, const std::optional<Tensor>& ids_arg, const Tensor& w_hh,
    const Tensor& h0, const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse,
    bool save) {
  constexpr const char* op = "lstm_sequence";
  const OnDevice device(gates);
  const ScalarType dtype = gates.scalar_type();
  check_shape(op, "w_hh", w_hh, {kAny, kAny});
  const int64_t H = w_hh.size(1);
  check_dense_on(gates, op, "w_hh", w_hh, dtype, {4 * H, H});
  check_shape(op, "h0", h0, {kAny, H});
  const int64_t B = h0.size(0);
  check_dense_on(gates, op, "h0", h0, dtype, {B, H});
  check_dense_on(gates, op, "c0", c0, dtype, {B, H});
  check_lengths(gates, op, lengths, B);
  std::optional<Tensor> ids;
  int64_t T = 0, V = 0;
  if (ids_arg) {
    check_shape(op, "ids", *ids_arg, {kAny, B});
    ids = ids_on(gates, op, "ids", *ids_arg);
    T = ids->size(0);
    check_dense_on(gates, op, "gates", gates, dtype, {kAny, 4 * H});
    V = gates.size(0);
  } else {
    check_dense_on(gates, op, "gates", gates, dtype, {kAny, B, 4 * H});
    T = gates.size(0);
  }
  check_sizes(op, T, B, H);

  const auto empty = [&](std::initializer_list<int64_t> sizes) {
    return torch::stable::new_empty(gates, sizes);
  };
  Tensor y = empty({T, B, H}), h_n = empty({B, H}), c_n = empty({B, H});
  Tensor act = save ? empty({T, B, 4 * H}) : empty({0});
  Tensor cell = save ? empty({T, B, H}) : empty({0});
  if (T * B * H == 0) {
    torch::stable::copy_(h_n, h0);
    torch::stable::copy_(c_n, c0);
    return {y, h_n, c_n, act, cell};
  }
  with_dtype(op, "gates", dtype, [&](auto zero) {
    using T_ = decltype(zero);
    LstmSequenceParams<T_> p{};
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
    p.steps = static_cast<int>(T);
    p.B = static_cast<int>(B);
    p.H = static_cast<int>(H);
    p.V = V;
    p.reverse = reverse;
    SequenceTensors tensors{w_hh};
    tensors.h0 = &h0;
    tensors.h_n = &h_n;
    if (!resident_forward_launch(p, tensors, device)) {
      check_steps_allowed(op);
      forward_by_steps(p, tensors, device);
    }
    check_launch(op);
  });
  return {y, h_n, c_n, act, cell};
}

// grad_w_hh [4H, H] from grad_gates [T, B, 4H], zero past each end.
template <class T>
void recurrent_weight_grad(const LstmSequenceBackwardParams<T>& p, const Tensor& grad_gates,
                           const Tensor& y, const Tensor& h0, Tensor& grad_w_hh,
                           const OnDevice& device) {
  const int64_t N = static_cast<int64_t>(p.steps) * p.B, H = p.H;
  Tensor before = torch::stable::new_empty(y, {N, H});
  const StatesBeforeParams<T> q{data<T>(y), data<T>(h0), p.lengths, mutable_data<T>(before),
                                p.steps,    p.B,         p.H,       p.reverse};
  const bool possible = H % (16 / static_cast<int64_t>(sizeof(T))) == 0 && aligned_to_16(q.y) &&
                        aligned_to_16(q.h0);
  with_pack<T>(possible, [&](auto n) {
    const dim3 grid(blocks_for(N, kRowThreads / lanes_per_row<n>(H)),
                    static_cast<unsigned>(column_tiles<n>(H)));
    states_before<T, n><<<grid, kRowThreads, 0, device.stream()>>>(q);
  });
  const Tensor by_token = torch::stable::view(grad_gates, {N, 4 * H});
  mm_out(grad_w_hh, torch::stable::transpose(by_token, 0, 1), before);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_sequence_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& act, const Tensor& cell,
    const Tensor& y, const std::optional<Tensor>& ids_arg, const Tensor& w_hh, const Tensor& h0,
    const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse, int64_t num_rows,
    bool need_h0) {
  constexpr const char* op = "lstm_sequence_backward";
  const OnDevice device(cell);
  const ScalarType dtype = cell.scalar_type();
  check_shape(op, "cell", cell, {kAny, kAny, kAny});
  const int64_t T = cell.size(0), B = cell.size(1), H = cell.size(2);
  check_dense_on(cell, op, "cell", cell, dtype, {T, B, H});
  check_dense_on(cell, op, "act", act, dtype, {T, B, 4 * H});
  check_dense_on(cell, op, "y", y, dtype, {T, B, H});
  check_dense_on(cell, op, "w_hh", w_hh, dtype, {4 * H, H});
  check_dense_on(cell, op, "h0", h0, dtype, {B, H});
  check_dense_on(cell, op, "c0", c0, dtype, {B, H});
  check_dense_on(cell, op, "grad_y", grad_y, dtype, {T, B, H});
  check_dense_on(cell, op, "grad_h_n", grad_h_n, dtype, {B, H});
  check_dense_on(cell, op, "grad_c_n", grad_c_n, dtype, {B, H});
  check_lengths(cell, op, lengths, B);
  check_sizes(op, T, B, H);
  std::optional<Tensor> ids;
  if (ids_arg) {
    check_shape(op, "ids", *ids_arg, {T, B});
    if (num_rows < 0) fail(op, "num_rows", "a count", num_rows);
    ids = ids_on(cell, op, "ids", *ids_arg);
  }

  Tensor grad_gates = torch::stable::new_empty(cell, {T, B, 4 * H});
  Tensor grad_w_hh = torch::stable::new_empty(cell, {4 * H, H});
  Tensor grad_h0 =
      need_h0 ? torch::stable::new_empty(cell, {B, H}) : torch::stable::new_empty(cell, {0});
  Tensor grad_c0 = torch::stable::new_empty(cell, {B, H});
  with_dtype(op, "cell", dtype, [&](auto zero) {
    using T_ = decltype(zero);
    LstmSequenceBackwardParams<T_> p{};
    p.grad_y = data<T_>(grad_y);
    p.grad_h_n = data<T_>(grad_h_n);
    p.grad_c_n = data<T_>(grad_c_n);
    p.act = data<T_>(act);
    p.cell = data<T_>(cell);
    p.w_hh = data<T_>(w_hh);
    p.c0 = data<T_>(c0);
    p.lengths = data<int64_t>(lengths);
    p.grad_gates = mutable_data<T_>(grad_gates);
    p.grad_h0 = need_h0 ? mutable_data<T_>(grad_h0) : nullptr;
    p.grad_c0 = mutable_data<T_>(grad_c0);
    p.steps = static_cast<int>(T);
    p.B = static_cast<int>(B);
    p.H = static_cast<int>(H);
    p.reverse = reverse;
    SequenceTensors tensors{w_hh};
    tensors.grad_gates = &grad_gates;
    if (B * H > 0 && !resident_backward_launch(p, tensors, device)) {
      check_steps_allowed(op);
      backward_by_steps(p, tensors, device);
    }
    if (T * B * H > 0) {
      recurrent_weight_grad(p, grad_gates, y, h0, grad_w_hh, device);
    } else {
      torch::stable::zero_(grad_w_hh);
    }
    check_launch(op);
  });
  // Until here a row per token; with ids the rows of the table are asked for.
  if (ids) grad_gates = scatter_tokens(grad_gates, *ids, lengths, num_rows);
  return {grad_gates, grad_w_hh, grad_h0, grad_c0};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastchar, CUDA, m) {
  FASTCHAR_IMPL(m, lstm_sequence);
  FASTCHAR_IMPL(m, lstm_sequence_backward);
}

}  // namespace fastchar::cuda
