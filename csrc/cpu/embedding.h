// Embedding gather and its scatter-add gradient.
// Part of isa_body.h: inside the instruction set's namespace.

// A result of this many bytes or more is larger than any cache and only written.
constexpr int64_t kStreamOutputBytes = 1 << 25;
constexpr int64_t kIdBlock = 256;

// out[0..n) = a, or a + b.
template <class T>
FASTCHAR_INLINE void copy_row(const T* a, T* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes<T>)
    store_upto(out + i, load_upto(a + i, n - i), n - i);
}
template <class T>
FASTCHAR_INLINE void add_rows(const T* a, const T* b, T* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    store_upto(out + i, load_upto(a + i, n - i) + load_upto(b + i, n - i), n - i);
  }
}

template <class T>
void embedding(const EmbeddingParams<T>& p, const Team& team) {
  constexpr int64_t line = 64 / sizeof(T);
  const bool past_caches = kCanStream && p.E % line == 0 &&
                           reinterpret_cast<uintptr_t>(p.out) % 64 == 0 &&
                           p.N * p.E * static_cast<int64_t>(sizeof(T)) >= kStreamOutputBytes;
  // Ids are checked a block ahead of their rows: they come out of memory once.
  for (int64_t begin = team.begin(p.N), end; begin < team.end(p.N); begin = end) {
    end = begin + kIdBlock < team.end(p.N) ? begin + kIdBlock : team.end(p.N);
    if (!all_ids_inside(p.ids + begin, end - begin, p.V)) {
      return p.outside->store(true, std::memory_order_relaxed);
    }
    for (int64_t n = begin; n < end; ++n) {
      const T* row = p.weight + p.ids[n] * p.E;
      T* out = p.out + n * p.E;
      if (!past_caches) {
        copy_row(row, out, p.E);
      } else {
        for (int64_t i = 0; i < p.E; i += line) stream(out + i, load(row + i));
      }
    }
  }
  finish_streaming();
}

// out[0..E) (+)= the R rows, in their order.
template <class T, int R>
void sum_rows(const T* const* rows, T* out, int64_t E, bool add) {
  for (int64_t e = 0; e < E; e += kLanes<T>) {
    Vec<T> sum = load_upto(rows[0] + e, E - e);
    if (add) sum = load_upto(out + e, E - e) + sum;
    for (int r = 1; r < R; ++r) sum = sum + load_upto(rows[r] + e, E - e);
    store_upto(out + e, sum, E - e);
  }
}

// The same for 1 to 4 rows: as many streams as hide the time that memory takes.
constexpr int64_t kSumRows = 4;
template <class T>
void sum_some_rows(int64_t count, const T* const* rows, T* out, int64_t E, bool add) {
  switch (count) {
    case 1:
      return sum_rows<T, 1>(rows, out, E, add);
    case 2:
      return sum_rows<T, 2>(rows, out, E, add);
    case 3:
      return sum_rows<T, 3>(rows, out, E, add);
    default:
      return sum_rows<T, 4>(rows, out, E, add);
  }
}

// Tokens in order of their ids, and of their own within an id: one chain of additions a row,
// whoever makes it. Members share out the rows by their tokens.
template <class T>
void embedding_backward_sorted(const EmbeddingBackwardParams<T>& p, const Team& team) {
  int64_t *end = p.order, *tokens = p.order + p.V;
  if (team.rank == 0) {
    std::memset(end, 0, sizeof(int64_t) * p.V);
    for (int64_t n = 0; n < p.N; ++n) end[p.ids[n]] += p.ids[n] != p.padding_idx;
    int64_t begin = 0;
    for (int64_t v = 0; v < p.V; ++v) {
      const int64_t count = end[v];
      end[v] = begin;
      begin += count;
    }
    for (int64_t n = 0; n < p.N; ++n) {
      if (p.ids[n] != p.padding_idx) tokens[end[p.ids[n]]++] = n;
    }
  }
  team.barrier->wait();

  const int64_t all = (p.V > 0 ? end[p.V - 1] : 0) + p.V;  // a row costs a token more
  for (int64_t v = 0, begin = 0; v < p.V; begin = end[v++]) {
    if (begin + v < team.begin(all) || begin + v >= team.end(all)) continue;
    T* out = p.grad_weight + v * p.E;
    const int64_t count = end[v] - begin;
    if (count == 0) std::memset(out, 0, sizeof(T) * p.E);
    for (int64_t i = 0; i < count; i += kSumRows) {
      const int64_t some = count - i < kSumRows ? count - i : kSumRows;
      const T* rows[kSumRows];
      for (int64_t r = 0; r < some; ++r) rows[r] = p.grad + tokens[begin + i + r] * p.E;
      sum_some_rows(some, rows, out, p.E, i > 0);
    }
    if (!p.counts || count == 0) continue;
    for (int64_t e = 0; e < p.E; ++e) out[e] /= static_cast<T>(count);
  }
}

// With a table of more than kLargeTable bytes its own traffic disturbs the processor's guesses,
// and grad is asked for kAhead bytes early, which gains nothing beside a small table.
constexpr int64_t kAhead = 2048, kLargeTable = 1 << 18;

// Tokens come in chunks, fixed by the shapes, each with a table [V, E] of its own (chunk 0 adds
// into the output), so that grad is read once, row by row and whole rows at a time: as fast as
// memory gives it, and slices of columns, each read with a stride, are not. The tables
// are added in order: same bits for any team. Members beyond the chunks take slices of columns.
template <class T>
void embedding_backward(const EmbeddingBackwardParams<T>& p, const Team& team) {
  if (p.order) return embedding_backward_sorted(p, team);
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t E = p.E, chunks = embedding_backward_chunks(p.N, p.V);
  const int64_t lines = (E + line - 1) / line;
  const bool large_table = p.V * E * static_cast<int64_t>(sizeof(T)) > kLargeTable;
  int64_t slices = (team.size + chunks - 1) / chunks;
  if (slices > lines) slices = lines > 0 ? lines : 1;

  for (int64_t unit = team.begin(chunks * slices); unit < team.end(chunks * slices); ++unit) {
    const int64_t chunk = unit / slices, slice = unit % slices;
    const int64_t begin = lines * slice / slices * line;
    const int64_t end = slice == slices - 1 ? E : lines * (slice + 1) / slices * line;
    T* table = chunk == 0 ? p.grad_weight : p.tables + (chunk - 1) * p.V * E;
    if (slices == 1) {  // many short rows cost a call each more than their bytes
      std::memset(table, 0, sizeof(T) * p.V * E);
    } else {
      for (int64_t v = 0; v < p.V; ++v) {
        std::memset(table + v * E + begin, 0, sizeof(T) * (end - begin));
      }
    }
    for (int64_t n = p.N * chunk / chunks; n < p.N * (chunk + 1) / chunks; ++n) {
      if (p.ids[n] == p.padding_idx) continue;
      T* row = table + p.ids[n] * E + begin;
      const T* grad = p.grad + n * E + begin;
      if (large_table) {
        for (int64_t e = 0; e < end - begin; e += line) {
          __builtin_prefetch(grad + e + kAhead / static_cast<int64_t>(sizeof(T)));
        }
      }
      add_rows(row, grad, row, end - begin);
    }
  }
  if (chunks == 1 && !p.counts) return;
  if (p.counts && team.rank == 0) {
    std::memset(p.counts, 0, sizeof(int64_t) * p.V);
    for (int64_t n = 0; n < p.N; ++n) ++p.counts[p.ids[n]];
  }
  team.barrier->wait();

  for (int64_t v = team.begin(p.V); v < team.end(p.V); ++v) {
    T* row = p.grad_weight + v * E;
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      add_rows(row, p.tables + ((chunk - 1) * p.V + v) * E, row, E);
    }
    if (!p.counts || p.counts[v] == 0) continue;
    for (int64_t e = 0; e < E; ++e) row[e] /= static_cast<T>(p.counts[v]);
  }
}
