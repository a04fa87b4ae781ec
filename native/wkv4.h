// What the two passes of WKV-4 share (arxiv.org/abs/2305.13048, eq. 16), channel by channel:
//
//   y = (A + e^(u+k) v) / (B + e^(u+k)),  then  A = e^w A + e^k v,  B = e^w B + e^k
//
//   k key, v value, w decay a step (a logarithm, below zero), u bonus of the current token
//   A, B  weighted sums over the past; kept as a, b with A = a e^p, B = b e^p
//   p     running maximum of the exponents: p = max(p + w, k)
//
// A vector holds neighbouring channels; time is cut into blocks of 16 tokens. A block is read row by row of memory, all
// channels of the strip, before the next one. Each vector does a block in one of two ways:
//
//   flat     A and B are scaled by e^-m, m being the largest exponent of the whole block: one exponential a token.
//            It serves where no key of the block lies more than SPREAD below m, so that nothing underflows.
//   stepped  a and b are scaled by the running e^-p at every token: four exponentials, whatever the exponents are.
//
// wkv4_backward.cpp reads the sums that the forward pass kept at the start of every block, goes through the block
// again, and then back. From block to block it carries the gradients of a and b at fixed p. They cannot overflow: they
// sum the gradients of all later y, each with a weight below one.

#pragma once

#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {

constexpr int BLOCK = WKV4_BLOCK;
constexpr int STRIP = 1024;            // channels whose sums are at hand
constexpr int VECTORS = STRIP / LANES;

// The flat way divides by numbers as small as e^-(SPREAD + LARGEST_BONUS); float32 ends at e^88.
constexpr float SPREAD = 50.0f;
constexpr float LARGEST_BONUS = 20.0f;  // of |u|

struct Parameters {
  Vector w, u;
  Vector decay;        // e^w, rounded
  Vector decay_error;  // what the rounding lost, relative to e^w
  Vector bonus;        // e^u
  bool flat;           // u allows the flat way
};

struct Sums {
  Vector a, b, p;
};

// The rows of one vector's channels in a block: `whole` when the vector lies within the array.
template <class Element, bool whole>
struct Columns {
  Element *first;
  std::int64_t stride;
  int count;

  Vector operator[](int t) const {
    return whole ? load(first + t * stride) : load_some(first + t * stride, count, 0.0f);
  }
  void set(int t, Vector x) const {
    whole ? store(x, first + t * stride) : store_some(x, first + t * stride, count);
  }
};

static inline Vector load_row(const float *from, int count, float missing) {
  return count == LANES ? load(from) : load_some(from, count, missing);
}

static inline void store_row(Vector x, float *to, int count) {
  count == LANES ? store(x, to) : store_some(x, to, count);
}

static inline Sums load_sums(const float *a, const float *b, const float *p, int count) {
  return {load_row(a, count, 0.0f), load_row(b, count, 1.0f), load_row(p, count, 0.0f)};
}

static inline Parameters prepare(const float *w, const float *u, int count) {
  Parameters x;
  x.w = load_row(w, count, -1.0f);
  x.u = load_row(u, count, 0.0f);
  const Doubles decay = exponential(widen(x.w));
  x.decay = narrow(decay);
  x.decay_error = narrow((decay - widen(x.decay)) / (decay + 1e-300));
  x.bonus = exponential(x.u);
  x.flat = !any((x.u > LARGEST_BONUS) | (x.u < -LARGEST_BONUS));
  return x;
}

// Whether the flat way serves, and m.
template <class Keys>
static inline bool is_flat(const Parameters &x, const Keys &k, Vector p, int steps, Vector &m) {
  if (!x.flat) return false;
  Vector low = k[0];
  m = larger(p, low);
  for (int t = 1; t < steps; ++t) {
    const Vector key = k[t];
    m = larger(m, key);
    low = smaller(low, key);
  }
  return !any(m - low > SPREAD);
}

// Sums that were multiplied by the rounded decay at every step are off in the same direction every time, by 2e-4 after
// 8192 tokens; this puts it right after each block.
static inline Vector undrifted(const Parameters &x, Vector sum, int steps) {
  return sum + sum * (static_cast<float>(steps) * x.decay_error);
}

// The stepped way. p + w is rounded at every token, in the same direction as long as the past wins. What p thereby
// lacks is known exactly and kept beside it, within a block: A = a e^(p + lag).
struct Stepping {
  Vector a, b, p, lag;
};

static inline Stepping begin_steps(const Sums &sums) { return {sums.a, sums.b, sums.p, Vector{}}; }

static inline Sums end_steps(const Stepping &x) {
  const Factor lag(x.lag);
  return {lag * x.a, lag * x.b, x.p};
}

// What one token does. Exponents are only compared by their differences, which are exact where they matter.
struct Step {
  Vector past_y, now_y;  // weights of the past and of the token in y, before they are divided by their sum
  Vector past, now;      // weights of the past and of the token in the sums after it
  Vector p, lag;         // after the token
};

static inline Step step(const Parameters &x, Vector key, const Stepping &before) {
  Step s;
  const Vector lead = x.u + (key - before.p - before.lag);  // of the token over the past
  s.past_y = exponential(-larger(lead, Vector{}));
  s.now_y = exponential(smaller(lead, Vector{}));
  s.p = larger(before.p + x.w, key);
  const Vector lost = x.w - (s.p - before.p) + before.lag;
  const auto past_wins = before.p + x.w > key;
  s.lag = past_wins ? lost : Vector{};
  s.past = past_wins ? all(1.0f) : exponential(lost);
  s.now = exponential(key - s.p - s.lag);
  return s;
}

static inline Stepping after(const Step &s, Vector value, const Stepping &before) {
  return {s.past * before.a + s.now * value, s.past * before.b + s.now, s.p, s.lag};
}

// Ask for what the next block reads or writes at these channels while this one is computed: its rows lie too far apart
// for the processor to foresee them. They go to the second cache, because rows that are a round number of bytes apart
// would push each other out of the first. `at` is the place of the next block in the array.
enum Access { READ = 0, WRITE = 1 };

template <class Element, Access access>
static inline void prefetch(const void *array, std::int64_t at, std::int64_t stride, std::int64_t rows) {
  const Element *first = static_cast<const Element *>(array) + at;
  if (reinterpret_cast<std::uintptr_t>(first) % 64 >= LANES * sizeof(Element)) return;  // asked for by its neighbour
  for (std::int64_t row = 0; row < rows; ++row) __builtin_prefetch(first + row * stride, access, 2);
}

template <class Strip>
static inline void for_each_strip(std::int64_t begin, std::int64_t end, Strip &&strip) {
  for (std::int64_t first = begin; first < end; first += STRIP)
    strip(first, static_cast<int>(end - first < STRIP ? end - first : STRIP));
}

}  // namespace receptance::RECEPTANCE_LEVEL
