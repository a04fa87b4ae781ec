// Arithmetic on rows of float32, a vector at a time, and the functions that networks are made of. For kernel files only
// (see table.h).

#pragma once

#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {

// to[i] = f(at), where at(from) is from[i].
template <class Function>
static inline void map(float *to, std::int64_t size, Function f) {
  std::int64_t i = 0;
  for (; i + LANES <= size; i += LANES) store(f([=](const float *from) { return load(from + i); }), to + i);
  const int left = static_cast<int>(size - i);
  if (left > 0) store_some(f([=](const float *from) { return load_some(from + i, left, 0.0f); }), to + i, left);
}

// The sum of f(at) over all i; f must be zero where everything is.
template <class Function>
static inline float total(std::int64_t size, Function f) {
  Vector sum = {};
  std::int64_t i = 0;
  for (; i + LANES <= size; i += LANES) sum += f([=](const float *from) { return load(from + i); });
  const int left = static_cast<int>(size - i);
  if (left > 0) sum += f([=](const float *from) { return load_some(from + i, left, 0.0f); });
  float whole = 0.0f;
  for (int lane = 0; lane < LANES; ++lane) whole += sum[lane];
  return whole;
}

static inline Vector bounded_exponential(Vector x) { return exponential(smaller(all(87.0f), x)); }

static inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + bounded_exponential(-x)); }

static inline Vector tanh(Vector x) { return 1.0f - 2.0f / (1.0f + bounded_exponential(x + x)); }

static inline Vector squared_relu(Vector x) {
  const Vector positive = larger(Vector{}, x);
  return positive * positive;
}

// Layer norm of one row; `to` may be x.
static inline void normalise(const float *x, std::int64_t size, Norm norm, float epsilon, float *to) {
  const float count = static_cast<float>(size);
  const float mean = total(size, [=](auto at) { return at(x); }) / count;
  map(to, size, [=](auto at) { return at(x) - mean; });
  const float variance = total(size, [=](auto at) { return at(to) * at(to); }) / count;
  const float scale = 1.0f / __builtin_sqrtf(variance + epsilon);
  map(to, size, [=](auto at) { return at(to) * scale * at(norm.weight) + at(norm.bias); });
}

static inline void copy(const float *from, std::int64_t size, float *to) {
  __builtin_memcpy(to, from, static_cast<std::size_t>(size) * sizeof(float));
}

}  // namespace receptance::RECEPTANCE_LEVEL
