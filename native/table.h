// What the kernels are given, and the kernels of one instruction-set level as a table of functions.
//
// Every kernel file is compiled once for each level, with RECEPTANCE_LEVEL naming the namespace that its functions
// go into; dispatch.cpp knows one table per level and points to the one in use. A kernel does one independent piece
// of the work; interface.cpp shares the pieces between threads.
//
// Rule for kernel files: no templates or inline functions of the standard library. The linker keeps one copy of such
// a function out of all levels, and an older processor would then run the newest level's copy.

#pragma once

#include <cstdint>

#include "network.h"
#include "packed.h"

namespace receptance {

constexpr int WKV4_BLOCK = 16;           // tokens from one checkpoint to the next
constexpr int MATRIX_BLOCK = 32;         // the same for WKV-6 and 7
constexpr int NORM_MIX_BLOCK = 32;       // tokens whose gradients are summed together
constexpr int NORM_MIX_MOST = 6;         // mixes of one norm
constexpr int CROSS_ENTROPY_LANES = 16;  // at least those of the widest level

class Team;

// Shapes are those of contiguous arrays; the sums a, b, p and everything without a type of its own are float32.
// Symbols as in wkv4.cpp.
struct Wkv4Forward {
  Type type;                          // of k, v, y
  const void *k, *v;                  // [batch, time, channel]
  const float *w, *u;                 // [channel]
  const float *a, *b, *p;             // [batch, channel] before the first token
  void *y;                            // [batch, time, channel]
  float *a_end, *b_end, *p_end;       // [batch, channel] after the last token
  float *checkpoints;                 // [batch, block, 3, channel]: a, b, p before each block; null: not kept
  std::int64_t batch, time, channel;
};

struct Wkv4Backward {
  Type type;                               // of k, v, grad_y, grad_k, grad_v
  const void *k, *v;                       // [batch, time, channel]
  const float *w, *u;                      // [channel]
  const float *checkpoints;                // [batch, block, 3, channel], from the forward pass
  const float *a_end, *b_end, *p_end;      // [batch, channel], from the forward pass
  const void *grad_y;                      // [batch, time, channel]; null: zero
  const float *grad_a_end, *grad_b_end, *grad_p_end;  // [batch, channel]; null: zero
  void *grad_k, *grad_v;                   // [batch, time, channel]
  float *grad_w, *grad_u;                  // [batch, channel], still to be summed over the batch
  float *grad_a, *grad_b, *grad_p;         // [batch, channel]
  std::int64_t batch, time, channel;
};

// One call of the recurrences of RWKV-5 and 6 (wkv6.cpp) or RWKV-7 (wkv7.cpp).
// The same in receptance/kernels/matrix_native.py.
struct MatrixRecurrence {
  Type type;                     // of r, k, v, y, grad_y, grad_v
  bool is_backward;
  bool value_first;              // states are [batch, head, value, key], not [batch, head, key, value]
  const void *r, *k, *v;         // [batch, time, head, key], v [batch, time, head, value]
  const float *w;                // [batch, time, head, key], logarithms
  const float *u;                // [head, key]; RWKV-7: null
  const float *a, *b;            // [batch, time, head, key]; RWKV-6: null
  const float *state;            // before the first token
  void *y;                       // [batch, time, head, value]
  float *state_end;              // after the last token
  float *checkpoints;            // [batch, head, block, key, value]: the state before each block; null: not kept
  const void *grad_y;            // [batch, time, head, value]
  const float *grad_state_end;   // null: zero
  float *grad_r, *grad_k;        // [batch, time, head, key]
  void *grad_v;                  // [batch, time, head, value]
  float *grad_w;                 // [batch, time, head, key]
  float *grad_u;                 // [batch, head, key], still to be summed over the batch; RWKV-7: null
  float *grad_a, *grad_b;        // [batch, time, head, key]; RWKV-6: null
  float *grad_state;             // of the state before the first token
  std::int64_t batch, time, head, key, value;
};

struct CrossEntropy {
  Type type;                    // of the logits
  void *logits;                 // [token, vocabulary]; overwritten with the gradient when that is wanted
  const std::int64_t *targets;  // [token], each below the vocabulary, or negative: not counted
  float *nll;                   // [token] negative log-likelihood of the target; 0 where not counted
  float *penalty;               // [token] what is added to that; 0 where not counted
  float max_logit_weight, z_loss_weight;
  bool gradient;
  std::int64_t tokens, vocabulary;
};

// The same in receptance/kernels/norm_mix_native.py. Symbols as in norm_mix.cpp.
struct NormMix {
  Type type;                       // of x, shift, seen, mixed and their gradients
  bool is_backward;
  const void *x;                   // [batch, time, channel]
  const float *weight, *bias;      // [channel]
  const void *shift;               // [batch, channel] the norm of the token before the first
  const float *shares;             // [mix, channel]
  void *seen;                      // [batch, time, channel]
  void *const *mixed;              // [mix] pointers to [batch, time, channel]
  float *mean, *scale;             // [batch, time] of each token, written forward and read backward
  const void *grad_seen;           // [batch, time, channel]; null: zero
  const void *const *grad_mixed;   // [mix] pointers to [batch, time, channel]
  void *grad_x;                    // [batch, time, channel]
  void *grad_shift;                // [batch, channel]
  float *grad_sums;                // [batch, block, 2 + mix, channel]: of weight, bias, shares, still to be summed
  std::int64_t batch, time, channel, mixes;
  float epsilon;
};

// The same in receptance/kernels/adamw_native.py.
struct AdamW {
  Type type;                     // of the gradient
  const void *gradient;
  float *master, *mean, *square;
  void *weight;                  // bfloat16, the rounded master; null: there is none
  float gradient_scale;
  float beta2, new1, new2;       // 1 - beta1 and 1 - beta2 as differences in double precision
  float kept;                    // 1 - rate * decay
  float rate;                    // the learning rate / c1
  float inverse_root;            // 1 / sqrt(c2)
  float epsilon;
  std::int64_t size;
};

// Arrays [column, row] of a group of columns, to be rounded to the integers from low to high.
struct GroupToRound {
  std::int64_t rows, choices;
  const float *weights;  // [column, row]
  const float *scales;   // [choice, row], of which each row keeps the one with the least error
  const float *inverse;  // [column, column], U of receptance/quantization/compensated.py
  float low, high;
  float *numbers, *errors;  // [column, row]
  float *scale;             // [row], the one kept
};

// The same, rounded before; each number is rounded again, given all others.
struct GroupToSettle {
  std::int64_t rows;
  const float *scale;   // [row]
  const float *inputs;  // [column, column], H
  const float *slopes;  // [column, row], H times what all columns are off by
  float low, high;
  float *numbers, *off;  // [column, row], both changed
};

struct Table {
  const char *name;
  // The channels begin to end of one row of the batch.
  void (*wkv4_forward)(const Wkv4Forward &, std::int64_t row, std::int64_t begin, std::int64_t end);
  void (*wkv4_backward)(const Wkv4Backward &, std::int64_t row, std::int64_t begin, std::int64_t end);
  // One head of one text, counted over the whole batch.
  void (*wkv6)(const MatrixRecurrence &, std::int64_t head);
  void (*wkv7)(const MatrixRecurrence &, std::int64_t head);
  // One token. The scratch holds the vocabulary rounded up to a multiple of CROSS_ENTROPY_LANES.
  void (*cross_entropy)(const CrossEntropy &, std::int64_t token, float *scratch);
  // One block of one text, counted over the whole batch. The scratch holds three rows of channels.
  void (*norm_mix)(const NormMix &, std::int64_t block, float *scratch);
  // The elements begin to end.
  void (*adamw)(const AdamW &, std::int64_t begin, std::int64_t end);
  double (*sum_of_squares)(Type, const void *x, std::int64_t begin, std::int64_t end);
  // Read this memory, for the time it takes; the result depends on all of it but a last few bytes.
  std::uint32_t (*read_memory)(const void *from, std::int64_t bytes);
  // Round the rows of the panels begin to end to a format; false where it cannot hold a weight that is not finite.
  bool (*pack)(const Rows &, Format, void *panels, std::int64_t begin, std::int64_t end);
  // The numbers that the rows begin to end hold: weights[(row - begin) * columns + column].
  void (*unpack)(const Matrix &, float *weights, std::int64_t begin, std::int64_t end);
  // The rows begin to end.
  void (*round_group)(const GroupToRound &, std::int64_t begin, std::int64_t end);
  void (*settle_group)(const GroupToSettle &, std::int64_t begin, std::int64_t end);
  // Fill what matrices in this format read of the inputs of the tokens begin to end, beside x.
  void (*prepare)(Format, const Inputs &, std::int64_t begin, std::int64_t end);
  // y[token * y_stride + row] for every token and for the rows of the panels begin to end.
  void (*multiply)(const Matrix &, const Inputs &, float *y, std::int64_t y_stride, std::int64_t begin,
                   std::int64_t end);
  // A whole network, on each thread of a team; and the memory that it takes.
  void (*evaluate)(const Network &, const Evaluation &, const Team &);
  std::int64_t (*scratch_bytes)(const Network &, const Evaluation &, const Team &);
};

}  // namespace receptance
