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
//   dr = dy S_{t-1} + d u k;  dk = v dS + d u r;  dw = e^w (dS * S_{t-1});  du = d r k;  dv = dS k + c dy;
//   then  dS = diag(e^w) dS + dy r,  where  d = dy v
//
// dr, dk, dw, du are sums over values, to which each strip adds its own.

#include "matrix_state.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

float to_itself(const Keys &token, const float *u, int keys) {
  float c = 0.0f;
  for (int j = 0; j < keys; ++j) c += token.r[j] * u[j] * token.k[j];
  return c;
}

// One token: `before` becomes `after` (which may be the same place). Returns y without the token's own part.
Row advance(const Row *before, Row *after, const Keys token, const Row value, int keys) {
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
void forward(const MatrixRecurrence &args, Strip<Element> &strip) {
  const int keys = strip.keys;
  Scratch scratch(keys);
  Row *state = scratch.rows();
  strip.load(args.state, state);
  for (std::int64_t t = 0; t < args.time; ++t) {
    if (args.checkpoints && t % MATRIX_BLOCK == 0) strip.keep(state, t / MATRIX_BLOCK);
    strip.read(t);
    const Row value = strip.value(args.v, t);
    const float c = to_itself(strip.token, strip.bonus(), keys);
    Row y = advance(state, state, strip.token, value, keys);
    for (int n = 0; n < VECTORS; ++n) y[n] += value[n] * c;
    strip.set(y, args.y, t);
  }
  strip.save(state, args.state_end);
}

// One token going back, given the state before it. `gradient` is dS: of the state after the token, then of the one
// before. Adds to dr, dw, dk of each key at `at`, and to du; returns dv.
template <class Element>
Row retreat(const MatrixRecurrence &args, const Strip<Element> &strip, std::int64_t at, const Row value,
            const Row grad_y, const Row *before, Row *gradient) {
  const Keys token = strip.token;
  const int keys = strip.keys;
  const float c = to_itself(token, strip.bonus(), keys);
  Vector product = {};
  for (int n = 0; n < VECTORS; ++n) product += grad_y[n] * value[n];
  float d = 0.0f;
  for (int lane = 0; lane < LANES; ++lane) d += product[lane];
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
    const Vector receptance = load(token.r + begin), key = load(token.k + begin);
    const Vector bonus = d * load_some(strip.bonus() + begin, end, 0.0f);
    add_some(sums(r) + bonus * key, args.grad_r + at + begin, end);
    add_some(sums(w) * load(token.w + begin), args.grad_w + at + begin, end);
    add_some(sums(k) + bonus * receptance, args.grad_k + at + begin, end);
    add_some(d * receptance * key, strip.grad_bonus() + begin, end);
  }
  return grad_v;
}

template <class Element>
void backward(const MatrixRecurrence &args, Strip<Element> &strip) {
  const int keys = strip.keys;
  Scratch scratch((MATRIX_BLOCK + 2) * keys);
  Row *states = scratch.rows(), *gradient = states + (MATRIX_BLOCK + 1) * keys;
  strip.load(args.grad_state_end, gradient);
  for (std::int64_t block = blocks_of(args.time) - 1; block >= 0; --block) {
    const std::int64_t begin = block * MATRIX_BLOCK;
    const int steps = static_cast<int>(args.time - begin < MATRIX_BLOCK ? args.time - begin : MATRIX_BLOCK);
    strip.recall(block, states);
    for (int i = 0; i + 1 < steps; ++i) {
      strip.read(begin + i);
      advance(states + i * keys, states + (i + 1) * keys, strip.token, strip.value(args.v, begin + i), keys);
    }
    for (int i = steps - 1; i >= 0; --i) {
      const std::int64_t t = begin + i;
      strip.read(t);
      const Row grad_v = retreat(args, strip, strip.key_at(t), strip.value(args.v, t), strip.value(args.grad_y, t),
                                 states + i * keys, gradient);
      strip.set(grad_v, args.grad_v, t);
    }
  }
  strip.save(gradient, args.grad_state);
}

template <class Element>
void run(const MatrixRecurrence &args, std::int64_t head) {
  for_each_strip<Element>(args, head, args.grad_y ? backward<Element> : forward<Element>);
}

}  // namespace

void wkv6(const MatrixRecurrence &args, std::int64_t head) {
  args.type == Type::bfloat16 ? run<bfloat16>(args, head) : run<float>(args, head);
}

}  // namespace receptance::RECEPTANCE_LEVEL
