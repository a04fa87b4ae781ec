// One token of WKV-6 and WKV-7 on a head's memory as it lies there: decoding reads and writes all of it once a token,
// and turning it over first, as the kernels for long texts do, would take longer than the step. For heads whose size is
// a multiple of LANES. For kernel files only (see table.h).

#pragma once

#include "elementwise.h"
#include "lanes.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

// What a token brings for one head, [size] each, as in MatrixRecurrence but for w: the decay e^w itself.
struct Token {
  const float *r, *w, *k, *v, *a, *b;
  float *y;
};

// WKV-6 (see wkv6.cpp) for `count` vectors of values, at all keys.
template <int count>
static inline void step6(const Token &token, float c, std::int64_t size, const float *before, float *after, float *y) {
  Vector sum[count] = {};
  for (std::int64_t j = 0; j < size; ++j)
    for (int n = 0; n < count; ++n) {
      const std::int64_t at = j * size + n * LANES;
      const Vector row = load(before + at);
      sum[n] += row * token.r[j];
      store(row * token.w[j] + load(token.v + n * LANES) * token.k[j], after + at);
    }
  for (int n = 0; n < count; ++n) store(sum[n] + load(token.v + n * LANES) * c, y + n * LANES);
}

static inline void step6(Token token, const float *u, std::int64_t size, const float *before, float *after) {
  const float c = total(size, [=](auto at) { return at(token.r) * at(u) * at(token.k); });
  for (std::int64_t i = 0; i < size;) {
    const int width = size - i >= 4 * LANES ? 4 * LANES : LANES;
    (width == LANES ? step6<1> : step6<4>)(token, c, size, before + i, after + i, token.y + i);
    token.v += width;
    i += width;
  }
}

// WKV-7 (see wkv7.cpp) for LANES values, rows of the memory. With s = S a, what comes after is S w + s b + v k, and so
//
//   y = S (w r) + s (b r) + v (k r)
//
// is known from the same pass over S as s. `decayed_r` is w r.
static inline void step7(const Token &token, const float *decayed_r, float b_r, float k_r, std::int64_t size,
                         std::int64_t first, const float *before, float *after) {
  Vector held[LANES] = {}, read[LANES] = {};
  for (int i = 0; i < LANES; ++i)
    for (std::int64_t j = 0; j < size; j += LANES) {
      const Vector row = load(before + i * size + j);
      held[i] += row * load(token.a + j);
      read[i] += row * load(decayed_r + j);
    }
  const Vector s = sums(held), v = load(token.v + first);
  store(sums(read) + s * b_r + v * k_r, token.y + first);
  for (int i = 0; i < LANES; ++i)
    for (std::int64_t j = 0; j < size; j += LANES) {
      const Vector row = load(before + i * size + j);
      store(row * load(token.w + j) + (s[i] * load(token.b + j) + v[i] * load(token.k + j)), after + i * size + j);
    }
}

static inline void step7(const Token &token, float *decayed_r, std::int64_t size, const float *before, float *after) {
  map(decayed_r, size, [=](auto at) { return at(token.w) * at(token.r); });
  const float b_r = total(size, [=](auto at) { return at(token.b) * at(token.r); });
  const float k_r = total(size, [=](auto at) { return at(token.k) * at(token.r); });
  for (std::int64_t first = 0; first < size; first += LANES)
    step7(token, decayed_r, b_r, k_r, size, first, before + first * size, after + first * size);
}

}  // namespace
}  // namespace receptance::RECEPTANCE_LEVEL
