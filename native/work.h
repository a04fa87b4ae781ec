// How the threads of a team share the work on some tokens. For kernel files only (see table.h).
//
// Two kinds of work alternate. What belongs to tokens (norms, mixes, rounding) is shared by token; but a single token
// every thread does for itself, in memory of its own, which saves waiting for each other. What belongs to output rows
// or heads is always shared, and what it writes is read by all after they have met.

#pragma once

#include "elementwise.h"
#include "threads.h"

namespace receptance::RECEPTANCE_LEVEL {

void wkv4_forward(const Wkv4Forward &, std::int64_t row, std::int64_t begin, std::int64_t end);
void wkv6(const MatrixRecurrence &, std::int64_t head);
void wkv7(const MatrixRecurrence &, std::int64_t head);
void unpack(const Matrix &, float *weights, std::int64_t begin, std::int64_t end);
void prepare(Format, const Inputs &, std::int64_t begin, std::int64_t end);
void multiply(const Matrix &, const Inputs &, float *y, std::int64_t y_stride, std::int64_t begin, std::int64_t end);

namespace {

// The tokens that go through the network at once: some whole rows of the batch, or a part of one row.
struct Span {
  std::int64_t row, rows, begin, time;
  bool is_first, is_last;  // of its rows

  std::int64_t tokens() const { return rows * time; }
};

// Memory handed out from the start of a block; without a block it only counts.
class Arena {
 public:
  explicit Arena(void *begin) : begin_(reinterpret_cast<std::uintptr_t>(begin)), end_(begin_) {}

  template <class Element>
  Element *take(std::int64_t count) {
    const std::uintptr_t at = end_;
    end_ += (static_cast<std::uintptr_t>(count) * sizeof(Element) + 63) / 64 * 64;
    return reinterpret_cast<Element *>(at);
  }
  std::int64_t bytes() const { return static_cast<std::int64_t>(end_ - begin_); }

 private:
  std::uintptr_t begin_, end_;
};

// Where work on tokens keeps its results, and where work on rows and heads does.
struct Storage {
  Arena own, shared;
  std::int64_t tokens;
  bool stepwise;
};

// The inputs of matrices, which the work on tokens fills in; `x` may be given, to be only rounded there.
struct Input : Inputs {
  float *values;

  Input(Storage &storage, std::int64_t width, float *x = nullptr) : Inputs{}, values(x) {
    const std::int64_t groups = groups_of(width), padded = groups * GROUP_COLUMNS;
    if (!values) values = storage.own.take<float>(storage.tokens * width);
    tokens = storage.tokens;
    columns = width;
    Inputs::x = values;
    halves = storage.own.take<std::uint16_t>(storage.tokens * padded);
    rounded = storage.own.take<std::int8_t>(storage.tokens * padded);
    scales = storage.own.take<float>(storage.tokens * groups);
    sums = storage.own.take<std::int32_t>(storage.tokens * groups);
    exact = storage.stepwise;
  }
  float *at(std::int64_t token) const { return values + token * columns; }
  void round_for(const Matrix &matrix, std::int64_t token) const { prepare(matrix.format, *this, token, token + 1); }
};

// y [token, row] = matrix times input; nothing where there is no matrix.
struct Projection {
  const Matrix &matrix;
  const Inputs &input;
  float *y;
};

class Work {
 public:
  const Network &network;
  const Evaluation &call;
  const Span &span;

  Work(const Network &network, const Evaluation &call, const Span &span, const Team &team)
      : network(network), call(call), span(span), team_(team), alone_(span.tokens() == 1) {}

  // Each thread keeps to its own tokens, from call to call, until it meets the others.
  template <class Function>
  void each_token(Function f) const {
    const std::int64_t tokens = span.tokens();
    for (std::int64_t token = alone_ ? 0 : begin(tokens); token < (alone_ ? 1 : end(tokens)); ++token) f(token);
  }
  void meet_after_tokens() const {
    if (!alone_) team_.meet();
  }

  template <class Function>
  void share(std::int64_t count, Function f) const {
    for (std::int64_t i = begin(count); i < end(count); ++i) f(i);
  }
  void meet() const { team_.meet(); }

  // The panels of all these matrices are shared by their bytes.
  template <int count>
  void multiply(const Projection (&list)[count]) const {
    std::int64_t whole = 0, passed = 0;
    for (const Projection &each : list) whole += bytes(each.matrix);
    for (const Projection &each : list) {
      if (!each.matrix.panels) continue;
      const std::int64_t panels = panels_of(each.matrix.rows), size = bytes(each.matrix) / panels;
      const std::int64_t first = panel_at(begin(whole) - passed, size, panels);
      const std::int64_t last = panel_at(end(whole) - passed, size, panels);
      if (first < last)
        receptance::RECEPTANCE_LEVEL::multiply(each.matrix, each.input, each.y, each.matrix.rows, first, last);
      passed += bytes(each.matrix);
    }
    team_.meet();
  }

  // One layer's part of a state, from the first row of the span on.
  float *part(float *state, std::int64_t layer, std::int64_t size) const {
    return state + (layer * call.batch + span.row) * size;
  }
  // The state before the span, and the one for what comes after its time t.
  const States &before() const { return span.is_first ? call.before : after(-1); }
  const States &after(std::int64_t t) const { return call.after[call.stepwise ? span.begin + t : 0]; }

  // The parts of the span, of `length` times from t on, that a memory goes through at once.
  template <class Function>
  void each_step(Function f) const {
    const std::int64_t length = call.stepwise ? 1 : span.time;
    for (std::int64_t t = 0; t < span.time; t += length) f(t, length, t ? after(t - 1) : before(), after(t));
  }
  int threads() const { return team_.size(); }

 private:
  const Team &team_;
  bool alone_;

  std::int64_t begin(std::int64_t count) const { return count * team_.thread() / team_.size(); }
  std::int64_t end(std::int64_t count) const { return count * (team_.thread() + 1) / team_.size(); }
  static std::int64_t bytes(const Matrix &matrix) {
    return matrix.panels ? panels_of(matrix.rows) * panel_bytes(matrix.format, matrix.columns) : 0;
  }
  static std::int64_t panel_at(std::int64_t byte, std::int64_t size, std::int64_t panels) {
    const std::int64_t panel = byte <= 0 ? 0 : (byte + size - 1) / size;
    return panel < panels ? panel : panels;
  }
};

// What lies between two thin matrices, x -> two f(one x).
struct LowRank {
  float *low;  // one x
  Input hidden;

  LowRank(Storage &storage, std::int64_t rank)
      : low(storage.shared.take<float>(storage.tokens * rank)), hidden(storage, rank) {}

  template <class Function>
  void activate(const Work &work, const Matrix &one, const Matrix &two, Function f) {
    const std::int64_t width = hidden.columns = one.rows;
    work.each_token([&](std::int64_t token) {
      const float *from = low + token * width;
      map(hidden.at(token), width, [=](auto at) { return f(at(from)); });
      hidden.round_for(two, token);
    });
  }
};

// What a half of a layer sees: the residual stream, normalised, each token beside the one before it.
class Seen {
 public:
  Seen(const Work &work, Storage &storage)
      : work_(work),
        channels_(work.network.channels),
        slots_(storage.own.take<float>((storage.tokens + work.span.rows) * channels_)) {}

  void fill(const float *x, Norm norm, const float *before) const {
    work_.each_token([&](std::int64_t token) {
      const std::int64_t row = token / work_.span.time;
      normalise(x + token * channels_, channels_, norm, work_.network.epsilon, slot(token));
      if (token % work_.span.time == 0) copy(before + row * channels_, channels_, slot(token) - channels_);
    });
    work_.meet_after_tokens();
  }
  // After all have met, because what is before and after may be in the same place.
  void keep(float *States::*shift, std::int64_t layer) const {
    work_.each_step([&](std::int64_t t, std::int64_t length, const States &, const States &after) {
      float *to = work_.part(after.*shift, layer, channels_);
      work_.share(work_.span.rows, [&](std::int64_t row) {
        copy(slot(row * work_.span.time + t + length - 1), channels_, to + row * channels_);
      });
    });
  }

  void mix(std::int64_t token, const float *mu, float *to) const {
    const float *x = slot(token), *previous = x - channels_;
    map(to, channels_, [=](auto at) { return at(x) + (at(previous) - at(x)) * at(mu); });
  }
  void mix(std::int64_t token, const float *mu, const float *more, float *to) const {
    const float *x = slot(token), *previous = x - channels_;
    map(to, channels_, [=](auto at) { return at(x) + (at(previous) - at(x)) * (at(mu) + at(more)); });
  }
  void mix_for(const Matrix &matrix, std::int64_t token, const float *mu, const Input &to) const {
    mix(token, mu, to.at(token));
    to.round_for(matrix, token);
  }

 private:
  const Work &work_;
  std::int64_t channels_;
  float *slots_;  // [row, 1 + time, channel]

  float *slot(std::int64_t token) const { return slots_ + (token + token / work_.span.time + 1) * channels_; }
};

}  // namespace
}  // namespace receptance::RECEPTANCE_LEVEL
