// The loss of one token from its row of logits, and the gradient written over that row while it is still in the cache:
//
//   nll = log(sum_j e^x_j) - x_target      gradient_j = e^x_j / sum - (j == target)
//
// plus the penalties with their gradients: max_logit_weight / 2 * x_top^2 of the largest logit, and z_loss_weight * z^2
// of z = log(sum_j e^x_j), whose gradient is 2 * z_loss_weight * z * e^x_j / sum.

#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

// Where the row ends within a vector, the missing lanes are below every logit.
constexpr float NOTHING = -__builtin_inff();

template <class Element>
Vector load_end(const Element *x, std::int64_t i, std::int64_t count) {
  return load_some(x + i, static_cast<int>(count - i), NOTHING);
}

template <class Element>
float largest(const Element *x, std::int64_t count) {
  Vector tops[4] = {all(NOTHING), all(NOTHING), all(NOTHING), all(NOTHING)};
  std::int64_t i = 0;
  for (; i + 4 * LANES <= count; i += 4 * LANES)
    for (int part = 0; part < 4; ++part) tops[part] = larger(tops[part], load(x + i + part * LANES));
  for (; i + LANES <= count; i += LANES) tops[0] = larger(tops[0], load(x + i));
  if (i < count) tops[1] = larger(tops[1], load_end(x, i, count));
  const Vector all_tops = larger(larger(tops[0], tops[1]), larger(tops[2], tops[3]));
  float top = all_tops[0];
  for (int lane = 1; lane < LANES; ++lane) top = all_tops[lane] > top ? all_tops[lane] : top;
  return top;
}

// Write e^(x - top) to `exponentials` and return their sum.
template <class Element>
double exponentiate(const Element *x, std::int64_t count, float top, float *exponentials) {
  Vector sums[2] = {};
  std::int64_t i = 0;
  for (; i + 2 * LANES <= count; i += 2 * LANES) {
    for (int part = 0; part < 2; ++part) {
      const Vector e = exponential(load(x + i + part * LANES) - top);
      sums[part] += e;
      store(e, exponentials + i + part * LANES);
    }
  }
  for (; i < count; i += LANES) {
    const bool whole = i + LANES <= count;
    const Vector e = exponential((whole ? load(x + i) : load_end(x, i, count)) - top);
    sums[0] += e;
    store(e, exponentials + i);
  }
  double sum = 0.0;
  for (int lane = 0; lane < LANES; ++lane) sum += static_cast<double>(sums[0][lane]) + sums[1][lane];
  return sum;
}

template <class Element>
void scale(const float *from, std::int64_t count, float factor, Element *to) {
  std::int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(load(from + i) * factor, to + i);
  if (i < count) store_some(load(from + i) * factor, to + i, static_cast<int>(count - i));
}

// The first of the largest logits; -1 when there is none because of a NaN.
template <class Element>
std::int64_t find(const Element *x, std::int64_t count, float value) {
  for (std::int64_t i = 0; i < count; i += LANES) {
    const Vector here = i + LANES <= count ? load(x + i) : load_end(x, i, count);
    if (!any(here == value)) continue;
    for (int lane = 0; lane < LANES && i + lane < count; ++lane)
      if (here[lane] == value) return i + lane;
  }
  return -1;
}

template <class Element>
float read(const Element *x) {
  return load_some(x, 1, 0.0f)[0];
}

template <class Element>
void token_loss(const CrossEntropy &args, std::int64_t token, float *exponentials) {
  const std::int64_t count = args.vocabulary, target = args.targets[token];
  Element *x = static_cast<Element *>(args.logits) + token * count;
  args.nll[token] = args.penalty[token] = 0.0f;
  if (target < 0) {
    if (args.gradient) __builtin_memset(x, 0, count * sizeof(Element));
    return;
  }
  const float top = largest(x, count), at_target = read(x + target);
  const double sum = exponentiate(x, count, top, exponentials), z = top + __builtin_log(sum);
  args.nll[token] = static_cast<float>(__builtin_log(sum) - (static_cast<double>(at_target) - top));
  args.penalty[token] = static_cast<float>(0.5 * args.max_logit_weight * top * top + args.z_loss_weight * z * z);
  if (!args.gradient) return;

  const std::int64_t peak = args.max_logit_weight != 0.0f ? find(x, count, top) : -1;
  const float factor = static_cast<float>((1.0 + 2.0 * args.z_loss_weight * z) / sum);
  const float at_peak = args.max_logit_weight * top;
  scale(exponentials, count, factor, x);
  const float share = exponentials[target] * factor;
  store_some(all(share - 1.0f + (peak == target ? at_peak : 0.0f)), x + target, 1);
  if (peak >= 0 && peak != target) store_some(all(factor + at_peak), x + peak, 1);
}

}  // namespace

void cross_entropy(const CrossEntropy &args, std::int64_t token, float *scratch) {
  args.type == Type::float32 ? token_loss<float>(args, token, scratch) : token_loss<bfloat16>(args, token, scratch);
}

}  // namespace receptance::RECEPTANCE_LEVEL
