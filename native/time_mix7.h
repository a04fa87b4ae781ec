// The recurrent half of a layer of RWKV-7 (receptance/models/rwkv7.py). For kernel files only (see table.h).

#pragma once

#include "step.h"
#include "work.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

class TimeMixer7 {
 public:
  using Layer = Layer7;

  TimeMixer7(const Work &work, Storage &storage)
      : work_(work),
        channels_(work.network.channels),
        seen_(work, storage),
        r_input_(storage, channels_),
        w_input_(storage, channels_),
        k_input_(storage, channels_),
        v_input_(storage, channels_),
        a_input_(storage, channels_),
        g_input_(storage, channels_),
        w_low_(storage, work.network.rank),
        a_low_(storage, work.network.rank),
        v_low_(storage, work.network.rank),
        g_low_(storage, work.network.rank),
        r_(take(storage)),
        w_(take(storage)),
        k_(take(storage)),
        v_(take(storage)),
        first_v_(take(storage)),
        v_share_(take(storage)),
        a_(take(storage)),
        kappa_(take(storage)),
        g_(take(storage)),
        decayed_r_(take(storage)),
        y_(take(storage)),
        output_input_(storage, channels_, y_) {}

  // Writes the change of the residual stream x.
  void run(const Layer7 &layer, std::int64_t index, const float *x, float *change) {
    seen_.fill(x, layer.norm, work_.part(work_.before().time_shift, index, channels_));
    work_.each_token([&](std::int64_t token) {
      seen_.mix_for(layer.receptance, token, layer.mix_r, r_input_);
      seen_.mix_for(layer.w1, token, layer.mix_w, w_input_);
      seen_.mix_for(layer.key, token, layer.mix_k, k_input_);
      seen_.mix_for(layer.value, token, layer.mix_v, v_input_);
      if (layer.v1.panels) v_input_.round_for(layer.v1, token);
      seen_.mix_for(layer.a1, token, layer.mix_a, a_input_);
      seen_.mix_for(layer.g1, token, layer.mix_g, g_input_);
    });
    work_.meet_after_tokens();
    const bool is_first = !layer.v1.panels;
    work_.multiply({{layer.receptance, r_input_, r_},
                    {layer.key, k_input_, k_},
                    {layer.value, v_input_, is_first ? first_v_ : v_},
                    {layer.w1, w_input_, w_low_.low},
                    {layer.a1, a_input_, a_low_.low},
                    {layer.v1, v_input_, v_low_.low},
                    {layer.g1, g_input_, g_low_.low}});
    seen_.keep(&States::time_shift, index);
    w_low_.activate(work_, layer.w1, layer.w2, [](Vector x) { return tanh(x); });
    a_low_.activate(work_, layer.a1, layer.a2, [](Vector x) { return x; });
    if (!is_first) v_low_.activate(work_, layer.v1, layer.v2, [](Vector x) { return x; });
    g_low_.activate(work_, layer.g1, layer.g2, [](Vector x) { return sigmoid(x); });
    work_.meet_after_tokens();
    work_.multiply({{layer.w2, w_low_.hidden, w_},
                    {layer.a2, a_low_.hidden, a_},
                    {layer.v2, v_low_.hidden, v_share_},
                    {layer.g2, g_low_.hidden, g_}});
    remember(layer, index, is_first ? first_v_ : v_);
    work_.meet();
    work_.each_token([&](std::int64_t token) { output_input_.round_for(layer.output, token); });
    work_.meet_after_tokens();
    work_.multiply({{layer.output, output_input_, change}});
  }

 private:
  const Work &work_;
  std::int64_t channels_;
  Seen seen_;
  Input r_input_, w_input_, k_input_, v_input_, a_input_, g_input_;
  LowRank w_low_, a_low_, v_low_, g_low_;
  float *r_, *w_, *k_, *v_, *first_v_, *v_share_, *a_, *kappa_, *g_, *decayed_r_, *y_;
  Input output_input_;

  float *take(Storage &storage) const { return storage.shared.take<float>(storage.tokens * channels_); }

  void remember(const Layer7 &layer, std::int64_t index, float *v) const {
    const std::int64_t heads = work_.network.heads, size = channels_ / heads, time = work_.span.time;
    work_.share(work_.span.rows * heads, [&](std::int64_t i) {
      const std::int64_t first = i / heads * time * channels_ + i % heads * size, channel = i % heads * size;
      for (std::int64_t t = 0; t < time; ++t) bring(layer, first + t * channels_, channel, size, v);
      const auto memory = [&](const States &of) {
        return work_.part(of.memory[0], index, heads * size * size) + i * size * size;
      };
      work_.each_step([&](std::int64_t t, std::int64_t length, const States &before, const States &after) {
        pass(v, first + t * channels_, length, size, memory(before), memory(after));
      });
      for (std::int64_t t = 0; t < time; ++t) gate(layer, first + t * channels_, channel, size, v);
    });
  }

  // One head's memory meets some tokens; `at_token` is the place of the first in [token, channel].
  void pass(const float *values, std::int64_t at_token, std::int64_t time, std::int64_t size, const float *before,
            float *after) const {
    const float *r = r_ + at_token, *k = k_ + at_token, *v = values + at_token;
    const float *kappa = kappa_ + at_token, *a = a_ + at_token;
    float *w = w_ + at_token, *y = y_ + at_token;
    if (time == 1 && size % LANES == 0) {
      map(w, size, [=](auto at) { return exponential(at(w)); });
      return step7({r, w, k, v, kappa, a, y}, decayed_r_ + at_token, size, before, after);
    }
    MatrixRecurrence args{};
    args.type = Type::float32;
    args.value_first = true;
    args.r = r, args.k = k, args.v = v, args.w = w, args.a = kappa, args.b = a, args.y = y;
    args.state = before, args.state_end = after;
    args.batch = 1, args.time = time, args.head = work_.network.heads, args.key = args.value = size;
    wkv7(args, 0);
  }

  // Make what one head's memory is given of what the matrices gave; `at_token` is its place in [token, channel].
  void bring(const Layer7 &layer, std::int64_t at_token, std::int64_t channel, std::int64_t size, float *values) const {
    float *w = w_ + at_token, *k = k_ + at_token, *v = values + at_token, *a = a_ + at_token;
    float *kappa = kappa_ + at_token;
    const float *w0 = layer.w0 + channel, *a0 = layer.a0 + channel;
    const float *k_k = layer.k_k + channel, *k_a = layer.k_a + channel;
    constexpr float least_log_decay = -0.6065306597f;  // -e^(-1/2)
    map(w, size, [=](auto at) { return least_log_decay * sigmoid(at(w0) + at(w)); });
    map(a, size, [=](auto at) { return sigmoid(at(a0) + at(a)); });
    if (layer.v0) {
      const float *v0 = layer.v0 + channel, *share = v_share_ + at_token, *first = first_v_ + at_token;
      map(v, size, [=](auto at) { return at(v) + (at(first) - at(v)) * sigmoid(at(v0) + at(share)); });
    }
    map(kappa, size, [=](auto at) { return at(k) * at(k_k); });
    const float length = __builtin_sqrtf(total(size, [=](auto at) { return at(kappa) * at(kappa); }));
    const float scale = -1.0f / (length > 1e-12f ? length : 1e-12f);
    map(k, size, [=](auto at) { return at(k) * (1.0f + (at(a) - 1.0f) * at(k_a)); });
    map(kappa, size, [=](auto at) { return at(kappa) * scale; });
    map(a, size, [=](auto at) { return -at(kappa) * at(a); });
  }

  void gate(const Layer7 &layer, std::int64_t at_token, std::int64_t channel, std::int64_t size, float *values) const {
    float *y = y_ + at_token;
    const float *r = r_ + at_token, *k = k_ + at_token, *v = values + at_token, *g = g_ + at_token;
    const float *r_k = layer.r_k + channel;
    const float bonus = total(size, [=](auto at) { return at(r) * at(k) * at(r_k); });
    const Norm norm{layer.head_norm.weight + channel, layer.head_norm.bias + channel};
    normalise(y, size, norm, work_.network.head_epsilon, y);
    map(y, size, [=](auto at) { return (at(y) + bonus * at(v)) * at(g); });
  }
};

}  // namespace
}  // namespace receptance::RECEPTANCE_LEVEL
