// The recurrent half of a layer of RWKV-4 (receptance/models/rwkv4.py). For kernel files only (see table.h).

#pragma once

#include "work.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

class TimeMixer4 {
 public:
  using Layer = Layer4;

  TimeMixer4(const Work &work, Storage &storage)
      : work_(work),
        seen_(work, storage),
        key_input_(storage, work.network.channels),
        value_input_(storage, work.network.channels),
        receptance_input_(storage, work.network.channels),
        k_(storage.shared.take<float>(storage.tokens * work.network.memory_channels)),
        v_(storage.shared.take<float>(storage.tokens * work.network.memory_channels)),
        r_(storage.shared.take<float>(storage.tokens * work.network.memory_channels)),
        y_(storage.shared.take<float>(storage.tokens * work.network.memory_channels)),
        output_input_(storage, work.network.memory_channels, y_) {}

  // Writes the change of the residual stream x.
  void run(const Layer4 &layer, std::int64_t index, const float *x, float *change) const {
    const std::int64_t channels = work_.network.channels;
    seen_.fill(x, layer.norm, work_.part(work_.before().time_shift, index, channels));
    work_.each_token([&](std::int64_t token) {
      seen_.mix_for(layer.key, token, layer.mix_k, key_input_);
      seen_.mix_for(layer.value, token, layer.mix_v, value_input_);
      seen_.mix_for(layer.receptance, token, layer.mix_r, receptance_input_);
    });
    work_.meet_after_tokens();
    work_.multiply({{layer.key, key_input_, k_},
                    {layer.value, value_input_, v_},
                    {layer.receptance, receptance_input_, r_}});
    seen_.keep(&States::time_shift, index);
    remember(layer, index);
    work_.meet();
    work_.each_token([&](std::int64_t token) { output_input_.round_for(layer.output, token); });
    work_.meet_after_tokens();
    work_.multiply({{layer.output, output_input_, change}});
  }

 private:
  const Work &work_;
  Seen seen_;
  Input key_input_, value_input_, receptance_input_;
  float *k_, *v_, *r_, *y_;
  Input output_input_;

  // Shared by rows of the batch and, where these are few, by channels in steps of a cache line.
  void remember(const Layer4 &layer, std::int64_t index) const {
    const std::int64_t channels = work_.network.memory_channels, time = work_.span.time, rows = work_.span.rows;
    constexpr std::int64_t line = 16;
    const std::int64_t lines = (channels + line - 1) / line, pieces = rows < work_.threads() ? work_.threads() : 1;
    work_.share(rows * pieces, [&](std::int64_t i) {
      const std::int64_t row = i / pieces, piece = i % pieces;
      const std::int64_t begin = lines * piece / pieces * line, end = lines * (piece + 1) / pieces * line;
      const std::int64_t size = (end < channels ? end : channels) - begin;
      work_.each_step([&](std::int64_t t, std::int64_t length, const States &before, const States &after) {
        const std::int64_t first = (row * time + t) * channels;
        const auto part = [&](float *sums) { return work_.part(sums, index, channels) + row * channels; };
        const Wkv4Forward args{Type::float32, k_ + first, v_ + first, layer.decay, layer.bonus,
                               part(before.memory[0]), part(before.memory[1]), part(before.memory[2]), y_ + first,
                               part(after.memory[0]), part(after.memory[1]), part(after.memory[2]), nullptr,
                               1, length, channels};
        wkv4_forward(args, 0, begin, begin + size);
      });
      for (std::int64_t token = row * time; token < (row + 1) * time; ++token) {
        float *y = y_ + token * channels + begin;
        const float *r = r_ + token * channels + begin;
        map(y, size, [=](auto at) { return sigmoid(at(r)) * at(y); });
      }
    });
  }
};

}  // namespace
}  // namespace receptance::RECEPTANCE_LEVEL
