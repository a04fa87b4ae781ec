// The recurrent half of a layer of RWKV-5 and 6 (receptance/models/rwkv5.py, rwkv6.py). For kernel files only (see
// table.h).

#pragma once

#include "step.h"
#include "work.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

class TimeMixer6 {
 public:
  using Layer = Layer6;

  TimeMixer6(const Work &work, Storage &storage)
      : work_(work),
        channels_(work.network.channels),
        seen_(work, storage),
        mix_input_(storage, channels_),
        inputs_{{storage, channels_},
                {storage, channels_},
                {storage, channels_},
                {storage, channels_},
                {storage, channels_}},
        mix_hidden_{{storage, rank()}, {storage, rank()}, {storage, rank()}, {storage, rank()}, {storage, rank()}},
        decay_(storage, rank()),
        mix_low_(storage.shared.take<float>(storage.tokens * 5 * rank())),
        w_(storage.shared.take<float>(storage.tokens * channels_)),
        k_(storage.shared.take<float>(storage.tokens * channels_)),
        v_(storage.shared.take<float>(storage.tokens * channels_)),
        r_(storage.shared.take<float>(storage.tokens * channels_)),
        g_(storage.shared.take<float>(storage.tokens * channels_)),
        y_(storage.shared.take<float>(storage.tokens * channels_)),
        output_input_(storage, channels_, y_) {
    for (float *&share : shares_) share = storage.shared.take<float>(storage.tokens * channels_);
  }

  // Writes the change of the residual stream x.
  void run(const Layer6 &layer, std::int64_t index, const float *x, float *change) {
    seen_.fill(x, layer.norm, work_.part(work_.before().time_shift, index, channels_));
    if (layer.mix_one.panels) find_shares(layer);
    mix(layer);
    const Input &w = inputs_[0], &k = inputs_[1], &v = inputs_[2], &r = inputs_[3], &g = inputs_[4];
    work_.multiply({{layer.decay_one, w, decay_.low},
                    {layer.key, k, k_},
                    {layer.value, v, v_},
                    {layer.receptance, r, r_},
                    {layer.gate, g, g_}});
    seen_.keep(&States::time_shift, index);
    if (layer.decay_one.panels) {
      decay_.activate(work_, layer.decay_one, layer.decay_two, [](Vector x) { return tanh(x); });
      work_.meet_after_tokens();
      work_.multiply({{layer.decay_two, decay_.hidden, w_}});
    }
    remember(layer, index);
    work_.meet();
    work_.each_token([&](std::int64_t token) { output_input_.round_for(layer.output, token); });
    work_.meet_after_tokens();
    work_.multiply({{layer.output, output_input_, change}});
  }

 private:
  const Work &work_;
  std::int64_t channels_;
  Seen seen_;
  Input mix_input_, inputs_[5], mix_hidden_[5];  // for w, k, v, r, g
  LowRank decay_;
  float *mix_low_;
  float *w_, *k_, *v_, *r_, *g_, *y_;
  Input output_input_;
  float *shares_[5];  // what RWKV-6 adds to the mixes

  std::int64_t rank() const { return work_.network.rank; }

  void find_shares(const Layer6 &layer) {
    work_.each_token([&](std::int64_t token) { seen_.mix_for(layer.mix_one, token, layer.mix_x, mix_input_); });
    work_.meet_after_tokens();
    work_.multiply({{layer.mix_one, mix_input_, mix_low_}});
    const std::int64_t width = layer.mix_one.rows / 5;
    for (Input &hidden : mix_hidden_) hidden.columns = width;
    work_.each_token([&](std::int64_t token) {
      for (int n = 0; n < 5; ++n) {
        const float *low = mix_low_ + (token * 5 + n) * width;
        map(mix_hidden_[n].at(token), width, [=](auto at) { return tanh(at(low)); });
        mix_hidden_[n].round_for(layer.mix_two[n], token);
      }
    });
    work_.meet_after_tokens();
    work_.multiply({{layer.mix_two[0], mix_hidden_[0], shares_[0]},
                    {layer.mix_two[1], mix_hidden_[1], shares_[1]},
                    {layer.mix_two[2], mix_hidden_[2], shares_[2]},
                    {layer.mix_two[3], mix_hidden_[3], shares_[3]},
                    {layer.mix_two[4], mix_hidden_[4], shares_[4]}});
  }

  void mix(const Layer6 &layer) const {
    const float *means[] = {layer.mix_w, layer.mix_k, layer.mix_v, layer.mix_r, layer.mix_g};
    const Matrix *matrices[] = {&layer.decay_one, &layer.key, &layer.value, &layer.receptance, &layer.gate};
    work_.each_token([&](std::int64_t token) {
      for (int n = 0; n < 5; ++n) {
        if (!matrices[n]->panels) continue;
        float *to = inputs_[n].at(token);
        if (layer.mix_one.panels)
          seen_.mix(token, means[n], shares_[n] + token * channels_, to);
        else
          seen_.mix(token, means[n], to);
        inputs_[n].round_for(*matrices[n], token);
      }
    });
    work_.meet_after_tokens();
  }

  void remember(const Layer6 &layer, std::int64_t index) const {
    const std::int64_t heads = work_.network.heads, size = channels_ / heads, time = work_.span.time;
    work_.share(work_.span.rows * heads, [&](std::int64_t i) {
      const std::int64_t row = i / heads, channel = i % heads * size;
      const float *decay = layer.decay + channel;
      for (std::int64_t t = 0; t < time; ++t) {
        float *w = w_ + (row * time + t) * channels_ + channel;
        if (layer.decay_two.panels)
          map(w, size, [=](auto at) { return -bounded_exponential(at(decay) + at(w)); });
        else
          copy(decay, size, w);
      }
      const auto memory = [&](const States &of) {
        return work_.part(of.memory[0], index, heads * size * size) + i * size * size;
      };
      work_.each_step([&](std::int64_t t, std::int64_t length, const States &before, const States &after) {
        const std::int64_t at_token = (row * time + t) * channels_ + channel;
        pass(layer.bonus + channel, at_token, length, size, memory(before), memory(after));
      });
      const Norm norm{layer.head_norm.weight + channel, layer.head_norm.bias + channel};
      for (std::int64_t t = 0; t < time; ++t) {
        const std::int64_t at_token = (row * time + t) * channels_ + channel;
        float *y = y_ + at_token;
        const float *g = g_ + at_token;
        normalise(y, size, norm, work_.network.head_epsilon, y);
        if (layer.gate.panels) map(y, size, [=](auto at) { return at(y) * at(g) * sigmoid(at(g)); });
      }
    });
  }

  // One head's memory meets some tokens; `at_token` is the place of the first in [token, channel].
  void pass(const float *bonus, std::int64_t at_token, std::int64_t time, std::int64_t size, const float *before,
            float *after) const {
    const float *r = r_ + at_token, *k = k_ + at_token, *v = v_ + at_token;
    float *w = w_ + at_token, *y = y_ + at_token;
    if (time == 1 && size % LANES == 0) {
      map(w, size, [=](auto at) { return exponential(at(w)); });
      return step6({r, w, k, v, nullptr, nullptr, y}, bonus, size, before, after);
    }
    MatrixRecurrence args{};
    args.type = Type::float32;
    args.r = r, args.k = k, args.v = v, args.w = w, args.u = bonus, args.y = y;
    args.state = before, args.state_end = after;
    args.batch = 1, args.time = time, args.head = work_.network.heads, args.key = args.value = size;
    wkv6(args, 0);
  }
};

}  // namespace
}  // namespace receptance::RECEPTANCE_LEVEL
