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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_sequence(
    const Tensor& gates, const std::optional<Tensor>& ids, const Tensor& w_hh, const Tensor& h0,
    const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse, bool save);
std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_sequence_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_h_n,
    const std::optional<Tensor>& grad_c_n, const Tensor& act, const Tensor& cell,
    const Tensor& y, const std::optional<Tensor>& ids, const Tensor& w_hh, const Tensor& h0,
    const Tensor& c0, const std::optional<Tensor>& lengths, bool reverse, int64_t num_rows,
    bool need_h0);

}  // namespace fastchar
