// A step of AdamW on some of the elements of a parameter (arxiv.org/abs/1711.05101, algorithm 2), in one pass over memory:
//
//   m' = m + (1 - beta1) (g - m)     v' = beta2 v + (1 - beta2) g^2
//   w' = w (1 - rate decay) - rate m' / c1 / (sqrt(v') / sqrt(c2) + epsilon)     c = 1 - beta^step
//
// The gradient is read in its own type, and the weight that networks read is rounded from the master w' on the way.

#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

Vector square_root(Vector x) {
#if defined(__AVX512F__)
  return reinterpret<Vector>(_mm512_maskz_sqrt_ps(0xffff, reinterpret<__m512>(x)));
#else
  for (int lane = 0; lane < LANES; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
  return x;
#endif
}

template <class Gradient>
void update(const AdamW &args, std::int64_t begin, std::int64_t end) {
  const auto *gradient = static_cast<const Gradient *>(args.gradient);
  auto *weight = static_cast<bfloat16 *>(args.weight);
  float *const master = args.master, *const mean = args.mean, *const square = args.square;
  const float scale = args.gradient_scale, beta2 = args.beta2, new1 = args.new1, new2 = args.new2;
  const float kept = args.kept, rate = args.rate, inverse_root = args.inverse_root, epsilon = args.epsilon;
  const auto step = [&](auto load, auto save, auto round) {
    const Vector g = load(gradient) * scale, m = load(mean) + new1 * (g - load(mean));
    const Vector v = beta2 * load(square) + new2 * g * g;
    const Vector w = kept * load(master) - rate * m / (square_root(v) * inverse_root + epsilon);
    save(m, mean), save(v, square), save(w, master);
    if (weight) round(w, weight);
  };
  std::int64_t i = begin;
  for (; i + LANES <= end; i += LANES)
    step([&](const auto *from) { return RECEPTANCE_LEVEL::load(from + i); },
         [&](Vector x, float *to) { store(x, to + i); }, [&](Vector x, bfloat16 *to) { store(x, to + i); });
  const int left = static_cast<int>(end - i);
  if (left > 0)
    step([&](const auto *from) { return load_some(from + i, left, 0.0f); },
         [&](Vector x, float *to) { store_some(x, to + i, left); },
         [&](Vector x, bfloat16 *to) { store_some(x, to + i, left); });
}

// The squares are summed in double precision after every few vectors.
template <class Element>
double squares(const Element *x, std::int64_t size) {
  constexpr std::int64_t part = 8 * LANES;
  Doubles whole = {};
  std::int64_t i = 0;
  for (; i + part <= size; i += part) {
    Vector sum = {};
    for (int at = 0; at < part; at += LANES) sum += load(x + i + at) * load(x + i + at);
    whole += widen(sum);
  }
  for (; i < size; i += LANES) {
    const Vector here = i + LANES <= size ? load(x + i) : load_some(x + i, static_cast<int>(size - i), 0.0f);
    whole += widen(here * here);
  }
  double total = 0.0;
  for (int lane = 0; lane < LANES; ++lane) total += whole[lane];
  return total;
}

}  // namespace

void adamw(const AdamW &args, std::int64_t begin, std::int64_t end) {
  args.type == Type::float32 ? update<float>(args, begin, end) : update<bfloat16>(args, begin, end);
}

double sum_of_squares(Type type, const void *x, std::int64_t begin, std::int64_t end) {
  return type == Type::float32 ? squares(static_cast<const float *>(x) + begin, end - begin)
                               : squares(static_cast<const bfloat16 *>(x) + begin, end - begin);
}

}  // namespace receptance::RECEPTANCE_LEVEL
