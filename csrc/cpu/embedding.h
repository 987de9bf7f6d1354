// Embedding gather and its scatter-add gradient.
// Part of isa_body.h: inside the instruction set's namespace.

template <class T>
void embedding(const EmbeddingParams<T>& p, const Team& team) {
  for (int64_t n = team.begin(p.N); n < team.end(p.N); ++n) {
    std::memcpy(p.out + n * p.E, p.weight + p.ids[n] * p.weight_stride, sizeof(T) * p.E);
  }
}

// Each member owns a slice of columns for all V rows, so that no two members write the same
// element and the order of additions into an element is that of the tokens, whatever the team.
template <class T>
void embedding_backward(const EmbeddingBackwardParams<T>& p, const Team& team) {
  const int64_t e0 = team.begin(p.E), e1 = team.end(p.E);
  for (int64_t v = 0; v < p.V; ++v) {
    for (int64_t e = e0; e < e1; ++e) p.grad_weight[v * p.E + e] = T(0);
  }
  for (int64_t n = 0; n < p.N; ++n) {
    const int64_t v = p.ids[n];
    if (v == p.padding_idx) continue;
    for (int64_t e = e0; e < e1; ++e) p.grad_weight[v * p.E + e] += p.grad[n * p.E + e];
  }
  if (!p.scale_grad_by_freq) return;
  for (int64_t v = 0; v < p.V; ++v) {
    int64_t count = 0;
    for (int64_t n = 0; n < p.N; ++n) count += p.ids[n] == v;
    if (count == 0) continue;
    for (int64_t e = e0; e < e1; ++e) p.grad_weight[v * p.E + e] /= static_cast<T>(count);
  }
}
