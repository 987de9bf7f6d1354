// Launcher of a language model that writes its own text: every step's symbol is drawn from the
// logits of the step before, without Python between them.
#include <torch/csrc/stable/ops.h>
#include <cmath>
#include <cstring>
#include <tuple>
#include <vector>

#include "../check.h"
#include "../parallel.h"
#include "../registration.h"
#include "dispatch.h"
#include "draw.h"
#include "output.h"
#include "workspace.h"

namespace fastchar {
namespace {

// Multiplications a step below which a member more costs more than it saves: barriers, since
// the team is made once a call.
constexpr int64_t kProductsPerMember = 1 << 15;

void check_draw(const char* op, const cpu::Draw& draw, int64_t V) {
  if (!(draw.temperature >= 0) || std::isinf(draw.temperature)) {
    fail(op, "temperature", "0 or more, and finite", draw.temperature);
  }
  if (draw.top_k < 1) fail(op, "top_k", "1 or more", draw.top_k);
  if (!(draw.top_p > 0 && draw.top_p <= 1)) {
    fail(op, "top_p", "more than 0 and at most 1", draw.top_p);
  }
  if (V < 1) fail(op, "table", "at least one row", V);
}

// Every member runs this, and draws every symbol for itself: the same one, and sooner than it
// could be told.
template <class T, class W, class Step>
void write_text(cpu::LstmGenerateParams<T, W> p, const Step& step, const cpu::Draw& draw,
                const double* draws, int64_t n, int64_t end, T* h_other, int64_t* ids,
                const Team& team) {
  cpu::Drawer drawn(draw, p.V);
  std::vector<bool> seen(static_cast<size_t>(p.V));
  T* const h = p.h_new;
  int64_t t = 0;
  for (; t < n; ++t) {
    p.fresh = !seen[p.id];
    seen[p.id] = true;
    step(p, team);
    p.h = p.h_new;
    p.h_new = p.h == h ? h_other : h;
    p.id = drawn(p.logits, draws[t]);
    if (team.rank == 0) ids[t] = p.id;
    if (p.id == end || p.id < 0) break;
  }
  team.barrier->wait();
  if (team.rank > 0) return;
  for (++t; t < n; ++t) ids[t] = ids[t - 1];
  if (p.h != h) std::memcpy(h, p.h, sizeof(T) * p.L * p.H);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> lstm_generate(
    int64_t first, const Tensor& table, const std::vector<Tensor>& weights,
    const Tensor& output_weight, const Tensor& output_bias, const Tensor& h0, const Tensor& c0,
    const Tensor& draws, double temperature, int64_t top_k, double top_p, int64_t end) {
  constexpr const char* op = "lstm_generate";
  check_cpu(op, "table", table);
  check_shape(op, "table", table, {kAny, kAny});
  const ScalarType dtype = check_real(op, "table", table);
  const int64_t V = table.size(0), E = table.size(1);
  check_dense(op, "h0", h0, dtype, {kAny, kAny});
  const int64_t L = h0.size(0), H = h0.size(1);
  check_dense(op, "c0", c0, dtype, {L, H});
  if (L < 1 || H < 1) fail(op, "h0", "at least one layer of one unit", shape_of(h0));
  if (static_cast<int64_t>(weights.size()) != 4 * L) {
    fail(op, "weights", "4 tensors for each layer", weights.size());
  }
  // Weights may be halves of floats; all else has the table's dtype.
  const bool halves = is_half_of(output_weight, dtype);
  const ScalarType held = halves ? ScalarType::BFloat16 : dtype;
  for (size_t i = 0; i < weights.size(); i += 4) {
    check_dense(op, "weights", weights[i], held, {4 * H, i ? H : E});
    check_dense(op, "weights", weights[i + 1], held, {4 * H, H});
    check_dense(op, "weights", weights[i + 2], dtype, {4 * H});
    check_dense(op, "weights", weights[i + 3], dtype, {4 * H});
  }
  check_dense(op, "output_weight", output_weight, held, {V, H});
  check_dense(op, "output_bias", output_bias, dtype, {V});
  check_dense(op, "draws", draws, ScalarType::Double, {kAny});
  const cpu::Draw draw{temperature, top_k, top_p};
  check_draw(op, draw, V);
  if (first < 0 || first >= V) fail(op, "first", "a row of table", first);

  const int64_t n = draws.size(0);
  Tensor ids = torch::stable::new_empty(draws, {n}, ScalarType::Long);
  Tensor h_n = new_output(h0, {L, H}), c_n = new_output(h0, {L, H});
  std::memcpy(c_n.mutable_data_ptr(), c0.const_data_ptr(),
              static_cast<size_t>(L * H) * c0.element_size());
  const auto write = [&](auto zero, auto half, const auto& step) {
    using T = decltype(zero);
    using W = decltype(half);
    std::vector<const W*> matrices;
    std::vector<const T*> biases;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (i % 4 < 2) {
        matrices.push_back(data<W>(weights[i]));
      } else {
        biases.push_back(data<T>(weights[i]));
      }
    }
    T* rows = cpu::Workspace::get<T>(V * 4 * H + L * H + 4 * H + V);
    T *h_other = rows + V * 4 * H, *act = h_other + L * H;
    const cpu::LstmGenerateParams<T, W> p{data<T>(table),
                                          matrices.data(),
                                          biases.data(),
                                          data<W>(output_weight),
                                          data<T>(output_bias),
                                          rows,
                                          data<T>(h0),
                                          mutable_data<T>(h_n),
                                          mutable_data<T>(c_n),
                                          act,
                                          act + 4 * H,
                                          V,
                                          E,
                                          H,
                                          L,
                                          first,
                                          true};
    int64_t* out = mutable_data<int64_t>(ids);
    const int64_t products = (8 * L - 4) * H * H + V * H;
    run_team(team_size(products, kProductsPerMember), [&](const Team& team) {
      write_text(p, step, draw, data<double>(draws), n, end, h_other, out, team);
    });
  };
  const cpu::Kernels& kernels = cpu::kernels();
  if (halves) {
    write(float{}, cpu::BFloat16{}, kernels.lstm_generate_step_bf16);
  } else {
    with_real(dtype,
              [&](auto zero) { write(zero, zero, kernels.table(zero).lstm_generate_step); });
  }
  return {ids, h_n, c_n};
}

STABLE_TORCH_LIBRARY_IMPL(fastchar, CPU, m) { FASTCHAR_IMPL(m, lstm_generate); }

}  // namespace fastchar
