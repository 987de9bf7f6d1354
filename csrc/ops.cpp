// Every op's schema. All are functional: nothing is written to an argument, nothing an op
// returns aliases one. Implementations register themselves:
// csrc/cpu/*.cpp, csrc/cuda/*.cu.
#include "registration.h"

using fastchar::define;

STABLE_TORCH_LIBRARY(fastchar, m) {
  // The options are for the gradient alone: embedding_backward's.
  define(m,
         "embedding(Tensor weight, Tensor ids, int padding_idx, bool scale_grad_by_freq) -> "
         "Tensor");
  define(m,
         "embedding_backward(Tensor grad, Tensor ids, int num_weights, int padding_idx, "
         "bool scale_grad_by_freq) -> Tensor");
  define(m, "lstm_cell(Tensor gates, Tensor c) -> (Tensor h_new, Tensor c_new, Tensor act)");
  define(m,
         "lstm_cell_backward(Tensor? grad_h, Tensor? grad_c, Tensor act, Tensor c) "
         "-> (Tensor grad_gates, Tensor grad_c_prev)");
  // The step with its products. With all else in float32, w_ih and w_hh may be in bfloat16.
  // A weight's gradient is one product over the rows of all steps: see fastchar/steps.py.
  define(m,
         "lstm_step(Tensor x, Tensor h, Tensor c, Tensor w_ih, Tensor w_hh, Tensor? b_ih, "
         "Tensor? b_hh) -> (Tensor h_new, Tensor c_new, Tensor act)");
  // grad_x and grad_h have no elements where they are not needed.
  define(m,
         "lstm_step_backward(Tensor? grad_h_new, Tensor? grad_c_new, Tensor act, Tensor c, "
         "Tensor w_ih, Tensor w_hh, bool need_x, bool need_h) "
         "-> (Tensor grad_gates, Tensor grad_x, Tensor grad_h, Tensor grad_c)");
  // A language model's own text: what follows symbol `first` and the state h0, c0 [L, H], a
  // symbol for each of `draws` [n] in [0, 1). weights: w_ih, w_hh, b_ih, b_hh of each layer;
  // all is of one dtype, but with float32 the matrices w_ih, w_hh and output_weight may be in
  // bfloat16. After `end` comes nothing but `end`; from a step without a distribution on, -1.
  define(
      m,
      "lstm_generate(int first, Tensor table, Tensor[] weights, Tensor output_weight, "
      "Tensor output_bias, Tensor h0, Tensor c0, Tensor draws, float temperature, int top_k, "
      "float top_p, int end) -> (Tensor ids, Tensor h_n, Tensor c_n)");
  define(m,
         "lstm_sequence(Tensor gates, Tensor? ids, Tensor w_hh, Tensor h0, Tensor c0, "
         "Tensor? lengths, bool reverse, bool save) "
         "-> (Tensor y, Tensor h_n, Tensor c_n, Tensor act, Tensor cell)");
  // grad_h0 has no elements where it is not needed.
  define(
      m,
      "lstm_sequence_backward(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor act, "
      "Tensor cell, Tensor y, Tensor? ids, Tensor w_hh, Tensor h0, Tensor c0, Tensor? lengths, "
      "bool reverse, int num_rows, bool need_h0) "
      "-> (Tensor grad_gates, Tensor grad_w_hh, Tensor grad_h0, Tensor grad_c0)");
  // Of a loop's steps, each with its grad_gates [B, 4H] and input [B, K] (x or h), where B may
  // differ: grad_weight [4H, K], and grad_bias [4H] or without elements.
  define(m,
         "lstm_step_weight_grad(Tensor[] grad_gates, Tensor[] input, bool need_bias) "
         "-> (Tensor grad_weight, Tensor grad_bias)");
  // lstm_sequence of the projected input: x [T, B, K], or ids [T, B] into the table [V, K],
  // whose row padding_idx gets no gradient (-1: all do). grad_x is x's or the table's.
  // Gradients have no elements where they are not needed.
  define(m,
         "lstm_layer(Tensor x, Tensor? table, Tensor w_ih, Tensor? b_ih, Tensor? b_hh, "
         "Tensor w_hh, Tensor h0, Tensor c0, Tensor? lengths, int padding_idx, bool reverse, "
         "bool save) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor act, Tensor cell)");
  define(m,
         "lstm_layer_backward(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor act, "
         "Tensor cell, Tensor y, Tensor x, Tensor? table, Tensor w_ih, Tensor w_hh, Tensor h0, "
         "Tensor c0, Tensor? lengths, int padding_idx, bool reverse, bool need_x, "
         "bool need_w_ih, bool need_bias, bool need_h0) "
         "-> (Tensor grad_x, Tensor grad_w_ih, Tensor grad_b_ih, Tensor grad_b_hh, "
         "Tensor grad_w_hh, Tensor grad_h0, Tensor grad_c0)");
  // input [M, K], weight [N, K], grad [M, N]; grad_bias has no elements where it is not needed.
  define(m, "linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor");
  define(m, "linear_input_grad(Tensor grad, Tensor weight) -> Tensor");
  define(m,
         "linear_weight_grad(Tensor grad, Tensor input, bool need_bias) "
         "-> (Tensor grad_weight, Tensor grad_bias)");
  define(m,
         "linear_cross_entropy(Tensor input, Tensor weight, Tensor? bias, Tensor target, "
         "Tensor? class_weight, int ignore_index, float label_smoothing) -> Tensor");
  define(m,
         "linear_cross_entropy_backward(Tensor grad_loss, Tensor input, Tensor weight, "
         "Tensor? bias, Tensor target, Tensor? class_weight, int ignore_index, "
         "float label_smoothing) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  // The sum or mean of the above, and with `grad` its gradients in the same pass: the logits
  // are made once, not again in the backward. Without `grad` the gradients have no elements.
  define(
      m,
      "linear_cross_entropy_reduced(Tensor input, Tensor weight, Tensor? bias, Tensor target, "
      "Tensor? class_weight, int ignore_index, float label_smoothing, bool mean, bool grad) "
      "-> (Tensor loss, Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}
