// The feed-forward half of a layer, of every generation. For kernel files only (see table.h).

#pragma once

#include "work.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

class ChannelMixer {
 public:
  ChannelMixer(const Work &work, Storage &storage)
      : work_(work),
        seen_(work, storage),
        key_input_(storage, work.network.channels),
        receptance_input_(storage, work.network.channels),
        hidden_(storage, work.network.feed_forward),
        k_(storage.shared.take<float>(storage.tokens * work.network.feed_forward)),
        r_(storage.shared.take<float>(storage.tokens * work.network.channels)),
        v_(storage.shared.take<float>(storage.tokens * work.network.channels)) {}

  // Adds to the residual stream x, each thread for its tokens.
  void run(const ChannelMix &mix, std::int64_t layer, float *x) const {
    const std::int64_t channels = work_.network.channels, wide = work_.network.feed_forward;
    const bool gated = mix.receptance.panels;
    seen_.fill(x, mix.norm, work_.part(work_.before().channel_shift, layer, channels));
    work_.each_token([&](std::int64_t token) {
      seen_.mix_for(mix.key, token, mix.mix_k, key_input_);
      if (gated) seen_.mix_for(mix.receptance, token, mix.mix_r, receptance_input_);
    });
    work_.meet_after_tokens();
    work_.multiply({{mix.key, key_input_, k_}, {mix.receptance, receptance_input_, r_}});
    seen_.keep(&States::channel_shift, layer);
    work_.each_token([&](std::int64_t token) {
      const float *k = k_ + token * wide;
      map(hidden_.at(token), wide, [=](auto at) { return squared_relu(at(k)); });
      hidden_.round_for(mix.value, token);
    });
    work_.meet_after_tokens();
    work_.multiply({{mix.value, hidden_, v_}});
    work_.each_token([&](std::int64_t token) {
      float *to = x + token * channels;
      const float *r = r_ + token * channels, *v = v_ + token * channels;
      if (gated)
        map(to, channels, [=](auto at) { return at(to) + sigmoid(at(r)) * at(v); });
      else
        map(to, channels, [=](auto at) { return at(to) + at(v); });
    });
  }

 private:
  const Work &work_;
  Seen seen_;
  Input key_input_, receptance_input_, hidden_;
  float *k_, *r_, *v_;
};

}  // namespace
}  // namespace receptance::RECEPTANCE_LEVEL
