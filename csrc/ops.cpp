// Every op's schema. All are functional: nothing is written to an argument, nothing an op
// returns aliases one. Implementations register themselves: csrc/cpu/*.cpp.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastchar, m) {
  m.def("embedding(Tensor weight, Tensor ids) -> Tensor");
  m.def(
      "embedding_backward(Tensor grad, Tensor ids, int num_weights, int padding_idx, "
      "bool scale_grad_by_freq) -> Tensor");
  m.def("lstm_cell(Tensor gates, Tensor c) -> (Tensor h_new, Tensor c_new, Tensor act)");
  m.def(
      "lstm_cell_backward(Tensor? grad_h, Tensor? grad_c, Tensor act, Tensor c, Tensor c_new) "
      "-> (Tensor grad_gates, Tensor grad_c_prev)");
  m.def(
      "lstm_sequence(Tensor gates, Tensor? ids, Tensor w_hh, Tensor h0, Tensor c0, "
      "Tensor? lengths, bool reverse, bool save) "
      "-> (Tensor y, Tensor h_n, Tensor c_n, Tensor act, Tensor cell)");
  m.def(
      "lstm_sequence_backward(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor act, "
      "Tensor cell, Tensor w_hh, Tensor c0, Tensor? lengths, bool reverse) "
      "-> (Tensor grad_gates, Tensor grad_h0, Tensor grad_c0)");
  m.def(
      "linear_cross_entropy(Tensor input, Tensor weight, Tensor? bias, Tensor target, "
      "Tensor? class_weight, int ignore_index, float label_smoothing, bool save) "
      "-> (Tensor loss, Tensor log_sum_exp)");
  m.def(
      "linear_cross_entropy_backward(Tensor grad_loss, Tensor input, Tensor weight, "
      "Tensor? bias, Tensor target, Tensor? class_weight, Tensor log_sum_exp, "
      "int ignore_index, float label_smoothing) "
      "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}
