// Launchers that lstm_layer is made of; each op's schema says what it takes and returns.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <optional>
#include <tuple>

namespace fastchar {

using torch::stable::Tensor;

Tensor embedding(const Tensor& weight, const Tensor& ids, int64_t padding_idx,
                 bool scale_grad_by_freq);
Tensor embedding_backward(const Tensor& grad, const Tensor& ids, int64_t num_weights,
                          int64_t padding_idx, bool scale_grad_by_freq);

Tensor linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias);
Tensor linear_input_grad(const Tensor& grad, const Tensor& weight);
std::tuple<Tensor, Tensor> linear_weight_grad(const Tensor& grad, const Tensor& input,
                                              bool need_bias);

// Whether a sequence of T steps packs w_hh, which a short one takes as it lies.
bool packs(int64_t T, int64_t B, const Tensor& w_hh);
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_sequence(
    const Tensor& gates, const std::optional<Tensor>& ids, const Tensor& w_hh, const Tensor& h0,
    const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse, bool save);
// The same of x [T, B, E], w_ih [4H, E] and bias [4H], with no tensor of pre-activations.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_over_input(
    const Tensor& x, const Tensor& w_ih, const Tensor& bias, const Tensor& w_hh,
    const Tensor& h0, const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse,
    bool save);
std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_sequence_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& act, const Tensor& cell,
    const Tensor& y, const std::optional<Tensor>& ids, const Tensor& w_hh, const Tensor& h0,
    const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse, int64_t num_rows,
    bool need_h0);
// Of w_ih [4H, E]: grad_x, grad_w_ih, grad_bias, grad_w_hh, grad_h0, grad_c0.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_over_input_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& act, const Tensor& cell,
    const Tensor& y, const Tensor& x, const Tensor& w_ih, const Tensor& w_hh, const Tensor& h0,
    const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse, bool need_x,
    bool need_w_ih, bool need_bias, bool need_h0);

}  // namespace fastchar
