// WKV-6 forward and backward (arxiv.org/abs/2404.05892, eq. 19), a strip of values of one head at a time:
//
//   y = r (diag(u) k^T v + S),  then  S = diag(e^w) S + k^T v
//
//   r receptance, k key, v value, w decay a step (a logarithm, below zero), u bonus of the current token
//   S     the memory of a head; S[j] here is its row at key j, values in the lanes
//   c     what the current token gives to its own y:  c = sum_j r_j u_j k_j
//
// RWKV-5 is the same with a decay that does not change. Backward, block by block from the end: the states of a block
// are found again from the one kept at its start, then
//
//   dr' = dy S_{t-1};  dk' = v dS;  dw = e^w (dS * S_{t-1});  dv = dS k + c dy;  then  dS = diag(e^w) dS + dy r
//
// where dr', dk', dw are sums over values: each strip writes its own, and Python adds them up, and what u gives.

#include "matrix_state.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

float to_itself(const Keys &token, const float *u, int keys) {
  float c = 0.0f;
  for (int j = 0; j < keys; ++j) c += token.r[j] * u[j] * token.k[j];
  return c;
}

// One token: `before` becomes `after` (which may be the same place). Returns y without the token's own part.
Row advance(const Row *before, Row *after, const Keys &token, const Row &value, int keys) {
  Row y = {};
  for (int j = 0; j < keys; ++j) {
    Row row = before[j];
    for (int n = 0; n < VECTORS; ++n) {
      y[n] += row[n] * token.r[j];
      row[n] = row[n] * token.w[j] + value[n] * token.k[j];
    }
    after[j] = row;
  }
  return y;
}

template <class Element>
void forward(const MatrixRecurrence &args, Strip<Element> &strip, float *checkpoints) {
  const int keys = strip.keys;
  Scratch scratch(keys);
  Row *state = scratch.rows();
  strip.load(args.state, state);
  for (std::int64_t t = 0; t < args.time; ++t) {
    if (checkpoints && t % MATRIX_BLOCK == 0)
      __builtin_memcpy(checkpoints + t / MATRIX_BLOCK * keys * WIDTH, state, keys * sizeof(Row));
    strip.read(t);
    const Row value = strip.value(args.v, t);
    const float c = to_itself(strip.token, args.u + strip.head() * keys, keys);
    Row y = advance(state, state, strip.token, value, keys);
    for (int n = 0; n < VECTORS; ++n) y[n] += value[n] * c;
    strip.set(y, args.y, t);
  }
  strip.save(state, args.state_end);
}

// One token going back, given the state before it. `gradient` is dS: of the state after the token, then of the one
// before. Writes dr', dw, dk' of each key at `at`; returns dv.
Row retreat(const MatrixRecurrence &args, std::int64_t at, const Keys &token, float c, const Row &value,
            const Row &grad_y, const Row *before, Row *gradient, int keys) {
  Row grad_v;
  for (int n = 0; n < VECTORS; ++n) grad_v[n] = grad_y[n] * c;
  for (int begin = 0; begin < keys; begin += LANES) {
    Vector r[LANES] = {}, w[LANES] = {}, k[LANES] = {};
    const int end = keys - begin < LANES ? keys - begin : LANES;
    for (int i = 0; i < end; ++i) {
      const int j = begin + i;
      Row row = gradient[j];
      for (int n = 0; n < VECTORS; ++n) {
        r[i] += grad_y[n] * before[j][n];
        w[i] += row[n] * before[j][n];
        k[i] += row[n] * value[n];
        grad_v[n] += row[n] * token.k[j];
        row[n] = row[n] * token.w[j] + grad_y[n] * token.r[j];
      }
      gradient[j] = row;
    }
    store_some(sums(r), args.grad_r + at + begin, end);
    store_some(sums(w) * load(token.w + begin), args.grad_w + at + begin, end);
    store_some(sums(k), args.grad_k + at + begin, end);
  }
  return grad_v;
}

template <class Element>
void backward(const MatrixRecurrence &args, Strip<Element> &strip, const float *checkpoints, std::int64_t part) {
  const int keys = strip.keys;
  Scratch scratch((MATRIX_BLOCK + 2) * keys);
  Row *states = scratch.rows(), *gradient = states + (MATRIX_BLOCK + 1) * keys;
  strip.load(args.grad_state_end, gradient);
  for (std::int64_t block = blocks_of(args.time) - 1; block >= 0; --block) {
    const std::int64_t begin = block * MATRIX_BLOCK;
    const int steps = static_cast<int>(args.time - begin < MATRIX_BLOCK ? args.time - begin : MATRIX_BLOCK);
    __builtin_memcpy(states, checkpoints + block * keys * WIDTH, keys * sizeof(Row));
    for (int i = 0; i + 1 < steps; ++i) {
      strip.read(begin + i);
      advance(states + i * keys, states + (i + 1) * keys, strip.token, strip.value(args.v, begin + i), keys);
    }
    for (int i = steps - 1; i >= 0; --i) {
      const std::int64_t t = begin + i;
      strip.read(t);
      const float c = to_itself(strip.token, args.u + strip.head() * keys, keys);
      strip.set(retreat(args, part + strip.key_at(t), strip.token, c, strip.value(args.v, t),
                        strip.value(args.grad_y, t), states + i * keys, gradient, keys),
                args.grad_v, t);
    }
  }
  strip.save(gradient, args.grad_state);
}

template <class Element>
void run(const MatrixRecurrence &args, std::int64_t piece) {
  Strip<Element> strip(args, piece);
  float *checkpoints =
      args.checkpoints ? args.checkpoints + piece * blocks_of(args.time) * args.key * WIDTH : nullptr;
  const std::int64_t part = piece % strips_of(args.value) * args.batch * args.time * args.head * args.key;
  args.grad_y ? backward(args, strip, checkpoints, part) : forward(args, strip, checkpoints);
}

}  // namespace

void wkv6(const MatrixRecurrence &args, std::int64_t piece) {
  args.type == Type::bfloat16 ? run<bfloat16>(args, piece) : run<float>(args, piece);
}

}  // namespace receptance::RECEPTANCE_LEVEL
