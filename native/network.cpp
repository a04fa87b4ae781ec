// A whole network for a batch of tokens in one call: embedding, layers, norm, head. Every thread of the team runs this;
// work.h tells how they share the work.

#include "network.h"

#include "channel_mix.h"
#include "time_mix4.h"
#include "time_mix6.h"
#include "time_mix7.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

// Cut the batch so that no span has more than SPAN_TOKENS tokens: long rows each in equal parts, short rows together.
template <class Function>
void for_each_span(std::int64_t batch, std::int64_t time, Function f) {
  const std::int64_t parts = (time + SPAN_TOKENS - 1) / SPAN_TOKENS, rows = time < SPAN_TOKENS ? SPAN_TOKENS / time : 1;
  for (std::int64_t row = 0; row < batch; row += rows)
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t begin = time * part / parts, end = time * (part + 1) / parts;
      f(Span{row, batch - row < rows ? batch - row : rows, begin, end - begin, part == 0, part == parts - 1});
    }
}

template <class TimeMixer>
class Evaluator {
 public:
  Evaluator(const Work &work, Storage &storage)
      : work_(work),
        x_(storage.own.take<float>(storage.tokens * work.network.channels)),
        change_(storage.shared.take<float>(storage.tokens * work.network.channels)),
        last_(storage, work.network.channels),
        time_mixer_(work, storage),
        channel_mixer_(work, storage) {}

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
      const std::int64_t row = work_.span.row + token / work_.span.time;
      const std::int64_t t = work_.span.begin + token % work_.span.time;
      const std::int64_t id = work_.call.tokens[row * work_.call.time + t];
      float *x = x_ + token * channels;
      unpack(network.embedding, x, id, id + 1);
      normalise(x, channels, network.embedding_norm, network.epsilon, x);
    });
  }

  void score() {
    const Span &span = work_.span;
    const std::int64_t channels = work_.network.channels, vocabulary = work_.network.vocabulary;
    const Matrix &head = work_.network.head;
    const bool last_only = work_.call.last_only;
    if (last_only && !span.is_last) return work_.meet();
    last_.tokens = last_only ? span.rows : span.tokens();
    work_.each_token([&](std::int64_t token) {
      if (last_only && (token + 1) % span.time) return;
      const std::int64_t to = last_only ? token / span.time : token;
      normalise(x_ + token * channels, channels, work_.network.last_norm, work_.network.last_epsilon, last_.at(to));
      last_.round_for(head, to);
    });
    work_.meet_after_tokens();
    const std::int64_t first = last_only ? span.row : span.row * work_.call.time + span.begin;
    work_.multiply({{head, last_, work_.call.logits + first * vocabulary}});
  }
};

template <class TimeMixer>
Storage counted(const Work &work) {
  Storage storage{Arena(nullptr), Arena(nullptr), work.span.tokens(), work.call.stepwise};
  Evaluator<TimeMixer>(work, storage);
  return storage;
}

// The memory of a span: what belongs to tokens, once or for each thread, then what is shared.
std::int64_t copies(const Span &span, const Team &team) { return span.tokens() == 1 ? team.size() : 1; }

struct Evaluate {
  const Network &network;
  const Evaluation &call;
  const Team &team;

  template <class TimeMixer>
  void as() const {
    for_each_span(call.batch, call.time, [&](const Span &span) {
      const Work work(network, call, span, team);
      const std::int64_t own = counted<TimeMixer>(work).own.bytes(), count = copies(span, team);
      char *begin = static_cast<char *>(call.scratch);
      char *mine = count > 1 ? begin + team.thread() * own : begin;
      Storage storage{Arena(mine), Arena(begin + count * own), span.tokens(), call.stepwise};
      Evaluator<TimeMixer>(work, storage).run();
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
    for_each_span(call.batch, call.time, [&](const Span &span) {
      const Storage storage = counted<TimeMixer>(Work(network, call, span, team));
      const std::int64_t bytes = copies(span, team) * storage.own.bytes() + storage.shared.bytes();
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
