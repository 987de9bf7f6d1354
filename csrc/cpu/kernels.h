// The CPU kernels' interface: plain parameter structs and one table of functions per
// instruction set. No torch here, and none in any header that implements it.
//
// Shape letters: T steps, B sequences, N = T*B tokens, V symbols, E embedding width, H hidden
// units, C = classes = V of the loss. Everything is dense and row-major unless a stride is
// given. Outputs never alias inputs. Gates are ordered i, f, g, o, as in torch.
#pragma once

#include <atomic>
#include <cstdint>

#include "team.h"

namespace fastchar::cpu {

// The upper half of a float: weights may be held so where reading them is most of the work.
struct BFloat16 {
  uint16_t bits;
};

// Whether ids[0..n) lie in 0..V-1. No branches, since this precedes every lookup: it gathers
// the sign bits of each id, and of what that lacks to V - 1, also where V = 0.
inline __attribute__((always_inline)) bool all_ids_inside(const int64_t* ids, int64_t n,
                                                          int64_t V) {
  const uint64_t last = static_cast<uint64_t>(V) - 1;
  uint64_t outside = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t id = static_cast<uint64_t>(ids[i]);
    outside |= id | (last - id);
  }
  return outside >> 63 == 0;
}

// out[n, :] = weight[ids[n], :].
template <class T>
struct EmbeddingParams {
  const T* weight;     // [V, E]
  const int64_t* ids;  // [N]
  T* out;              // [N, E], incomplete where an id is outside 0..V-1
  int64_t N, V, E;
  std::atomic<bool>* outside;  // false; becomes true if any id is
};

// grad_weight[v, :] = sum over n with ids[n] == v of grad[n, :] (/ count of v if scaled).
template <class T>
struct EmbeddingBackwardParams {
  const T* grad;       // [N, E]
  const int64_t* ids;  // [N], ids equal to padding_idx are skipped
  T* grad_weight;      // [V, E], written whole
  T* tables;           // [embedding_backward_chunks - 1, V, E], undefined contents
  int64_t* counts;     // [V], undefined contents; null unless scaled
  int64_t* order;      // [embedding_backward_order], undefined contents; null: with tables
  int64_t N, V, E;
  int64_t padding_idx;  // -1: none
};

// Chunks of the tokens, each with its own table: at least 8 V tokens a chunk (2 V for the
// second) so that clearing and adding the tables stays a small part of the work.
inline int64_t embedding_backward_chunks(int64_t N, int64_t V) {
  if (N < 4 * V) return 1;
  return N < 24 * V ? 2 : N < 32 * V ? 3 : 4;
}

// Whether tokens are put in order of their ids, so that each row of the result is summed up at
// once instead of in tables that go through the caches for every token. Worth it where rows of
// grad are long enough to be read in any order, as from the last-level cache shorter ones are.
template <class T>
constexpr bool embedding_backward_sorts(int64_t N, int64_t E) {
  const int64_t row = E * static_cast<int64_t>(sizeof(T));
  return row >= 2048 || (row >= 1024 && N * row <= int64_t{1} << 25);
}

// What sorting needs: the tokens, where each id's end, and where each sorter's of an id begin.
constexpr int64_t kSorters = 8;
constexpr int64_t embedding_backward_order(int64_t N, int64_t V) {
  return N + (1 + kSorters) * V;
}

// One step of the cell on pre-activations.
template <class T>
struct LstmCellParams {
  const T* gates;  // [B, 4H]
  const T* c;      // [B, H]
  T* h_new;        // [B, H]
  T* c_new;        // [B, H]
  T* act;          // [B, 4H], the gates after sigmoid / tanh
  int64_t B, H;
};

template <class T>
struct LstmCellBackwardParams {
  const T* grad_h;  // [B, H] or null (zeros)
  const T* grad_c;  // [B, H] or null (zeros)
  const T* act;     // [B, 4H]
  const T* c;       // [B, H], before the step
  T* grad_gates;    // [B, 4H]
  T* grad_c_prev;   // [B, H]
  int64_t B, H;
};

// One step of the cell with its products: of few rows, without scratch, on the weights as they
// are, since packing them would cost more than the step does. W is T, or with float BFloat16.
template <class T, class W = T>
struct LstmStepParams {
  const T* x;     // [B, E]
  const T* h;     // [B, H]
  const T* c;     // [B, H]
  const W* w_ih;  // [4H, E]
  const W* w_hh;  // [4H, H]
  const T* b_ih;  // [4H] or null
  const T* b_hh;  // [4H] or null
  T* h_new;       // [B, H]
  T* c_new;       // [B, H]
  T* act;         // [B, 4H], the gates after sigmoid / tanh
  T* scratch;  // null, or to pack the weights: step_panel(E + H) elements a member, at 64 bytes
  int64_t B, E, H;
};

// Elements of a panel of K rows of packed weights.
constexpr int64_t step_panel(int64_t K) { return 64 * K; }
// Rows of the weights that backward packs at a time.
constexpr int64_t kStepDepth = 1024;

// Its gradients but the weights', which are products over all steps of a loop.
template <class T>
struct LstmStepBackwardParams {
  LstmCellBackwardParams<T> cell;
  const T* w_ih;   // [4H, E]
  const T* w_hh;   // [4H, H]
  T* grad_x;       // [B, E] or null
  T* grad_h_prev;  // [B, H] or null
  T* scratch;      // step_panel(kStepDepth) elements a member, at a multiple of 64 bytes
  int64_t E;
};

// One step of a language model on one symbol: LSTM layers, and the logits of the next symbol.
template <class T, class W = T>
struct LstmGenerateParams {
  const T* table;           // [V, E]
  const W* const* weights;  // [L, 2]: w_ih [4H, E], above layer 0 [4H, H], and w_hh [4H, H]
  const T* const* biases;   // [L, 2]: b_ih and b_hh, each [4H]
  const W* output_weight;   // [V, H]
  const T* output_bias;     // [V]
  T* rows;                  // [V, 4H], what layer 0 makes of each symbol, b_ih included
  const T* h;               // [L, H]
  T* h_new;                 // [L, H]
  T* c;                     // [L, H], updated in place
  T* act;                   // [4H], scratch
  T* logits;                // [V]
  int64_t V, E, H, L;
  int64_t id;  // in 0..V-1
  bool fresh;  // rows[id] is not there yet: to be made in this step
};

// A whole sequence in one call.
template <class T>
struct LstmSequenceParams {
  const T* gates;      // [T, B, 4H] pre-activations; with ids [V, 4H]; with x [4H], the bias
  const int64_t* ids;  // [T, B], or null
  const T* x;          // [T, B, E], to be projected in every step's product; or null
  const T* w_ih;       // [4H, E], null if and only if x is
  const T* w_hh;       // [4H, H]
  const T* h0;         // [B, H]
  const T* c0;         // [B, H]
  const int64_t* lengths;  // [B] in 0..T, any order, or null (all T)
  T* y;                    // [T, B, H], zeros past each end
  T* h_n;                  // [B, H]
  T* c_n;                  // [B, H]
  T* act;                  // [T, B, 4H] saved for backward, or null
  T* cell;                 // [T, B, H] c_t saved for backward, or null
  // Scratch, packed_size(H, E + H) elements at a multiple of 64 bytes; null: w_hh as it is, and
  // then neither x nor split_batch.
  T* packed;
  const int64_t* order;    // [B] sequences by falling length, or null without lengths
  const int64_t* alive;    // [T] how many sequences have step t, or null without lengths
  int64_t steps, B, E, H;  // E is 0 without x
  bool reverse;
  bool split_batch;             // members share the sequences instead of the hidden units
  bool zero_h0;                 // all of h0 is 0
  std::atomic<bool>* infinite;  // false; becomes true if anything in w_hh is not finite
};

// Elements that any instruction set's packed form of [w_ih w_hh], K columns, needs: H filled up
// to 64 bytes.
constexpr int64_t packed_size(int64_t H, int64_t K) { return (H + 15) / 16 * 16 * 4 * K; }

// With a folded table (ids given) the gradient goes to its rows, with x to what it was
// projected from, and grad_gates is a `ring` that holds the last `slots` steps done; else
// grad_gates is an output and slots is T.
template <class T>
struct LstmSequenceBackwardParams {
  const T* grad_y;         // [T, B, H] or null; the padding is never read
  const T* grad_h_n;       // [B, H] or null
  const T* grad_c_n;       // [B, H] or null
  const T* act;            // [T, B, 4H]
  const T* cell;           // [T, B, H]
  const T* y;              // [T, B, H]
  const int64_t* ids;      // [T, B], or null
  const T* x;              // [T, B, E], or null
  const T* w_ih;           // [4H, E], null if and only if x is
  const T* w_hh;           // [4H, H]
  const T* h0;             // [B, H]
  const T* c0;             // [B, H]
  const int64_t* lengths;  // [B] or null
  T* grad_gates;           // [slots, B, 4H]; an output [T, B, 4H] has zeros in the padding
  T* grad_table;           // [V, 4H] with ids, else null
  T* grad_x;               // [T, B, E], zeros in the padding, or null; null without x
  T* grad_w_ih;            // [4H, E] or null; null without x
  T* grad_bias;            // [4H] or null; null without x
  T* grad_w_hh;            // [4H, H]
  T* grad_h0;              // [B, H] or null
  T* grad_c0;              // [B, H]
  T* packed;               // scratch, packed_size(H, H) elements at a multiple of 64 bytes
  T* packed_ih;            // scratch, packed_size(E, H) of the same, if there is grad_x
  T* weight_scratch;       // weight_grad_scratch(H, members) elements of the same
  const int64_t* order;    // these as in LstmSequenceParams
  const int64_t* alive;
  int64_t steps, B, E, H, V;
  int64_t chunk;  // steps after which the sums over all tokens take in what is there
  int64_t slots;  // chunk + 1, or T
  bool ring;      // said apart: a result without elements, such as V = 0, is null too
  bool reverse;
  bool split_batch;
  bool zero_h0;  // all of h0 is 0
};

// Weight gradients take in tokens this many at a time, and then read and write their sums once.
// (The chains of additions within are shorter, which rounds less.)
constexpr int64_t kWeightGradDepth = 128;

// Rows of gate gradients are regrouped in tiles of 6, a little apart so that the tiles do not
// fall into the same cache sets; each member has a panel of h or x besides.
constexpr int64_t weight_grad_tile(int64_t depth) { return 6 * depth + 16; }
constexpr int64_t weight_grad_scratch(int64_t H, int64_t members) {
  return (4 * H + 5) / 6 * weight_grad_tile(kWeightGradDepth) + members * 64 * kWeightGradDepth;
}

// output = input @ weight^T + bias, or with `transposed` input @ weight.
template <class T>
struct LinearParams {
  const T* input;   // [M, K]
  const T* weight;  // [N, K], or [K, N] transposed
  const T* bias;    // [N] or null
  T* output;        // [M, N]
  T* packed;        // linear_packed(N, K) elements at a multiple of 64 bytes
  int64_t M, N, K;
  bool transposed;
};

// Elements of any instruction set's packed weight: N filled up to 64 bytes.
constexpr int64_t linear_packed(int64_t N, int64_t K) { return (N + 15) / 16 * 16 * K; }

// Rows of a linear layer's gradient and of its input that lie together.
template <class T>
struct GradRows {
  const T* grad;   // [count, N]
  const T* input;  // [count, K]
  int64_t count;
};

// grad_weight = grad^T @ input, and grad summed over its rows.
template <class T>
struct LinearWeightGradParams {
  const GradRows<T>* rows;  // M in all
  T* grad_weight;           // [N, K]
  T* grad_bias;             // [N] or null
  T* scratch;       // linear_grad_scratch<T>() for each member, at a multiple of 64 bytes
  int64_t M, N, K;  // M > 0
};

// The sums of grad_weight that a member keeps in L2 at a time, 258 outputs by 2 KiB of columns,
// and the rows after which they go out to memory: one chain of additions over all rows would
// round worse than torch's.
constexpr int64_t kLinearGradTiles = 43;
template <class T>
constexpr int64_t kLinearGradColumns = 2048 / sizeof(T);
constexpr int64_t kLinearGradSpan = 2048;

// Elements: tiles of gradients, a panel of inputs, sums of the bias, sums of the weights.
template <class T>
constexpr int64_t linear_grad_scratch() {
  return kLinearGradTiles * weight_grad_tile(kWeightGradDepth) + 64 * kWeightGradDepth +
         (kLinearGradTiles * 6 + 15) / 16 * 16 + kLinearGradTiles * 6 * kLinearGradColumns<T>;
}

// Loss per token of logits input @ weight.T + bias, and with grad_bias its gradients too.
template <class T>
struct LinearCrossEntropyParams {
  const T* input;         // [N, H]
  const T* weight;        // [C, H]
  const T* bias;          // [C] or null
  const int64_t* target;  // [N], in 0..C-1 or ignore_index
  const T* class_weight;  // [C] or null
  const T* grad_loss;     // [N] or null: grad_scale for every token
  double grad_scale;
  T* loss;          // [N] or null, 0 where ignored
  T* grad_input;    // [N, H] or null, 0 where ignored
  T* grad_weight;   // [C, H] or null
  T* grad_bias;     // [C] or null: no gradients at all (the others are null also where H = 0)
  T* workspace;     // linear_cross_entropy_workspace elements, aligned to 64 bytes
  int64_t N, H, C;  // C > 0
  int64_t ignore_index;
  double label_smoothing;
};

// What one instruction set implements for one element type. Every member of the team calls the
// function with the same parameters.
template <class T>
struct KernelTable {
  void (*embedding)(const EmbeddingParams<T>&, const Team&);
  void (*embedding_backward)(const EmbeddingBackwardParams<T>&, const Team&);
  void (*lstm_cell)(const LstmCellParams<T>&, const Team&);
  void (*lstm_cell_backward)(const LstmCellBackwardParams<T>&, const Team&);
  void (*lstm_step)(const LstmStepParams<T>&, const Team&);
  void (*lstm_step_backward)(const LstmStepBackwardParams<T>&, const Team&);
  void (*lstm_generate_step)(const LstmGenerateParams<T>&, const Team&);
  void (*lstm_forward)(const LstmSequenceParams<T>&, const Team&);
  void (*lstm_backward)(const LstmSequenceBackwardParams<T>&, const Team&);
  void (*linear)(const LinearParams<T>&, const Team&);
  void (*linear_weight_grad)(const LinearWeightGradParams<T>&, const Team&);
  void (*linear_cross_entropy)(const LinearCrossEntropyParams<T>&, const Team&);
  // Elements of workspace for a team of at most `team_size`; of the pointers only whether they
  // are null counts.
  int64_t (*linear_cross_entropy_workspace)(const LinearCrossEntropyParams<T>&, int team_size);
  // What bounds them all, see limits.h.
  T (*multiply_adds)(int64_t rounds, const T* seed);
  int64_t multiply_adds_a_round;
  T (*read_all)(const T* p, int64_t n);
};

struct Kernels {
  const char* isa;  // "portable", "avx2" or "avx512"
  KernelTable<float> f32;
  KernelTable<double> f64;
  // Of weights held in bfloat16.
  void (*lstm_step_bf16)(const LstmStepParams<float, BFloat16>&, const Team&);
  void (*lstm_generate_step_bf16)(const LstmGenerateParams<float, BFloat16>&, const Team&);
  const KernelTable<float>& table(float) const { return f32; }
  const KernelTable<double>& table(double) const { return f64; }
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

}  // namespace fastchar::cpu
