// The cell's step and its gradient, and the loss's rows, against plain loops.
#include "cell.cuh"
#include "check.h"
#include "loss.cuh"
#include "lstm_reference.h"

using namespace fastchar::cuda;

namespace {

emu::Launch blocks(int count, int threads) {
  emu::Launch config{static_cast<unsigned>(count), static_cast<unsigned>(threads)};
  config.resident = 4;
  return config;
}

template <class T>
void test_cell(int B, int H) {
  const int units = (B * H + kPointwiseThreads - 1) / kPointwiseThreads;
  const auto gates = random_values<T>(B * 4 * H, 3), c = random_values<T>(B * H);
  std::vector<T> h_new(B * H), c_new(B * H), act(B * 4 * H), grad_gates(B * 4 * H),
      grad_c(B * H);
  const LstmCellParams<T> p{
      gates.data(), c.data(), h_new.data(), c_new.data(), act.data(), B, H};
  emu::launch(blocks(units, kPointwiseThreads), cell_step<T>, p);

  Sequence q{1,
             B,
             H,
             0,
             false,
             widened(gates),
             std::vector<double>(4 * H * H),
             std::vector<double>(B * H),
             widened(c),
             {},
             {}};
  const Forward f = forward(q);
  expect_close("cell h", h_new, f.y, 4);
  expect_close("cell c", c_new, f.cell, 4);
  expect_close("cell act", act, f.act, 4);

  const auto dh = random_values<T>(B * H), dc = random_values<T>(B * H);
  const std::vector<double> none(B * H);
  for (int given = 0; given < 4; ++given) {  // each gradient may be absent
    const LstmCellBackwardParams<T> d{given & 1 ? dh.data() : nullptr,
                                      given & 2 ? dc.data() : nullptr,
                                      act.data(),
                                      c.data(),
                                      grad_gates.data(),
                                      grad_c.data(),
                                      B,
                                      H};
    emu::launch(blocks(units, kPointwiseThreads), cell_step_backward<T>, d);
    const Backward r = backward(q, widened(act), widened(c_new), none,
                                given & 1 ? widened(dh) : none, given & 2 ? widened(dc) : none);
    expect_close("cell grad_gates", grad_gates, r.grad_gates, 8);
    expect_close("cell grad_c", grad_c, r.grad_c0, 8);
  }
}

template <class T>
void test_loss(int N, int C, double smoothing, bool with_bias, bool weighted) {
  const int64_t ignored = -100;
  auto logits = random_values<T>(N * C, 3);
  const auto bias = random_values<T>(C), grad_loss = random_values<T>(N);
  auto class_weight = random_values<T>(C);
  for (T& w : class_weight) w = narrow<T>(widen(w) + 2);
  std::vector<int64_t> target(N);
  for (int64_t& t : target) t = random_below(4) ? random_below(C) : ignored;
  target[0] = 0;  // somebody counts

  std::vector<double> losses(N), gradient(N * C);
  double total_weight = 0, total = 0;
  for (int n = 0; n < N; ++n) {
    if (target[n] == ignored) continue;
    std::vector<double> z(C);
    double sum = 0;
    for (int c = 0; c < C; ++c) {
      z[c] = widen(logits[n * C + c]) + (with_bias ? widen(bias[c]) : 0);
      sum += std::exp(z[c]);
    }
    const auto weight = [&](int c) -> double { return weighted ? widen(class_weight[c]) : 1; };
    for (int c = 0; c < C; ++c) {
      const double share = weight(c) * ((c == target[n]) * (1 - smoothing) + smoothing / C);
      losses[n] += share * (std::log(sum) - z[c]);
      for (int k = 0; k < C; ++k) {
        gradient[n * C + k] += widen(grad_loss[n]) * share * (std::exp(z[k]) / sum - (c == k));
      }
    }
    total_weight += weight(static_cast<int>(target[n]));
    total += losses[n];
  }

  std::vector<T> loss(N), mean(1);
  std::vector<Acc<T>> wide_loss(N);
  std::vector<double> partial(kSumBlocks), scale(1);
  LossParams<T> p{};
  p.logits = logits.data();
  p.bias = with_bias ? bias.data() : nullptr;
  p.target = target.data();
  p.class_weight = weighted ? class_weight.data() : nullptr;
  p.grad_loss = grad_loss.data();
  p.loss = loss.data();
  p.wide_loss = wide_loss.data();
  p.N = N;
  p.C = C;
  p.ignore_index = ignored;
  p.label_smoothing = smoothing;
  p.grad = true;
  emu::launch(blocks(kSumBlocks, kSumThreads), sum_tokens<T>, p, nullptr, partial.data());
  emu::launch(blocks(1, kSumThreads), invert_sum, partial.data(), scale.data());
  emu::launch(blocks((N + kLossRows - 1) / kLossRows, kLossRows * kWarp), loss_rows<T>, p);
  emu::launch(blocks(kSumBlocks, kSumThreads), sum_tokens<T>, p, wide_loss.data(),
              partial.data());
  emu::launch(blocks(1, kSumThreads), finish_loss<T>, partial.data(), scale.data(),
              mean.data());
  expect_close("loss", loss, losses, 8);
  expect_close("loss gradient", logits, gradient, 8);
  expect_close("mean loss", mean, {total / total_weight}, 8);

  std::vector<Acc<T>> sums((N + 4) / 5 * C);
  std::vector<T> column_sums(C);
  std::vector<double> expected(C);
  for (int i = 0; i < N * C; ++i) expected[i % C] += widen(logits[i]);
  emu::Launch config = blocks(static_cast<int>(column_tiles<1>(C)), kRowThreads);
  config.grid.y = static_cast<unsigned>((N + 4) / 5);
  emu::launch(config, sum_rows<T, Acc<T>, 1>, logits.data(), sums.data(), N, C, 5);
  config.grid.y = 1;
  emu::launch(config, sum_rows<Acc<T>, T, 1>, sums.data(), column_sums.data(), (N + 4) / 5, C,
              N);
  expect_close("sum_rows", column_sums, expected, 4);
}

// The gates of 16-bit types, but for the error of the hardware's 2^x and 1 / x, which the
// emulator doesn't have.
void test_quick() {
  const float inf = INFINITY;
  for (float x = -30; x <= 30; x += 0.0078125f) {
    for (const float near : {x, x / 64, x / 4096, 0.125f + x / 1e6f}) {
      const double s = 1 / (1 + std::exp(-double(near))), t = std::tanh(double(near));
      const double of_s = std::fabs(sigmoid(Quick(near)).value - s) / s;
      const double of_t = std::fabs(tanh(Quick(near)).value - t) / (t == 0 ? 1 : std::fabs(t));
      if (of_s > 0x1p-18) report("sigmoid of " + std::to_string(near));
      if (of_t > 0x1p-18) report("tanh of " + std::to_string(near));
    }
  }
  for (const float x : {inf, -inf}) {
    if (sigmoid(Quick(x)).value != (x > 0)) report("sigmoid at infinity");
    if (tanh(Quick(x)).value != (x > 0 ? 1 : -1)) report("tanh at infinity");
  }
  if (sigmoid(Quick(NAN)).value == sigmoid(Quick(NAN)).value) report("sigmoid of NaN");
  if (tanh(Quick(NAN)).value == tanh(Quick(NAN)).value) report("tanh of NaN");
}

}  // namespace

int main(int argc, char** argv) {
  return run_seeds(argc, argv, [] {
    test_quick();
    test_cell<float>(3, 100);
    test_cell<double>(1, 3);
    test_cell<half>(5, 7);
    test_loss<float>(19, 7, 0, true, false);
    test_loss<float>(3, 70, 0.1, false, true);
    test_loss<double>(2, 33, 0.2, true, true);
    test_loss<bfloat16>(9, 40, 0.1, true, false);
  });
}
