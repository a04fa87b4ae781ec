// The two passes over a text that WKV-6 and WKV-7 share, CHUNK tokens at a time. For kernel files only (see table.h).
//
// A kernel is a type with the four parts below, which settle what the STEPS tokens of a chunk bring to each other; all
// that is done with the memory is done here:
//
//   prepare           from the keys of the tokens: by which vectors the memory before the chunk is read, by which it is
//                     changed, how it decays over the chunk, and `pairs`, what each token finds of each earlier one
//   settle            from `found`, what the memory gave: the values that change the memory, and y in place of found
//   settle_gradients  back through settle; the gradients of `pairs` are still to be summed over lanes
//   spread_gradients  back through prepare
//
// A token reads by KINDS vectors of keys, and changes the memory by as many pairs of keys and values. Vectors of one
// kind stay together: kind * STEPS + step. The first INNER kinds are read for the sake of what changes the memory.

#pragma once

#include "matrix_products.h"
#include "matrix_state.h"

namespace receptance::RECEPTANCE_LEVEL {

// What is known of a chunk, or the gradients of that. Vectors of keys are interleaved and those of values are rows, as
// in matrix_products.h.
struct Chunk {
  int steps = 0, blocks, columns;
  Vector *r, *k, *w, *a, *b;  // keys of each step; w is the decay e^w itself
  Vector *bonus;              // keys; WKV-6 alone, one for all chunks
  Vector *reads, *writes;     // KINDS * steps vectors of keys
  Vector *decay;              // one vector of keys
  Vector *pairs;              // KINDS * steps * steps numbers
  Vector *values;             // KINDS * steps vectors of values, v first
  Memory before;              // the memory before the chunk

  static std::int64_t size(int kinds, int blocks, int columns) {
    return ((5 + 2 * kinds) * CHUNK + 1) * blocks + vectors_of(kinds * CHUNK * CHUNK) + kinds * CHUNK * columns;
  }
  void place(Room &room, int kinds, int blocks_, int columns_) {
    blocks = blocks_;
    columns = columns_;
    Vector **keys[] = {&r, &k, &w, &a, &b};
    for (Vector **each : keys) *each = room.take(CHUNK * blocks);
    reads = room.take(kinds * CHUNK * blocks);
    writes = room.take(kinds * CHUNK * blocks);
    decay = room.take(blocks);
    pairs = room.take(vectors_of(kinds * CHUNK * CHUNK));
    values = room.take(kinds * CHUNK * columns);
  }
  float pair(int i) const { return pairs[i / LANES][i % LANES]; }
};

struct Gradients {
  Chunk of;
  Vector *found;  // KINDS * steps vectors of values
};

// One head of one text, on its way forward or back.
template <class Kernel, class Element>
class Passes {
 public:
  Passes(const MatrixRecurrence &args, std::int64_t index) : args_(args), head_(args, index) {}

  void forward() const {
    Room room(head_.size() + values_size() + chunk_size() + head_.blocks);
    const Memory memory = memory_in(room);
    Vector *found = room.take(values_size()), *bonus = bonus_in(room);
    Chunk chunk = chunk_in(room, bonus);
    head_.load_state(args_.state, memory.tiles);
    for (std::int64_t t = 0; t < args_.time; t += chunk.steps) {
      if (args_.checkpoints && t % MATRIX_BLOCK == 0) head_.keep(memory.tiles, t / MATRIX_BLOCK);
      if (t + CHUNK <= args_.time)
        advance<CHUNK, true>(memory, memory, t, chunk, found);
      else
        advance<1, true>(memory, memory, t, chunk, found);
    }
    head_.store_state(memory.tiles, args_.state_end);
  }

  // Block by block from the end: the states before its chunks are found again from the one kept at its start.
  void backward() const {
    Room room((CHUNKS + 2) * (head_.size() + chunk_size()) + values_size() + 2 * head_.blocks);
    const Memory gradient = memory_in(room);
    Vector *bonus = bonus_in(room);
    Chunk chunks[CHUNKS + 1];  // the last only for what is after the others
    for (Chunk &chunk : chunks) {
      chunk = chunk_in(room, bonus);
      chunk.before = memory_in(room);
    }
    Gradients gradients{chunk_in(room, room.take(head_.blocks)), room.take(values_size())};
    for (int block = 0; block < head_.blocks; ++block) gradients.of.bonus[block] = Vector{};
    head_.load_state(args_.grad_state_end, gradient.tiles);
    for (std::int64_t block = blocks_of(args_.time) - 1; block >= 0; --block) {
      const std::int64_t begin = block * MATRIX_BLOCK, end = least(args_.time, begin + MATRIX_BLOCK);
      int count = 0;
      head_.recall(block, chunks[0].before.tiles);
      for (std::int64_t t = begin; t < end; t += chunks[count++].steps) {
        const Memory before = chunks[count].before, after = chunks[count + 1].before;
        if (t + CHUNK <= end)
          advance<CHUNK, false>(before, after, t, chunks[count], gradients.found);
        else
          advance<1, false>(before, after, t, chunks[count], gradients.found);
      }
      for (std::int64_t t = end; count--;) {
        t -= chunks[count].steps;
        if (chunks[count].steps == CHUNK)
          retreat<CHUNK>(gradient, t, chunks[count], gradients);
        else
          retreat<1>(gradient, t, chunks[count], gradients);
      }
    }
    head_.store_state(gradient.tiles, args_.grad_state);
    if (args_.grad_u) head_.store_grad_bonus(gradients.of.bonus);
  }

 private:
  const MatrixRecurrence &args_;
  const Head<Element> head_;

  int values_size() const { return Kernel::KINDS * CHUNK * head_.columns; }
  std::int64_t chunk_size() const { return Chunk::size(Kernel::KINDS, head_.blocks, head_.columns); }
  Memory memory_in(Room &room) const { return {room.take(head_.size()), head_.blocks, head_.columns}; }
  Vector *bonus_in(Room &room) const {
    Vector *bonus = room.take(head_.blocks);
    if (args_.u) head_.load_bonus(bonus);
    return bonus;
  }
  Chunk chunk_in(Room &room, Vector *bonus) const {
    Chunk chunk;
    chunk.place(room, Kernel::KINDS, head_.blocks, head_.columns);
    chunk.bonus = bonus;
    return chunk;
  }

  template <int STEPS>
  void load(std::int64_t t, Chunk &chunk) const {
    chunk.steps = STEPS;
    head_.load_narrow_keys(args_.r, t, STEPS, chunk.r);
    head_.load_narrow_keys(args_.k, t, STEPS, chunk.k);
    head_.load_keys(args_.w, t, STEPS, chunk.w);
    for (int i = 0; i < STEPS * chunk.blocks; ++i) chunk.w[i] = exponential(chunk.w[i]);
    head_.load_values(args_.v, t, STEPS, chunk.values);
    if (!args_.a) return;
    head_.load_keys(args_.a, t, STEPS, chunk.a);
    head_.load_keys(args_.b, t, STEPS, chunk.b);
  }

  // One chunk. `memory` and `after` may be the same.
  template <int STEPS, bool WANTS_Y>
  void advance(Memory memory, Memory after, std::int64_t t, Chunk &chunk, Vector *found) const {
    constexpr int COUNT = Kernel::KINDS * STEPS, NEEDED = WANTS_Y ? COUNT : Kernel::INNER * STEPS;
    load<STEPS>(t, chunk);
    Kernel::template prepare<STEPS>(chunk);
    head_.fetch(t + CHUNK);  // here and there, since the processor waits for only so many at a time
    if constexpr (NEEDED > 0) sum_keys<NEEDED>(memory, chunk.reads, COUNT, found);
    head_.fetch(t + CHUNK + 1);
    Kernel::template settle<STEPS, WANTS_Y>(chunk, found);
    if (WANTS_Y) head_.store_values(found, args_.y, t, STEPS);
    head_.fetch(t + CHUNK + 2);
    change<COUNT>(memory, after, chunk.decay, chunk.writes, chunk.values);
    head_.fetch(t + CHUNK + 3);
  }

  // One chunk going back. `memory` is the gradient of the state after the chunk, then of the one before.
  template <int STEPS>
  void retreat(Memory memory, std::int64_t t, const Chunk &chunk, Gradients &gradients) const {
    constexpr int COUNT = Kernel::KINDS * STEPS;
    Chunk &of = gradients.of;
    sum_keys<COUNT>(memory, chunk.writes, COUNT, of.values);
    sum_values<COUNT>(memory, chunk.values, of.writes);
    sum_products(memory, chunk.before, of.decay);
    Vector pairs[vectors_of(COUNT * STEPS) * LANES] = {};
    head_.load_values(args_.grad_y, t, STEPS, gradients.found + (COUNT - STEPS) * chunk.columns);
    Kernel::template settle_gradients<STEPS>(chunk, gradients, pairs);
    head_.store_values(of.values, args_.grad_v, t, STEPS);
    sum_lanes<COUNT * STEPS>(pairs, of.pairs);
    sum_values<COUNT>(chunk.before, gradients.found, of.reads);
    change<COUNT>(memory, memory, chunk.decay, chunk.reads, gradients.found);
    Kernel::template spread_gradients<STEPS>(chunk, gradients);
    head_.store_keys(of.r, args_.grad_r, t, STEPS);
    head_.store_keys(of.k, args_.grad_k, t, STEPS);
    head_.store_keys(of.w, args_.grad_w, t, STEPS);
    if (!args_.a) return;
    head_.store_keys(of.a, args_.grad_a, t, STEPS);
    head_.store_keys(of.b, args_.grad_b, t, STEPS);
  }
};

template <class Kernel>
void run(const MatrixRecurrence &args, std::int64_t head) {
  const auto pass = [&](const auto &passes) { args.is_backward ? passes.backward() : passes.forward(); };
  if (args.type == Type::bfloat16)
    pass(Passes<Kernel, bfloat16>(args, head));
  else
    pass(Passes<Kernel, float>(args, head));
}

}  // namespace receptance::RECEPTANCE_LEVEL
