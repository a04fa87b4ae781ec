// A whole network for a batch of tokens in one call: embedding, layers, norm, head. Every thread of the team runs this;
// work.h tells how they share the work.

#include "network.h"

#include "channel_mix.h"
#include "time_mix4.h"
#include "time_mix6.h"
#include "time_mix7.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

// Cut the batch so that no chunk has more than CHUNK tokens: long rows each in equal parts, short rows together.
template <class Function>
void for_each_chunk(std::int64_t batch, std::int64_t time, Function f) {
  const std::int64_t parts = (time + CHUNK - 1) / CHUNK, rows = time < CHUNK ? CHUNK / time : 1;
  for (std::int64_t row = 0; row < batch; row += rows)
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t begin = time * part / parts, end = time * (part + 1) / parts;
      f(Chunk{row, batch - row < rows ? batch - row : rows, begin, end - begin, part == 0, part == parts - 1});
    }
}

template <class TimeMixer>
class Evaluator {
 public:
  Evaluator(const Work &work, Room &room)
      : work_(work),
        x_(room.own.take<float>(room.tokens * work.network.channels)),
        change_(room.shared.take<float>(room.tokens * work.network.channels)),
        last_(room, work.network.channels),
        time_mixer_(work, room),
        channel_mixer_(work, room) {}

  void run() {
    const Network &network = work_.network;
    const auto *layers = static_cast<const typename TimeMixer::Layer *>(network.layer);
    embed();
    for (std::int64_t i = 0; i < network.layers; ++i) {
      time_mixer_.run(layers[i], i, x_, change_);
      work_.each_token([&](std::int64_t token) {
        float *to = x_ + token * network.channels;
        const float *from = change_ + token * network.channels;
        map(to, network.channels, [=](auto at) { return at(to) + at(from); });
      });
      channel_mixer_.run(layers[i].channel_mix, i, x_);
    }
    score();
  }

 private:
  const Work &work_;
  float *x_, *change_;
  Input last_;
  TimeMixer time_mixer_;
  ChannelMixer channel_mixer_;

  void embed() const {
    const Network &network = work_.network;
    const std::int64_t channels = network.channels;
    work_.each_token([&](std::int64_t token) {
      const std::int64_t row = work_.chunk.row + token / work_.chunk.time;
      const std::int64_t t = work_.chunk.begin + token % work_.chunk.time;
      const std::int64_t at = work_.call.tokens[row * work_.call.time + t] * channels;
      float *x = x_ + token * channels;
      if (network.embedding_type == Type::bfloat16) {
        const auto *from = static_cast<const bfloat16 *>(network.embedding) + at;
        for (std::int64_t i = 0; i < channels; ++i) x[i] = widened(from[i]);
      } else {
        copy(static_cast<const float *>(network.embedding) + at, channels, x);
      }
      normalise(x, channels, network.embedding_norm, network.epsilon, x);
    });
  }

  static float widened(bfloat16 x) { return reinterpret<float>(static_cast<std::uint32_t>(x.bits) << 16); }

  void score() {
    const Chunk &chunk = work_.chunk;
    const std::int64_t channels = work_.network.channels, vocabulary = work_.network.vocabulary;
    const Matrix &head = work_.network.head;
    const bool last_only = work_.call.last_only;
    if (last_only && !chunk.is_last) return work_.meet();
    last_.tokens = last_only ? chunk.rows : chunk.tokens();
    work_.each_token([&](std::int64_t token) {
      if (last_only && (token + 1) % chunk.time) return;
      const std::int64_t to = last_only ? token / chunk.time : token;
      normalise(x_ + token * channels, channels, work_.network.last_norm, work_.network.last_epsilon, last_.at(to));
      last_.round_for(head, to);
    });
    work_.meet_after_tokens();
    const std::int64_t first = last_only ? chunk.row : chunk.row * work_.call.time + chunk.begin;
    work_.multiply({{head, last_, work_.call.logits + first * vocabulary}});
  }
};

template <class TimeMixer>
Room counted(const Work &work) {
  Room room{Arena(nullptr), Arena(nullptr), work.chunk.tokens()};
  Evaluator<TimeMixer>(work, room);
  return room;
}

// The memory of a chunk: what belongs to tokens, once or for each thread, then what is shared.
std::int64_t copies(const Chunk &chunk, const Team &team) { return chunk.tokens() == 1 ? team.size() : 1; }

struct Evaluate {
  const Network &network;
  const Evaluation &call;
  const Team &team;

  template <class TimeMixer>
  void as() const {
    for_each_chunk(call.batch, call.time, [&](const Chunk &chunk) {
      const Work work(network, call, chunk, team);
      const std::int64_t own = counted<TimeMixer>(work).own.bytes(), count = copies(chunk, team);
      char *begin = static_cast<char *>(call.scratch);
      Room room{Arena(count > 1 ? begin + team.thread() * own : begin), Arena(begin + count * own), chunk.tokens()};
      Evaluator<TimeMixer>(work, room).run();
    });
  }
};

struct CountScratch {
  const Network &network;
  const Evaluation &call;
  const Team &team;
  std::int64_t &most;

  template <class TimeMixer>
  void as() const {
    for_each_chunk(call.batch, call.time, [&](const Chunk &chunk) {
      const Room room = counted<TimeMixer>(Work(network, call, chunk, team));
      const std::int64_t bytes = copies(chunk, team) * room.own.bytes() + room.shared.bytes();
      most = bytes > most ? bytes : most;
    });
  }
};

template <class Task>
void by_generation(const Task &task) {
  switch (task.network.generation) {
    case 4: return task.template as<TimeMixer4>();
    case 5:
    case 6: return task.template as<TimeMixer6>();
    case 7: return task.template as<TimeMixer7>();
  }
}

}  // namespace

void evaluate(const Network &network, const Evaluation &call, const Team &team) {
  by_generation(Evaluate{network, call, team});
}

std::int64_t scratch_bytes(const Network &network, const Evaluation &call, const Team &team) {
  std::int64_t most = 0;
  by_generation(CountScratch{network, call, team, most});
  return most;
}

}  // namespace receptance::RECEPTANCE_LEVEL
