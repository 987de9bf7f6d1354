// One LSTM layer in one direction in plain loops and doubles: what the kernels are checked
// against.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

struct Sequence {
  int T, B, H, V;  // V = 0: `gates` are pre-activations [T, B, 4H], otherwise a table [V, 4H]
  bool reverse;
  std::vector<double> gates, w_hh, h0, c0;
  std::vector<int64_t> ids, lengths;  // lengths empty: all T

  int length(int b) const { return lengths.empty() ? T : static_cast<int>(lengths[b]); }
  // Step number s of sequence b, in the order in which it is run.
  int step(int b, int s) const { return reverse ? length(b) - 1 - s : s; }
};

struct Forward {
  std::vector<double> y, h_n, c_n, act, cell;
};

inline Forward forward(const Sequence& q) {
  const int T = q.T, B = q.B, H = q.H;
  Forward f{std::vector<double>(T * B * H), q.h0, q.c0, std::vector<double>(T * B * 4 * H),
            std::vector<double>(T * B * H)};
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  for (int b = 0; b < B; ++b) {
    for (int s = 0; s < q.length(b); ++s) {
      const int row = q.step(b, s) * B + b;
      const double* input = &q.gates[(q.V ? q.ids[row] : row) * 4 * H];
      const std::vector<double> h(&f.h_n[b * H], &f.h_n[b * H] + H);
      double* act = &f.act[row * 4 * H];
      for (int g = 0; g < 4 * H; ++g) {
        double a = input[g];
        for (int k = 0; k < H; ++k) a += q.w_hh[g * H + k] * h[k];
        act[g] = g / H == 2 ? std::tanh(a) : sigmoid(a);
      }
      for (int u = 0; u < H; ++u) {
        double& c = f.c_n[b * H + u];
        c = act[H + u] * c + act[u] * act[2 * H + u];
        f.cell[row * H + u] = c;
        f.y[row * H + u] = f.h_n[b * H + u] = act[3 * H + u] * std::tanh(c);
      }
    }
  }
  return f;
}

struct Backward {
  std::vector<double> grad_gates, grad_h0, grad_c0;
};

// grad_y [T, B, H], grad_h_n, grad_c_n [B, H]; act and cell as the forward saved them.
inline Backward backward(const Sequence& q, const std::vector<double>& act,
                         const std::vector<double>& cell, const std::vector<double>& grad_y,
                         const std::vector<double>& grad_h_n,
                         const std::vector<double>& grad_c_n) {
  const int T = q.T, B = q.B, H = q.H;
  Backward r{std::vector<double>(T * B * 4 * H), grad_h_n, grad_c_n};
  for (int b = 0; b < B; ++b) {
    double *dh = &r.grad_h0[b * H], *dc = &r.grad_c0[b * H];
    for (int s = q.length(b) - 1; s >= 0; --s) {
      const int row = q.step(b, s) * B + b;
      const double* a = &act[row * 4 * H];
      double* d = &r.grad_gates[row * 4 * H];
      for (int u = 0; u < H; ++u) {
        const double i = a[u], f = a[H + u], g = a[2 * H + u], o = a[3 * H + u];
        const double tanh_c = std::tanh(cell[row * H + u]);
        const double before = s ? cell[(q.step(b, s - 1) * B + b) * H + u] : q.c0[b * H + u];
        const double h = dh[u] + grad_y[row * H + u];
        const double c = dc[u] + h * o * (1 - tanh_c * tanh_c);
        d[u] = c * g * i * (1 - i);
        d[H + u] = c * before * f * (1 - f);
        d[2 * H + u] = c * i * (1 - g * g);
        d[3 * H + u] = h * tanh_c * o * (1 - o);
        dc[u] = c * f;
      }
      for (int u = 0; u < H; ++u) {
        dh[u] = 0;
        for (int g = 0; g < 4 * H; ++g) dh[u] += d[g] * q.w_hh[g * H + u];
      }
    }
  }
  return r;
}
