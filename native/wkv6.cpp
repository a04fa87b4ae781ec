// WKV-6 forward and backward (arxiv.org/abs/2404.05892, eq. 19):
//
//   y = r (diag(u) k^T v + S),  then  S = diag(e^w) S + k^T v
//
//   r receptance, k key, v value, w decay a step (a logarithm, below zero), u bonus of the current token
//   S     the memory of a head, before a chunk of tokens
//
// RWKV-5 is the same with a decay that does not change. With f(s, t) = e^(w_{s+1} + ... + w_t), what is left after
// token t of what stood at s (the memory before the chunk is at s = 0), the tokens t = 1, 2, ... of a chunk find and
// leave
//
//   y_t = (f(0, t-1) r_t) S + sum_{s<t} v_s (f(s, t-1) k_s . r_t) + v_t (u k_t . r_t)
//   S'  = diag(f(0, T)) S   + sum_s     (f(s, T) k_s)^T v_s
//
// The numbers in brackets are the pairs, at t * STEPS + s (steps counted from 0).

#include "matrix_passes.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

struct Wkv6 {
  static constexpr int KINDS = 1, INNER = 0;  // read by r; written by v at k

  template <int STEPS>
  static void prepare(Chunk &chunk) {
    Vector pairs[vectors_of(STEPS * STEPS) * LANES] = {};
    for (int block = 0; block < chunk.blocks; ++block) {
      const int first = block * STEPS;
      Vector decay = all(1.0f), k[STEPS];
#pragma GCC unroll 4
      for (int t = 0; t < STEPS; ++t) {
        const Vector r = chunk.r[first + t], w = chunk.w[first + t];
        chunk.reads[first + t] = decay * r;
        decay *= w;
        for (int s = 0; s < t; ++s) {
          pairs[t * STEPS + s] += k[s] * r;
          k[s] *= w;
        }
        k[t] = chunk.k[first + t];
        pairs[t * STEPS + t] += chunk.bonus[block] * k[t] * r;
      }
      chunk.decay[block] = decay;
      for (int s = 0; s < STEPS; ++s) chunk.writes[first + s] = k[s];
    }
    sum_lanes<STEPS * STEPS>(pairs, chunk.pairs);
  }

  template <int STEPS, bool WANTS_Y>
  static void settle(Chunk &chunk, Vector *found) {
    const int columns = chunk.columns;
    for (int n = 0; WANTS_Y && n < columns; ++n)
#pragma GCC unroll 4
      for (int t = 0; t < STEPS; ++t) {
        Vector y = found[t * columns + n];
        for (int s = 0; s <= t; ++s) y += chunk.values[s * columns + n] * chunk.pair(t * STEPS + s);
        found[t * columns + n] = y;
      }
  }

  template <int STEPS>
  static void settle_gradients(const Chunk &chunk, const Gradients &gradients, Vector *pairs) {
    const int columns = chunk.columns;
    for (int n = 0; n < columns; ++n)
#pragma GCC unroll 4
      for (int t = 0; t < STEPS; ++t) {
        const Vector y = gradients.found[t * columns + n];
        for (int s = 0; s <= t; ++s) {
          gradients.of.values[s * columns + n] += y * chunk.pair(t * STEPS + s);
          pairs[t * STEPS + s] += y * chunk.values[s * columns + n];
        }
      }
  }

  template <int STEPS>
  static void spread_gradients(const Chunk &chunk, const Gradients &gradients) {
    const Chunk &of = gradients.of;
    for (int block = 0; block < chunk.blocks; ++block) {
      const int first = block * STEPS;
      const Vector bonus = chunk.bonus[block];
      // What is left at each token, just before its own decay, of the memory and of the earlier k.
      Vector left[STEPS], k_left[STEPS][STEPS];
      Vector grad_decay = of.decay[block], grad_k[STEPS];
#pragma GCC unroll 4
      for (int t = 0; t < STEPS; ++t) {
        left[t] = t ? left[t - 1] * chunk.w[first + t - 1] : all(1.0f);
        for (int s = 0; s < t; ++s)
          k_left[t][s] = t - s > 1 ? k_left[t - 1][s] * chunk.w[first + t - 1] : chunk.k[first + s];
        grad_k[t] = of.writes[first + t];
      }
#pragma GCC unroll 4
      for (int t = STEPS - 1; t >= 0; --t) {
        const Vector r = chunk.r[first + t], w = chunk.w[first + t], grad_read = of.reads[first + t];
        const Vector itself = bonus * of.pair(t * STEPS + t);
        of.bonus[block] += r * chunk.k[first + t] * of.pair(t * STEPS + t);
        of.k[first + t] = grad_k[t] + itself * r;
        Vector grad_r = grad_read * left[t] + itself * chunk.k[first + t];
        Vector grad_w = grad_decay * left[t];
        grad_decay = grad_decay * w + grad_read * r;
        for (int s = 0; s < t; ++s) {
          grad_r += k_left[t][s] * of.pair(t * STEPS + s);
          grad_w += grad_k[s] * k_left[t][s];
          grad_k[s] = grad_k[s] * w + r * of.pair(t * STEPS + s);
        }
        of.r[first + t] = grad_r;
        of.w[first + t] = grad_w * w;
      }
    }
  }
};

}  // namespace

void wkv6(const MatrixRecurrence &args, std::int64_t head) { run<Wkv6>(args, head); }

}  // namespace receptance::RECEPTANCE_LEVEL
