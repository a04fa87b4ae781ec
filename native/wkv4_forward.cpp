// The forward pass of WKV-4; what it computes and how is told in wkv4.h.

#include "wkv4.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

template <class In, class Out>
void forward_flat(const Parameters &x, Vector m, const In &k, const In &v, const Out &y, int steps, Sums &sums) {
  const Factor in(sums.p - m);
  Vector a = in * sums.a, b = in * sums.b, p = sums.p;
  for (int t = 0; t < steps; ++t) {
    const Vector key = k[t], value = v[t], e = exponential_within_87(key - m), now = x.bonus * e;
    y.set(t, (a + now * value) / (b + now));
    a = x.decay * a + e * value;
    b = x.decay * b + e;
    p = larger(p + x.w, key);
  }
  const Factor out(m - p);
  sums = {undrifted(x, out * a, steps), undrifted(x, out * b, steps), p};
}

template <class In, class Out>
void forward_stepped(const Parameters &x, const In &k, const In &v, const Out &y, int steps, Sums &sums) {
  Stepping now = begin_steps(sums);
  for (int t = 0; t < steps; ++t) {
    const Step s = step(x, k[t], now);
    const Vector value = v[t];
    y.set(t, (s.past_y * now.a + s.now_y * value) / (s.past_y * now.b + s.now_y));
    now = after(s, value, now);
  }
  sums = end_steps(now);
}

template <class Element, bool whole>
void forward_block(const Wkv4Forward &args, std::int64_t at, int count, int steps, const Parameters &x, Sums &sums) {
  using In = Columns<const Element, whole>;
  const In k{static_cast<const Element *>(args.k) + at, args.channel, count};
  const In v{static_cast<const Element *>(args.v) + at, args.channel, count};
  const Columns<Element, whole> y{static_cast<Element *>(args.y) + at, args.channel, count};
  Vector m;
  if (is_flat(x, k, sums.p, steps, m))
    forward_flat(x, m, k, v, y, steps, sums);
  else
    forward_stepped(x, k, v, y, steps, sums);
}

template <class Element>
void forward_strip(const Wkv4Forward &args, std::int64_t row, std::int64_t begin, int width) {
  const std::int64_t channels = args.channel, blocks = (args.time + BLOCK - 1) / BLOCK;
  Parameters parameters[VECTORS];
  Sums sums[VECTORS];
  for (int i = 0, c = 0; c < width; ++i, c += LANES) {
    const std::int64_t at = row * channels + begin + c;
    const int count = width - c < LANES ? width - c : LANES;
    parameters[i] = prepare(args.w + begin + c, args.u + begin + c, count);
    sums[i] = load_sums(args.a + at, args.b + at, args.p + at, count);
  }
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t left = args.time - block * BLOCK;
    const int steps = static_cast<int>(left < BLOCK ? left : BLOCK);
    for (int i = 0, c = 0; c < width; ++i, c += LANES) {
      const std::int64_t at = (row * args.time + block * BLOCK) * channels + begin + c;
      const int count = width - c < LANES ? width - c : LANES;
      if (args.checkpoints) {
        float *kept = args.checkpoints + (row * blocks + block) * 3 * channels + begin + c;
        store_row(sums[i].a, kept, count);
        store_row(sums[i].b, kept + channels, count);
        store_row(sums[i].p, kept + 2 * channels, count);
      }
      const std::int64_t next = at + BLOCK * channels, rows = left - BLOCK < BLOCK ? left - BLOCK : BLOCK;
      prefetch<Element, READ>(args.k, next, channels, rows);
      prefetch<Element, READ>(args.v, next, channels, rows);
      prefetch<Element, WRITE>(args.y, next, channels, rows);
      if (count == LANES)
        forward_block<Element, true>(args, at, count, steps, parameters[i], sums[i]);
      else
        forward_block<Element, false>(args, at, count, steps, parameters[i], sums[i]);
    }
  }
  for (int i = 0, c = 0; c < width; ++i, c += LANES) {
    const std::int64_t at = row * channels + begin + c;
    const int count = width - c < LANES ? width - c : LANES;
    store_row(sums[i].a, args.a_end + at, count);
    store_row(sums[i].b, args.b_end + at, count);
    store_row(sums[i].p, args.p_end + at, count);
  }
}

}  // namespace

void wkv4_forward(const Wkv4Forward &args, std::int64_t row, std::int64_t begin, std::int64_t end) {
  for_each_strip(begin, end, [&](std::int64_t first, int width) {
    args.type == Type::float32 ? forward_strip<float>(args, row, first, width)
                               : forward_strip<bfloat16>(args, row, first, width);
  });
}

}  // namespace receptance::RECEPTANCE_LEVEL
