// WKV-7 forward and backward (arxiv.org/abs/2503.14456, eq. 17), a strip of values of one head at a time:
//
//   S = S (diag(e^w) + a^T b) + v^T k,  then  y = S r^T
//
//   r receptance, k key, v value, w decay a step (a logarithm, below zero), a and b what is removed and put back
//   S     the memory of a head; S[j] here is its row at key j, values in the lanes
//   s     what the memory holds at a before the token:  s = S a^T
//
// Forward, one pass over S a token: the memory changes, and y of this token and s of the next are summed on the way.
// Backward, block by block from the end: the states of a block are found again from the one kept at its start, then
//
//   dS += dy r;  dr = dy S_t;  dk = v dS;  dv = dS k;  dw = e^w (dS * S_{t-1});  db = s dS;
//   q = dS b;    da = q S_{t-1};  then  dS = dS diag(e^w) + q a
//
// where dr, dw, dk, da, db are sums over values, to which each strip adds its own.

#include "matrix_state.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

Row held(const Row *state, const float *a, int keys) {
  Row s = {};
  for (int j = 0; j < keys; ++j)
    for (int n = 0; n < VECTORS; ++n) s[n] += state[j][n] * a[j];
  return s;
}

// One token: `before` becomes `after` (which may be the same place). Returns y, and makes s that of the next token.
Row advance(const Row *before, Row *after, const Keys token, const float *next_a, Row value, Row &s, int keys) {
  const Row old = s;
  Row y = {}, next = {};
  for (int j = 0; j < keys; ++j) {
    Row row = before[j];
    for (int n = 0; n < VECTORS; ++n) {
      row[n] = row[n] * token.w[j] + (old[n] * token.b[j] + value[n] * token.k[j]);
      y[n] += row[n] * token.r[j];
      next[n] += row[n] * next_a[j];
    }
    after[j] = row;
  }
  s = next;
  return y;
}

template <class Element>
void forward(const MatrixRecurrence &args, Strip<Element> &strip) {
  const int keys = strip.keys;
  Scratch scratch(keys);
  Row *state = scratch.rows();
  strip.load(args.state, state);
  Row s = held(state, args.a + strip.key_at(0), keys);
  for (std::int64_t t = 0; t < args.time; ++t) {
    if (args.checkpoints && t % MATRIX_BLOCK == 0) strip.keep(state, t / MATRIX_BLOCK);
    strip.read(t);
    const float *next_a = args.a + strip.key_at(t + 1 < args.time ? t + 1 : t);
    strip.set(advance(state, state, strip.token, next_a, strip.value(args.v, t), s, keys), args.y, t);
  }
  strip.save(state, args.state_end);
}

// One token going back, given the states before and after it. `gradient` is dS: of the state after the token, then of
// the one before. Adds to dr, dw, dk, da, db of each key at `at`; returns dv.
Row retreat(const MatrixRecurrence &args, std::int64_t at, const Keys token, const Row value, const Row grad_y,
            const Row s, const Row *before, const Row *after, Row *gradient, int keys) {
  Row grad_v = {}, q = {};
  for (int begin = 0; begin < keys; begin += LANES) {
    Vector r[LANES] = {}, w[LANES] = {}, k[LANES] = {}, b[LANES] = {};
    const int end = keys - begin < LANES ? keys - begin : LANES;
    for (int i = 0; i < end; ++i) {
      const int j = begin + i;
      Row row = gradient[j];
      for (int n = 0; n < VECTORS; ++n) {
        row[n] += grad_y[n] * token.r[j];
        r[i] += grad_y[n] * after[j][n];
        w[i] += row[n] * before[j][n];
        k[i] += row[n] * value[n];
        b[i] += row[n] * s[n];
        grad_v[n] += row[n] * token.k[j];
        q[n] += row[n] * token.b[j];
      }
      gradient[j] = row;
    }
    add_some(sums(r), args.grad_r + at + begin, end);
    add_some(sums(w) * load(token.w + begin), args.grad_w + at + begin, end);
    add_some(sums(k), args.grad_k + at + begin, end);
    add_some(sums(b), args.grad_b + at + begin, end);
  }
  for (int begin = 0; begin < keys; begin += LANES) {
    Vector a[LANES] = {};
    const int end = keys - begin < LANES ? keys - begin : LANES;
    for (int i = 0; i < end; ++i) {
      const int j = begin + i;
      for (int n = 0; n < VECTORS; ++n) {
        a[i] += q[n] * before[j][n];
        gradient[j][n] = gradient[j][n] * token.w[j] + q[n] * token.a[j];
      }
    }
    add_some(sums(a), args.grad_a + at + begin, end);
  }
  return grad_v;
}

template <class Element>
void backward(const MatrixRecurrence &args, Strip<Element> &strip) {
  const int keys = strip.keys;
  Scratch scratch((MATRIX_BLOCK + 2) * keys + MATRIX_BLOCK);
  Row *states = scratch.rows(), *gradient = states + (MATRIX_BLOCK + 1) * keys, *held_at = gradient + keys;
  strip.load(args.grad_state_end, gradient);
  for (std::int64_t block = blocks_of(args.time) - 1; block >= 0; --block) {
    const std::int64_t begin = block * MATRIX_BLOCK;
    const int steps = static_cast<int>(args.time - begin < MATRIX_BLOCK ? args.time - begin : MATRIX_BLOCK);
    strip.recall(block, states);
    Row s = held(states, args.a + strip.key_at(begin), keys);
    for (int i = 0; i < steps; ++i) {
      held_at[i] = s;
      strip.read(begin + i);
      const float *next_a = args.a + strip.key_at(i + 1 < steps ? begin + i + 1 : begin + i);
      const Row value = strip.value(args.v, begin + i);
      advance(states + i * keys, states + (i + 1) * keys, strip.token, next_a, value, s, keys);
    }
    for (int i = steps - 1; i >= 0; --i) {
      const std::int64_t t = begin + i;
      strip.read(t);
      strip.set(retreat(args, strip.key_at(t), strip.token, strip.value(args.v, t), strip.value(args.grad_y, t),
                        held_at[i], states + i * keys, states + (i + 1) * keys, gradient, keys),
                args.grad_v, t);
    }
  }
  strip.save(gradient, args.grad_state);
}

template <class Element>
void run(const MatrixRecurrence &args, std::int64_t head) {
  for_each_strip<Element>(args, head, args.grad_y ? backward<Element> : forward<Element>);
}

}  // namespace

void wkv7(const MatrixRecurrence &args, std::int64_t head) {
  args.type == Type::bfloat16 ? run<bfloat16>(args, head) : run<float>(args, head);
}

}  // namespace receptance::RECEPTANCE_LEVEL
