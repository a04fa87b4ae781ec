// The layer norm of every token, and its mixes with that of the token before, forward and backward:
//
//   n = (x - mean x) / sqrt(variance x + epsilon)     seen_t = n_t weight + bias
//   mixed^i_t = seen_t + share^i (seen_{t-1} - seen_t)
//
// A row of channels stays in the cache while all is computed that depends on it. The norms are rounded to the type of
// x before they are mixed, so that a text that is read in parts gives the bits of one that is read at once.

#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

// Where a pass over the channels is: a whole vector, or the few channels at the end of a row.
struct Whole {
  std::int64_t i;

  template <class Element>
  Vector load(const Element *from) const {
    return RECEPTANCE_LEVEL::load(from + i);
  }
  template <class Element>
  void store(Vector x, Element *to) const {
    RECEPTANCE_LEVEL::store(x, to + i);
  }
  Vector only(Vector x) const { return x; }
};

struct End {
  std::int64_t i;
  int count;

  template <class Element>
  Vector load(const Element *from) const {
    return load_some(from + i, count, 0.0f);
  }
  template <class Element>
  void store(Vector x, Element *to) const {
    store_some(x, to + i, count);
  }
  // Zero in the lanes that are past the end.
  Vector only(Vector x) const {
    for (int lane = count; lane < LANES; ++lane) x[lane] = 0.0f;
    return x;
  }
};

template <class Pass>
void over(std::int64_t channels, Pass pass) {
  std::int64_t i = 0;
  for (; i + LANES <= channels; i += LANES) pass(Whole{i});
  if (i < channels) pass(End{i, static_cast<int>(channels - i)});
}

float sum(Vector x) {
  float whole = 0.0f;
  for (int lane = 0; lane < LANES; ++lane) whole += x[lane];
  return whole;
}

struct Moments {
  float mean, scale;
};

template <class Element>
Moments moments(const Element *x, std::int64_t channels, float epsilon) {
  Vector total = {}, squares = {};
  over(channels, [&](auto at) { total += at.load(x); });
  const float mean = sum(total) / static_cast<float>(channels);
  over(channels, [&](auto at) {
    const Vector off = at.only(at.load(x) - mean);
    squares += off * off;
  });
  return {mean, 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(channels) + epsilon)};
}

Vector as(Vector x, const float *) { return x; }
Vector as(Vector x, const bfloat16 *) { return reinterpret<Vector>(nearest_halves(x) << 16); }

// The norm of one token as it is rounded in memory, in full width.
template <class Element>
Vector seen(Vector normal, Vector weight, Vector bias, const Element *type) {
  return as(normal * weight + bias, type);
}

template <class Element>
const Element *row(const void *x, std::int64_t index, std::int64_t channels) {
  return static_cast<const Element *>(x) + index * channels;
}

template <class Element>
Element *row(void *x, std::int64_t index, std::int64_t channels) {
  return static_cast<Element *>(x) + index * channels;
}

// The norm of the token before the first one of the block.
template <class Element>
void before(const NormMix &args, std::int64_t text, std::int64_t begin, float *to) {
  const std::int64_t channels = args.channel;
  if (begin == 0) {
    const Element *shift = row<Element>(args.shift, text, channels);
    over(channels, [&](auto at) { at.store(at.load(shift), to); });
    return;
  }
  const Element *x = row<Element>(args.x, text * args.time + begin - 1, channels);
  const Moments found = moments(x, channels, args.epsilon);
  over(channels, [&](auto at) {
    at.store(seen((at.load(x) - found.mean) * found.scale, at.load(args.weight), at.load(args.bias), x), to);
  });
}

template <class Element, int MIXES>
void forward(const NormMix &args, std::int64_t text, std::int64_t begin, std::int64_t end, float *past) {
  const std::int64_t channels = args.channel;
  const float *const weight = args.weight, *const bias = args.bias, *const shares = args.shares;
  before<Element>(args, text, begin, past);
  for (std::int64_t t = text * args.time + begin; t < text * args.time + end; ++t) {
    const Element *const x = row<Element>(args.x, t, channels);
    const Moments found = moments(x, channels, args.epsilon);
    args.mean[t] = found.mean, args.scale[t] = found.scale;
    Element *const to = row<Element>(args.seen, t, channels);
    Element *mixed[MIXES];
    for (int i = 0; i < MIXES; ++i) mixed[i] = row<Element>(args.mixed[i], t, channels);
    over(channels, [=](auto at) {
      const Vector now = seen((at.load(x) - found.mean) * found.scale, at.load(weight), at.load(bias), x);
      const Vector difference = at.load(past) - now;
      at.store(now, to);
      at.store(now, past);
      for (int i = 0; i < MIXES; ++i) at.store(now + at.load(shares + i * channels) * difference, mixed[i]);
    });
  }
}

// From the last token of the block to the first. `now` is the norm of a token, `later` what its gradient gets from the
// token after it, `own` the gradient of the normalised row.
template <class Element, int MIXES>
void backward(const NormMix &args, std::int64_t text, std::int64_t begin, std::int64_t end, float *now, float *later,
              float *own) {
  const std::int64_t channels = args.channel, first = text * args.time;
  const std::int64_t blocks = (args.time + NORM_MIX_BLOCK - 1) / NORM_MIX_BLOCK;
  const float *const weights = args.weight, *const bias = args.bias, *const shares = args.shares;
  float *const grad_weight = args.grad_sums + (text * blocks + begin / NORM_MIX_BLOCK) * (2 + MIXES) * channels;
  float *const grad_bias = grad_weight + channels, *const grad_shares = grad_bias + channels;
  __builtin_memset(grad_weight, 0, static_cast<std::size_t>((2 + MIXES) * channels) * sizeof(float));
  before<Element>(args, text, end, now);
  const Element *grads[MIXES];
  for (int i = 0; i < MIXES; ++i) grads[i] = row<Element>(args.grad_mixed[i], first + end, channels);
  over(channels, [=](auto at) {
    Vector grad = {};
    for (int i = 0; end < args.time && i < MIXES; ++i) grad += at.load(shares + i * channels) * at.load(grads[i]);
    at.store(grad, later);
  });
  for (std::int64_t t = end - 1; t >= begin; --t) {
    const Element *const x = row<Element>(args.x, first + t, channels);
    const Element *const x_past = t ? x - channels : row<Element>(args.shift, text, channels);
    const Element *const grad_seen = args.grad_seen ? row<Element>(args.grad_seen, first + t, channels) : nullptr;
    const float mean = args.mean[first + t], scale = args.scale[first + t];
    const float mean_past = t ? args.mean[first + t - 1] : 0.0f, scale_past = t ? args.scale[first + t - 1] : 0.0f;
    for (int i = 0; i < MIXES; ++i) grads[i] -= channels;
    Vector total = {}, along = {};
    over(channels, [=, &total, &along](auto at) {
      const Vector normal = at.only((at.load(x) - mean) * scale), weight = at.load(weights);
      const Vector past =
          t ? seen((at.load(x_past) - mean_past) * scale_past, weight, at.load(bias), x) : at.load(x_past);
      const Vector difference = past - at.load(now);
      Vector grad = at.load(later), to_past = {};
      if (grad_seen) grad += at.load(grad_seen);
      for (int i = 0; i < MIXES; ++i) {
        const Vector each = at.load(grads[i]), shared = each * at.load(shares + i * channels);
        grad += each - shared;
        to_past += shared;
        at.store(at.load(grad_shares + i * channels) + each * difference, grad_shares + i * channels);
      }
      at.store(at.load(grad_weight) + grad * normal, grad_weight);
      at.store(at.load(grad_bias) + grad, grad_bias);
      const Vector weighted = grad * weight;
      total += weighted;
      along += weighted * normal;
      at.store(weighted, own);
      at.store(to_past, later);
      at.store(past, now);
    });
    const float mean_total = sum(total) / static_cast<float>(channels);
    const float mean_along = sum(along) / static_cast<float>(channels);
    Element *const to = row<Element>(args.grad_x, first + t, channels);
    over(channels, [=](auto at) {
      at.store(scale * (at.load(own) - mean_total - (at.load(x) - mean) * scale * mean_along), to);
    });
  }
  if (begin) return;
  Element *const grad_shift = row<Element>(args.grad_shift, text, channels);
  over(channels, [=](auto at) { at.store(at.load(later), grad_shift); });
}

template <class Element, int MIXES>
void block_of(const NormMix &args, std::int64_t text, std::int64_t begin, std::int64_t end, float *scratch) {
  if (args.mixes != MIXES) {  // each number is compiled, so that its loops are unrolled
    if constexpr (MIXES > 1) block_of<Element, MIXES - 1>(args, text, begin, end, scratch);
  } else if (args.is_backward) {
    backward<Element, MIXES>(args, text, begin, end, scratch, scratch + args.channel, scratch + 2 * args.channel);
  } else {
    forward<Element, MIXES>(args, text, begin, end, scratch);
  }
}

}  // namespace

void norm_mix(const NormMix &args, std::int64_t block, float *scratch) {
  const std::int64_t blocks = (args.time + NORM_MIX_BLOCK - 1) / NORM_MIX_BLOCK;
  const std::int64_t text = block / blocks, begin = block % blocks * NORM_MIX_BLOCK;
  const std::int64_t end = begin + NORM_MIX_BLOCK < args.time ? begin + NORM_MIX_BLOCK : args.time;
  args.type == Type::float32 ? block_of<float, NORM_MIX_MOST>(args, text, begin, end, scratch)
                             : block_of<bfloat16, NORM_MIX_MOST>(args, text, begin, end, scratch);
}

}  // namespace receptance::RECEPTANCE_LEVEL
