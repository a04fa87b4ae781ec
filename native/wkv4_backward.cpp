// The backward pass of WKV-4; what it computes and how is told in wkv4.h.
//
// With G_A, G_B the gradients of A, B after the token, D the denominator of its y, q = grad_y / D:
//
//   grad_v = q e^(u+k) + e^k G_A                 grad_k = q e^(u+k) (v - y) + e^k (G_A v + G_B)
//   grad_u = sum q e^(u+k) (v - y)               grad_w = sum e^w (G_A A + G_B B), A and B before the token
//   before the token: G_A = e^w G_A + q,  G_B = e^w G_B - q y
//
// grad_w could be had from grad_k and grad_u alone, but only as a difference of large sums: nothing would be left of it
// in the channels that forget fast, where it is small.

#include "wkv4.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

struct Gradients {
  Vector a, b;  // of the sums, at fixed p
  Vector p;     // of p itself, which belongs to whichever exponent was the largest
  Doubles w, u;
};

// `p_end` is p after the block.
template <class In, class Out>
void backward_flat(const Parameters &x, Vector m, const Sums &start, Vector p_end, const In &k, const In &v,
                   const In &grad_y, const Out &grad_k, const Out &grad_v, int steps, Gradients &gradients) {
  Vector as[BLOCK], bs[BLOCK], es[BLOCK], inverses[BLOCK];  // a, b before the token; e^(k-m); one over D
  const Factor in(start.p - m), out(m - p_end);
  Vector a = in * start.a, b = in * start.b;
  for (int t = 0; t < steps; ++t) {
    const Vector e = exponential_within_87(k[t] - m);
    as[t] = a;
    bs[t] = b;
    es[t] = e;
    inverses[t] = 1.0f / (b + x.bonus * e);
    a = x.decay * a + e * v[t];
    b = x.decay * b + e;
  }
  Vector grad_a = out * gradients.a, grad_b = out * gradients.b, grad_w = {}, grad_u = {};
  for (int t = steps - 1; t >= 0; --t) {
    const Vector value = v[t], e = es[t], now = x.bonus * e;
    const Vector y = (as[t] + now * value) * inverses[t], q = grad_y[t] * inverses[t];
    const Vector by_bonus = q * now * (value - y);
    grad_k.set(t, by_bonus + e * (grad_a * value + grad_b));
    grad_v.set(t, q * now + e * grad_a);
    grad_u += by_bonus;
    grad_w += grad_a * as[t] + grad_b * bs[t];
    grad_a = x.decay * grad_a + q;
    grad_b = x.decay * grad_b - q * y;
  }
  gradients.a = undrifted(x, in * grad_a, steps);
  gradients.b = undrifted(x, in * grad_b, steps);
  gradients.w += widen(x.decay * grad_w);
  gradients.u += widen(grad_u);
}

template <class In, class Out>
void backward_stepped(const Parameters &x, const Sums &start, const In &k, const In &v, const In &grad_y,
                      const Out &grad_k, const Out &grad_v, int steps, Gradients &gradients) {
  Stepping before[BLOCK + 1];
  before[0] = begin_steps(start);
  for (int t = 0; t < steps; ++t) before[t + 1] = after(step(x, k[t], before[t]), v[t], before[t]);
  const Factor lag(before[steps].lag);
  Vector grad_a = lag * gradients.a, grad_b = lag * gradients.b;
  for (int t = steps - 1; t >= 0; --t) {
    const Step s = step(x, k[t], before[t]);
    const Vector value = v[t], a = before[t].a, b = before[t].b;
    const Vector inverse = 1.0f / (s.past_y * b + s.now_y), q = grad_y[t] * inverse;
    const Vector y = (s.past_y * a + s.now_y * value) * inverse;
    const Vector by_bonus = q * s.now_y * (value - y);
    grad_k.set(t, by_bonus + s.now * (grad_a * value + grad_b));
    grad_v.set(t, q * s.now_y + s.now * grad_a);
    gradients.u += widen(by_bonus);
    gradients.w += widen(s.past * (grad_a * a + grad_b * b));
    grad_a = s.past * grad_a + q * s.past_y;
    grad_b = s.past * grad_b - q * s.past_y * y;
  }
  gradients.a = grad_a;
  gradients.b = grad_b;
}

// The gradient of p itself belongs to the exponent that became p: going back, to w for every token that p outlasted,
// then to the k of the token that set it (or, when none did, to the p before the first token).
template <class In, class Out>
void route_p(const Parameters &x, const In &k, Vector p, const Out &grad_k, int steps, Gradients &gradients) {
  Vector before[BLOCK];
  for (int t = 0; t < steps; ++t) {
    before[t] = p;
    p = larger(p + x.w, k[t]);
  }
  for (int t = steps - 1; t >= 0; --t) {
    const auto outlasted = before[t] + x.w > k[t];
    grad_k.set(t, grad_k[t] + (outlasted ? Vector{} : gradients.p));
    gradients.p = outlasted ? gradients.p : Vector{};
    gradients.w += widen(gradients.p);
  }
}

template <class Element, bool whole>
void backward_block(const Wkv4Backward &args, std::int64_t at, int count, int steps, const Parameters &x,
                    const Sums &start, Vector p_end, Gradients &gradients) {
  static constexpr Element zeros[LANES] = {};
  using In = Columns<const Element, whole>;
  using Out = Columns<Element, whole>;
  const In k{static_cast<const Element *>(args.k) + at, args.channel, count};
  const In v{static_cast<const Element *>(args.v) + at, args.channel, count};
  const In grad_y = args.grad_y ? In{static_cast<const Element *>(args.grad_y) + at, args.channel, count}
                                : In{zeros, 0, count};
  const Out grad_k{static_cast<Element *>(args.grad_k) + at, args.channel, count};
  const Out grad_v{static_cast<Element *>(args.grad_v) + at, args.channel, count};
  Vector m;
  if (is_flat(x, k, start.p, steps, m))
    backward_flat(x, m, start, p_end, k, v, grad_y, grad_k, grad_v, steps, gradients);
  else
    backward_stepped(x, start, k, v, grad_y, grad_k, grad_v, steps, gradients);
  if (any(gradients.p != 0.0f)) route_p(x, k, start.p, grad_k, steps, gradients);
}

Vector load_optional(const float *from, std::int64_t at, int count) {
  return from ? load_row(from + at, count, 0.0f) : Vector{};
}

Gradients start_gradients(const Wkv4Backward &args, std::int64_t at, int count) {
  Gradients g = {};
  g.a = load_optional(args.grad_a_end, at, count);
  g.b = load_optional(args.grad_b_end, at, count);
  // At fixed A and B, a change of p also changes a and b.
  const Sums end = load_sums(args.a_end + at, args.b_end + at, args.p_end + at, count);
  g.p = load_optional(args.grad_p_end, at, count) - end.a * g.a - end.b * g.b;
  return g;
}

void finish_gradients(const Wkv4Backward &args, std::int64_t at, int count, const Sums &start, const Gradients &g) {
  store_row(g.a, args.grad_a + at, count);
  store_row(g.b, args.grad_b + at, count);
  store_row(g.p + g.a * start.a + g.b * start.b, args.grad_p + at, count);
  store_row(narrow(g.w), args.grad_w + at, count);
  store_row(narrow(g.u), args.grad_u + at, count);
}

template <class Element>
void backward_strip(const Wkv4Backward &args, std::int64_t row, std::int64_t begin, int width) {
  const std::int64_t channels = args.channel, blocks = (args.time + BLOCK - 1) / BLOCK;
  Parameters parameters[VECTORS];
  Gradients gradients[VECTORS];
  Sums start[VECTORS];
  for (int i = 0, c = 0; c < width; ++i, c += LANES) {
    const std::int64_t at = row * channels + begin + c;
    const int count = width - c < LANES ? width - c : LANES;
    parameters[i] = prepare(args.w + begin + c, args.u + begin + c, count);
    gradients[i] = start_gradients(args, at, count);
    start[i].p = load_row(args.p_end + at, count, 0.0f);
  }
  for (std::int64_t block = blocks - 1; block >= 0; --block) {
    const std::int64_t left = args.time - block * BLOCK;
    const int steps = static_cast<int>(left < BLOCK ? left : BLOCK);
    for (int i = 0, c = 0; c < width; ++i, c += LANES) {
      const std::int64_t at = (row * args.time + block * BLOCK) * channels + begin + c;
      const int count = width - c < LANES ? width - c : LANES;
      const float *kept = args.checkpoints + (row * blocks + block) * 3 * channels + begin + c;
      const Vector p_end = start[i].p;
      start[i] = load_sums(kept, kept + channels, kept + 2 * channels, count);
      const std::int64_t next = at - BLOCK * channels, rows = block ? BLOCK : 0;
      prefetch<Element, READ>(args.k, next, channels, rows);
      prefetch<Element, READ>(args.v, next, channels, rows);
      if (args.grad_y) prefetch<Element, READ>(args.grad_y, next, channels, rows);
      prefetch<Element, WRITE>(args.grad_k, next, channels, rows);
      prefetch<Element, WRITE>(args.grad_v, next, channels, rows);
      if (count == LANES)
        backward_block<Element, true>(args, at, count, steps, parameters[i], start[i], p_end, gradients[i]);
      else
        backward_block<Element, false>(args, at, count, steps, parameters[i], start[i], p_end, gradients[i]);
    }
  }
  for (int i = 0, c = 0; c < width; ++i, c += LANES) {
    const int count = width - c < LANES ? width - c : LANES;
    finish_gradients(args, row * channels + begin + c, count, start[i], gradients[i]);
  }
}

}  // namespace

void wkv4_backward(const Wkv4Backward &args, std::int64_t row, std::int64_t begin, std::int64_t end) {
  for_each_strip(begin, end, [&](std::int64_t first, int width) {
    args.type == Type::float32 ? backward_strip<float>(args, row, first, width)
                               : backward_strip<bfloat16>(args, row, first, width);
  });
}

}  // namespace receptance::RECEPTANCE_LEVEL
