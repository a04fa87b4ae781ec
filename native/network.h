// A whole network in packed form, and one call to it. The same in receptance/runtimes/network.py, field by field.
//
// Vectors are float32. A mix `mu` is the share of the token before, x + mu (previous - x), in every generation. A part
// that a generation or a layer does not have is null, a matrix by its panels.

#pragma once

#include <cstdint>

#include "packed.h"

namespace receptance {

struct Norm {
  const float *weight, *bias;
};

struct ChannelMix {
  Norm norm;
  const float *mix_k, *mix_r;
  Matrix key, receptance, value;  // RWKV-7 has no receptance
};

struct Layer4 {
  ChannelMix channel_mix;
  Norm norm;
  const float *decay, *bonus;  // w and u of WKV-4
  const float *mix_k, *mix_v, *mix_r;
  Matrix key, value, receptance, output;
};

// RWKV-5 and 6. Only RWKV-6 has mix_x, mix_w and low ranks; RWKV-5.0 has no gate.
struct Layer6 {
  ChannelMix channel_mix;
  Norm norm, head_norm;
  const float *decay;  // RWKV-5: w of WKV-6; RWKV-6: what the low rank is added to before w = -e^
  const float *bonus;
  const float *mix_x, *mix_w, *mix_k, *mix_v, *mix_r, *mix_g;
  Matrix mix_one, mix_two[5];  // for w, k, v, r, g
  Matrix decay_one, decay_two;
  Matrix key, value, receptance, gate, output;
};

struct Layer7 {
  ChannelMix channel_mix;
  Norm norm, head_norm;
  const float *mix_r, *mix_w, *mix_k, *mix_v, *mix_a, *mix_g;
  const float *w0, *a0, *v0;  // the first layer has no v0, v1, v2
  const float *k_k, *k_a, *r_k;
  Matrix w1, w2, a1, a2, v1, v2, g1, g2;
  Matrix receptance, key, value, output;
};

struct Network {
  std::int64_t generation;        // 4 to 7
  std::int64_t layers, channels, memory_channels, heads, feed_forward, vocabulary, rank;  // rank: the largest
  Matrix embedding;               // [vocabulary, channel]; a token takes one row
  Norm embedding_norm, last_norm;
  float epsilon, last_epsilon, head_epsilon;
  const void *layer;              // [layer] Layer4, 6 or 7
  Matrix head;
};

// All that a network remembers of a batch, as float32: [layer, batch, ...].
struct States {
  float *time_shift, *channel_shift;  // [channel]
  float *memory[3];                   // RWKV-4: a, b, p, [channel] each; others: one, [head, size, size]
};

struct Evaluation {
  const std::int64_t *tokens;  // [batch, time], each below the vocabulary
  States before;
  const States *after;         // one, or, when stepwise, one for each time; they share no memory with `before`
  float *logits;               // [batch, time, vocabulary]
  bool last_only;              // logits are [batch, vocabulary], those of the last token
  bool stepwise;               // all to the bit as if one time were read after the other
  std::int64_t batch, time;
  void *scratch;               // so many bytes as scratch_bytes says, at a multiple of 64
};

constexpr std::int64_t SPAN_TOKENS = 256;  // tokens that go through the network at once

}  // namespace receptance
