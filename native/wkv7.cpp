// WKV-7 forward and backward (arxiv.org/abs/2503.14456, eq. 17):
//
//   S = S (diag(e^w) + a^T b) + v^T k,  then  y = S r^T
//
//   r receptance, k key, v value, w decay a step (a logarithm, below zero), a and b what is removed and put back
//   S     the memory of a head, before a chunk of tokens
//   s     what the memory holds at a before the token, and what is put back at b:  s = S a^T
//
// With f(u, t) = e^(w_{u+1} + ... + w_t), what is left at token t of what stood at u (the memory before the chunk is at
// u = 0), the tokens t = 1, 2, ... of a chunk find and leave
//
//   s_t = S (f(0, t-1) a_t)^T + sum_{u<t}  v_u (f(u, t-1) k_u . a_t) + s_u (f(u, t-1) b_u . a_t)
//   y_t = S (f(0, t) r_t)^T   + sum_{u<=t} v_u (f(u, t) k_u . r_t)   + s_u (f(u, t) b_u . r_t)
//   S'  = S diag(f(0, T))     + sum_u      v_u^T (f(u, T) k_u)       + s_u^T (f(u, T) b_u)
//
// The numbers in brackets are the pairs: for k, then for b, a square with y's at t * STEPS + u and s's at
// u * STEPS + t (steps counted from 0).

#include "matrix_passes.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

struct Wkv7 {
  static constexpr int KINDS = 2, INNER = 1;  // read by a and r; written by v at k and s at b

  template <int STEPS>
  static void prepare(Chunk &chunk) {
    constexpr int SQUARE = STEPS * STEPS;
    Vector pairs[vectors_of(2 * SQUARE) * LANES] = {};
    for (int block = 0; block < chunk.blocks; ++block) {
      const int first = block * STEPS;
      Vector *reads = chunk.reads + 2 * first, *writes = chunk.writes + 2 * first;
      Vector decay = all(1.0f), k[STEPS], b[STEPS];
#pragma GCC unroll 4
      for (int t = 0; t < STEPS; ++t) {
        const Vector a = chunk.a[first + t], r = chunk.r[first + t], w = chunk.w[first + t];
        reads[t] = decay * a;
        decay *= w;
        reads[STEPS + t] = decay * r;
        for (int u = 0; u < t; ++u) {
          pairs[u * STEPS + t] += k[u] * a;
          pairs[SQUARE + u * STEPS + t] += b[u] * a;
          k[u] *= w;
          b[u] *= w;
        }
        k[t] = chunk.k[first + t];
        b[t] = chunk.b[first + t];
        for (int u = 0; u <= t; ++u) {
          pairs[t * STEPS + u] += k[u] * r;
          pairs[SQUARE + t * STEPS + u] += b[u] * r;
        }
      }
      chunk.decay[block] = decay;
      for (int u = 0; u < STEPS; ++u) writes[u] = k[u], writes[STEPS + u] = b[u];
    }
    sum_lanes<2 * SQUARE>(pairs, chunk.pairs);
  }

  template <int STEPS, bool WANTS_Y>
  static void settle(Chunk &chunk, Vector *found) {
    constexpr int SQUARE = STEPS * STEPS;
    const int columns = chunk.columns;
    for (int n = 0; n < columns; ++n) {
      Vector v[STEPS], s[STEPS];
#pragma GCC unroll 4
      for (int t = 0; t < STEPS; ++t) {
        v[t] = chunk.values[t * columns + n];
        s[t] = found[t * columns + n];
        for (int u = 0; u < t; ++u)
          s[t] += v[u] * chunk.pair(u * STEPS + t) + s[u] * chunk.pair(SQUARE + u * STEPS + t);
        chunk.values[(STEPS + t) * columns + n] = s[t];
        if (!WANTS_Y) continue;
        Vector y = found[(STEPS + t) * columns + n];
        for (int u = 0; u <= t; ++u)
          y += v[u] * chunk.pair(t * STEPS + u) + s[u] * chunk.pair(SQUARE + t * STEPS + u);
        found[t * columns + n] = y;
      }
    }
  }

  template <int STEPS>
  static void settle_gradients(const Chunk &chunk, const Gradients &gradients, Vector *pairs) {
    constexpr int SQUARE = STEPS * STEPS;
    const int columns = chunk.columns;
    for (int n = 0; n < columns; ++n) {
      const Vector *value = chunk.values + n;
      Vector v[STEPS], s[STEPS];
      for (int t = 0; t < STEPS; ++t) {
        v[t] = gradients.of.values[t * columns + n];
        s[t] = gradients.of.values[(STEPS + t) * columns + n];
      }
#pragma GCC unroll 4
      for (int t = STEPS - 1; t >= 0; --t) {
        const Vector y = gradients.found[(STEPS + t) * columns + n];
        for (int u = 0; u <= t; ++u) {
          v[u] += y * chunk.pair(t * STEPS + u);
          s[u] += y * chunk.pair(SQUARE + t * STEPS + u);
          pairs[t * STEPS + u] += y * value[u * columns];
          pairs[SQUARE + t * STEPS + u] += y * value[(STEPS + u) * columns];
        }
        for (int u = 0; u < t; ++u) {
          v[u] += s[t] * chunk.pair(u * STEPS + t);
          s[u] += s[t] * chunk.pair(SQUARE + u * STEPS + t);
          pairs[u * STEPS + t] += s[t] * value[u * columns];
          pairs[SQUARE + u * STEPS + t] += s[t] * value[(STEPS + u) * columns];
        }
        gradients.found[t * columns + n] = s[t];
        gradients.of.values[t * columns + n] = v[t];
      }
    }
  }

  template <int STEPS>
  static void spread_gradients(const Chunk &chunk, const Gradients &gradients) {
    constexpr int SQUARE = STEPS * STEPS;
    const Chunk &of = gradients.of;
    for (int block = 0; block < chunk.blocks; ++block) {
      const int first = block * STEPS;
      const Vector *reads = of.reads + 2 * first, *writes = of.writes + 2 * first;
      // What is left at each token, just before its own decay, of the memory and of the earlier k and b.
      Vector left[STEPS], k_left[STEPS][STEPS], b_left[STEPS][STEPS];
      Vector grad_decay = of.decay[block], grad_k[STEPS], grad_b[STEPS];
#pragma GCC unroll 4
      for (int t = 0; t < STEPS; ++t) {
        left[t] = t ? left[t - 1] * chunk.w[first + t - 1] : all(1.0f);
        for (int u = 0; u < t; ++u) {
          k_left[t][u] = t - u > 1 ? k_left[t - 1][u] * chunk.w[first + t - 1] : chunk.k[first + u];
          b_left[t][u] = t - u > 1 ? b_left[t - 1][u] * chunk.w[first + t - 1] : chunk.b[first + u];
        }
        grad_k[t] = writes[t];
        grad_b[t] = writes[STEPS + t];
      }
#pragma GCC unroll 4
      for (int t = STEPS - 1; t >= 0; --t) {
        const Vector r = chunk.r[first + t], a = chunk.a[first + t], w = chunk.w[first + t];
        Vector grad_r = reads[STEPS + t] * left[t], grad_a = reads[t] * left[t];
        for (int u = 0; u < t; ++u) {
          grad_r += k_left[t][u] * of.pair(t * STEPS + u) + b_left[t][u] * of.pair(SQUARE + t * STEPS + u);
          grad_a += k_left[t][u] * of.pair(u * STEPS + t) + b_left[t][u] * of.pair(SQUARE + u * STEPS + t);
        }
        of.a[first + t] = grad_a;
        of.r[first + t] = grad_r * w + chunk.k[first + t] * of.pair(t * STEPS + t) +
                          chunk.b[first + t] * of.pair(SQUARE + t * STEPS + t);
        for (int u = 0; u <= t; ++u) {
          grad_k[u] += r * of.pair(t * STEPS + u);
          grad_b[u] += r * of.pair(SQUARE + t * STEPS + u);
        }
        of.k[first + t] = grad_k[t];
        of.b[first + t] = grad_b[t];
        grad_decay += reads[STEPS + t] * r;
        Vector grad_w = grad_decay * left[t];
        grad_decay = grad_decay * w + reads[t] * a;
        for (int u = 0; u < t; ++u) {
          grad_w += grad_k[u] * k_left[t][u] + grad_b[u] * b_left[t][u];
          grad_k[u] = grad_k[u] * w + a * of.pair(u * STEPS + t);
          grad_b[u] = grad_b[u] * w + a * of.pair(SQUARE + u * STEPS + t);
        }
        of.w[first + t] = grad_w * w;
      }
    }
  }
};

}  // namespace

void wkv7(const MatrixRecurrence &args, std::int64_t head) { run<Wkv7>(args, head); }

}  // namespace receptance::RECEPTANCE_LEVEL
