// The memory of one head in RWKV-5, 6 and 7, a matrix of keys and values, as the kernels hold it. For kernel files
// only (see table.h).
//
// The values of a head do not know of each other: value i only meets itself, at every key. So values lie in the
// lanes, and behind the last key and value lie zeros, up to whole vectors.
//
// The memory is passed over twice for CHUNK tokens, not for each of them: it is read for all of them at once, what they
// bring to each other is settled by a few numbers a pair of tokens, and then it is changed by all of them at once.
// On the way, decays are multiplied and never divided.

#pragma once

#include "lanes.h"
#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {

constexpr int CHUNK = 4;  // tokens; those that are left over at the end come one by one

static_assert(MATRIX_BLOCK % CHUNK == 0, "a chunk lies in one block");
constexpr int CHUNKS = MATRIX_BLOCK / CHUNK + CHUNK - 2;  // the most that a block is cut into

static inline std::int64_t blocks_of(std::int64_t time) { return (time + MATRIX_BLOCK - 1) / MATRIX_BLOCK; }
static inline std::int64_t least(std::int64_t x, std::int64_t y) { return x < y ? x : y; }

// Room for vectors, handed out piece by piece; all of it ends together.
class Room {
 public:
  explicit Room(std::int64_t vectors) : memory_(__builtin_malloc((vectors + 1) * sizeof(Vector))) {
    if (!memory_) __builtin_abort();
    const auto address = reinterpret_cast<std::uintptr_t>(memory_);
    next_ = reinterpret_cast<Vector *>((address + sizeof(Vector) - 1) / sizeof(Vector) * sizeof(Vector));
  }
  ~Room() { __builtin_free(memory_); }
  Room(const Room &) = delete;
  Room &operator=(const Room &) = delete;

  Vector *take(std::int64_t vectors) {
    Vector *taken = next_;
    next_ += vectors;
    return taken;
  }

 private:
  void *memory_;
  Vector *next_;
};

// `count` numbers to and from vectors that lie `step` vectors apart.
template <class Element>
static inline void load_vectors(const Element *from, std::int64_t count, Vector *to, int step) {
  for (; count >= LANES; count -= LANES, from += LANES, to += step) *to = load(from);
  if (count > 0) *to = load_some(from, static_cast<int>(count), 0.0f);
}

template <class Element>
static inline void store_vectors(const Vector *from, int step, Element *to, std::int64_t count) {
  for (; count >= LANES; count -= LANES, to += LANES, from += step) store(*from, to);
  if (count > 0) store_some(*from, to, static_cast<int>(count));
}

// One head of one text: where its numbers lie. `block` counts vectors of keys, `column` vectors of values.
template <class Element>
class Head {
 public:
  const int blocks, columns;

  // Heads are counted over the whole batch.
  Head(const MatrixRecurrence &args, std::int64_t head)
      : blocks(vectors_of(args.key)),
        columns(vectors_of(args.value)),
        args_(args),
        head_(head),
        first_token_(head / args.head * args.time * args.head + head % args.head) {}

  int size() const { return blocks * LANES * columns; }  // of the memory, in vectors

  // The numbers that some tokens bring, as vectors of keys, interleaved, or as rows of values; and back.
  template <class Any>
  void load_keys(const Any *from, std::int64_t t, int steps, Vector *to) const {
    for (int step = 0; step < steps; ++step)
      load_vectors(from + token_at(t + step) * args_.key, args_.key, to + step, steps);
  }
  void load_narrow_keys(const void *from, std::int64_t t, int steps, Vector *to) const {
    load_keys(static_cast<const Element *>(from), t, steps, to);
  }
  void store_keys(const Vector *from, float *to, std::int64_t t, int steps) const {
    for (int step = 0; step < steps; ++step)
      store_vectors(from + step, steps, to + token_at(t + step) * args_.key, args_.key);
  }
  void load_values(const void *from, std::int64_t t, int steps, Vector *to) const {
    for (int step = 0; step < steps; ++step)
      load_vectors(static_cast<const Element *>(from) + token_at(t + step) * args_.value, args_.value,
                   to + step * columns, 1);
  }
  void store_values(const Vector *from, void *to, std::int64_t t, int steps) const {
    for (int step = 0; step < steps; ++step)
      store_vectors(from + step * columns, 1, static_cast<Element *>(to) + token_at(t + step) * args_.value,
                    args_.value);
  }
  void load_bonus(Vector *to) const {
    load_vectors(args_.u + head_ % args_.head * args_.key, args_.key, to, 1);
  }
  void store_grad_bonus(const Vector *from) const {
    store_vectors(from, 1, args_.grad_u + head_ * args_.key, args_.key);
  }

  // Bring what a token reads and writes near, some time before: the tokens of a head lie too far from each other for
  // the processor to guess where the next one is. Inlined, because GCC drops a call of which nothing comes back.
  __attribute__((always_inline)) void fetch(std::int64_t t) const {
    if (t >= args_.time) return;
    const std::int64_t key = token_at(t) * args_.key, value = token_at(t) * args_.value;
    const float *exact[] = {args_.w, args_.a, args_.b};
    for (const float *from : exact) fetch_one<false>(from, key, args_.key);
    fetch_one<false>(static_cast<const Element *>(args_.r), key, args_.key);
    fetch_one<false>(static_cast<const Element *>(args_.k), key, args_.key);
    fetch_one<false>(static_cast<const Element *>(args_.v), value, args_.value);
    fetch_one<false>(static_cast<const Element *>(args_.grad_y), value, args_.value);
    fetch_one<true>(static_cast<const Element *>(args_.y), value, args_.value);
  }

  // The state before the first or after the last token; null: zero.
  void load_state(const float *states, Vector *to) const {
    __builtin_memset(to, 0, size() * sizeof(Vector));
    if (!states) return;
    states += head_ * args_.key * args_.value;
    args_.value_first ? load_transposed(states, to) : load_rows(states, to);
  }
  void store_state(const Vector *from, float *states) const {
    states += head_ * args_.key * args_.value;
    args_.value_first ? store_transposed(from, states) : store_rows(from, states);
  }

  // The state before a block, kept on the way forward for the way back.
  void keep(const Vector *from, std::int64_t block) const { store_rows(from, args_.checkpoints + kept_at(block)); }
  void recall(std::int64_t block, Vector *to) const {
    __builtin_memset(to, 0, size() * sizeof(Vector));
    load_rows(args_.checkpoints + kept_at(block), to);
  }

 private:
  const MatrixRecurrence &args_;
  const std::int64_t head_, first_token_;

  std::int64_t token_at(std::int64_t t) const { return first_token_ + t * args_.head; }
  std::int64_t kept_at(std::int64_t block) const {
    return (head_ * blocks_of(args_.time) + block) * args_.key * args_.value;
  }

  template <bool TO_WRITE, class Any>
  __attribute__((always_inline)) static void fetch_one(const Any *from, std::int64_t first, std::int64_t count) {
    constexpr int line = 64 / sizeof(Any);
    for (std::int64_t i = 0; from && i < count; i += line) __builtin_prefetch(from + first + i, TO_WRITE);
  }

  Vector *row(Vector *memory, std::int64_t key) const {
    return memory + key / LANES * LANES * columns + key % LANES;
  }
  const Vector *row(const Vector *memory, std::int64_t key) const { return row(const_cast<Vector *>(memory), key); }

  void load_rows(const float *from, Vector *to) const {
    for (std::int64_t j = 0; j < args_.key; ++j) load_vectors(from + j * args_.value, args_.value, row(to, j), LANES);
  }
  void store_rows(const Vector *from, float *to) const {
    for (std::int64_t j = 0; j < args_.key; ++j)
      store_vectors(row(from, j), LANES, to + j * args_.value, args_.value);
  }
  void load_transposed(const float *from, Vector *to) const {
    for (int block = 0; block < blocks; ++block)
      for (int column = 0; column < columns; ++column, to += LANES) {
        const float *at = from + column * LANES * args_.key + block * LANES;
        for (int i = 0; i < least(args_.value - column * LANES, LANES); ++i)
          load_vectors(at + i * args_.key, least(args_.key - block * LANES, LANES), to + i, 1);
        transpose(to);
      }
  }
  void store_transposed(const Vector *from, float *to) const {
    for (int block = 0; block < blocks; ++block)
      for (int column = 0; column < columns; ++column, from += LANES) {
        float *at = to + column * LANES * args_.key + block * LANES;
        Vector x[LANES];
        for (int j = 0; j < LANES; ++j) x[j] = from[j];
        transpose(x);
        for (int i = 0; i < least(args_.value - column * LANES, LANES); ++i)
          store_vectors(x + i, 1, at + i * args_.key, least(args_.key - block * LANES, LANES));
      }
  }
};

}  // namespace receptance::RECEPTANCE_LEVEL
