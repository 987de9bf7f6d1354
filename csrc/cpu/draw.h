// Drawing a symbol from logits, in double: what fastchar/reference/generation.py does, in the
// same order. For the launchers: no instruction set of its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace fastchar::cpu {

struct Draw {
  double temperature;  // 0: the most probable symbol
  int64_t top_k;       // the most probable symbols that may come
  double top_p;        // of those, the fewest that have this probability together
};

// Draws from one distribution after another over V symbols, without allocating for each.
class Drawer {
 public:
  Drawer(const Draw& draw, int64_t V)
      : draw_(draw), p_(static_cast<size_t>(V)), order_(static_cast<size_t>(V)) {}

  // The symbol at which the sum of probabilities passes u, in [0, 1), of logits [V]; -1 unless
  // their largest is finite and none is NaN.
  template <class T>
  int64_t operator()(const T* logits, double u) {
    double best = -std::numeric_limits<double>::infinity();
    int64_t first = 0;
    for (int64_t v = 0; v < size(); ++v) {
      const double x = logits[v];
      if (std::isnan(x)) return -1;
      if (x > best) {
        best = x;
        first = v;
      }
    }
    if (!std::isfinite(best)) return -1;
    if (draw_.temperature == 0) return first;

    double sum = 0;
    const bool all = draw_.top_k >= size();
    for (int64_t v = 0; v < size(); ++v) p_[v] = logits[v];
    if (!all) keep_largest(draw_.top_k);
    for (double& p : p_) sum += p = std::exp((p - best) / draw_.temperature);
    for (double& p : p_) p /= sum;
    if (draw_.top_p < 1) keep_nucleus();
    return find(u);
  }

 private:
  int64_t size() const { return static_cast<int64_t>(p_.size()); }

  // The largest come first, of equal ones the first: all symbols, or the first `count` of them.
  void rank(int64_t count) {
    for (int64_t v = 0; v < size(); ++v) order_[v] = v;
    std::partial_sort(
        order_.begin(), order_.begin() + count, order_.end(),
        [this](int64_t a, int64_t b) { return p_[a] > p_[b] || (p_[a] == p_[b] && a < b); });
  }

  void keep_largest(int64_t count) {
    rank(count);
    for (int64_t i = count; i < size(); ++i) {
      p_[order_[i]] = -std::numeric_limits<double>::infinity();
    }
  }

  // A symbol is out if those before it have enough already.
  void keep_nucleus() {
    rank(size());
    double before = 0;
    for (const int64_t v : order_) {
      const double p = p_[v];
      if (before >= draw_.top_p) p_[v] = 0;
      before += p;
    }
  }

  int64_t find(double u) const {
    double sum = 0;
    for (const double p : p_) sum += p;
    const double target = u * sum;
    double passed = 0;
    for (int64_t v = 0; v < size(); ++v) {
      passed += p_[v];
      if (passed > target) return v;
    }
    return -1;  // not for u < 1
  }

  const Draw draw_;
  std::vector<double> p_;
  std::vector<int64_t> order_;
};

}  // namespace fastchar::cpu
