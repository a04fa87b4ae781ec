// The memory of one head in RWKV-5, 6 and 7, a matrix of keys and values, as the kernels hold it. For kernel files
// only (see table.h).
//
// The values of a head do not know of each other: value i only meets itself, at every key. So a head is worked
// on in strips of neighbouring values, WIDTH of them, with all keys: rows of a few vectors that stay in the first cache.

#pragma once

#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {

constexpr int VECTORS = LANES == 16 ? 4 : 2;  // as many as the registers hold beside what a token brings
constexpr int WIDTH = VECTORS * LANES;

static inline std::int64_t blocks_of(std::int64_t time) { return (time + MATRIX_BLOCK - 1) / MATRIX_BLOCK; }

// A strip's values at one key, or of one token.
struct Row {
  Vector x[VECTORS];

  Vector &operator[](int n) { return x[n]; }
  const Vector &operator[](int n) const { return x[n]; }
};

// Memory that ends with its block, aligned to a vector.
class Scratch {
 public:
  explicit Scratch(std::int64_t rows) : memory_(__builtin_malloc((rows + 1) * sizeof(Row))) {
    if (!memory_) __builtin_abort();
  }
  ~Scratch() { __builtin_free(memory_); }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;

  Row *rows() const {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_);
    return reinterpret_cast<Row *>((address + sizeof(Vector) - 1) / sizeof(Vector) * sizeof(Vector));
  }

 private:
  void *memory_;
};

template <class Element>
static inline Row load_strip(const Element *from, int count) {
  Row row;
  for (int n = 0; n < VECTORS; ++n) {
    const int left = count - n * LANES;
    row[n] = left >= LANES ? load(from + n * LANES) : left > 0 ? load_some(from + n * LANES, left, 0.0f) : Vector{};
  }
  return row;
}

template <class Element>
static inline void store_strip(const Row &row, Element *to, int count) {
  for (int n = 0; n < VECTORS; ++n) {
    const int left = count - n * LANES;
    if (left >= LANES)
      store(row[n], to + n * LANES);
    else if (left > 0)
      store_some(row[n], to + n * LANES, left);
  }
}

// The state of one head in memory, with these strides, to and from a strip.
static inline void load_state(const float *from, std::int64_t key_stride, std::int64_t value_stride, int keys,
                              int count, Row *to) {
  for (int j = 0; j < keys; ++j) {
    float row[WIDTH] = {};
    for (int i = 0; i < count; ++i) row[i] = from[j * key_stride + i * value_stride];
    to[j] = load_strip(row, WIDTH);
  }
}

static inline void store_state(const Row *from, float *to, std::int64_t key_stride, std::int64_t value_stride,
                               int keys, int count) {
  for (int j = 0; j < keys; ++j) {
    float row[WIDTH];
    store_strip(from[j], row, WIDTH);
    for (int i = 0; i < count; ++i) to[j * key_stride + i * value_stride] = row[i];
  }
}

// What one token brings for each key, as float32; `w` is the decay e^w itself; a and b are RWKV-7's alone.
struct Keys {
  float *r, *k, *w, *a, *b;
};

static inline std::int64_t least(std::int64_t x, std::int64_t y) { return x < y ? x : y; }

// One strip of one head of one text: where its tokens lie, and room for what a token brings.
template <class Element>
class Strip {
 public:
  const int keys, count;  // of keys; of values that exist, at most WIDTH
  Keys token;             // of the time last read; zeros follow the last key

  // Heads are counted over the whole batch; `first` is the strip's first value.
  Strip(const MatrixRecurrence &args, std::int64_t head, std::int64_t first)
      : keys(static_cast<int>(args.key)),
        count(static_cast<int>(least(args.value - first, WIDTH))),
        args_(args),
        head_(head),
        first_(first),
        room_(5 * (args.key + LANES) / WIDTH + 1) {
    float *at = reinterpret_cast<float *>(room_.rows());
    const int padded = (keys + LANES - 1) / LANES * LANES;
    token = {at, at + padded, at + 2 * padded, at + 3 * padded, at + 4 * padded};
  }

  void read(std::int64_t t) {
    const std::int64_t at = key_at(t);
    for (int j = 0; j < keys; j += LANES) {
      const int left = keys - j < LANES ? keys - j : LANES;
      store(some(static_cast<const Element *>(args_.r) + at + j, left), token.r + j);
      store(some(static_cast<const Element *>(args_.k) + at + j, left), token.k + j);
      store(exponential(some(args_.w + at + j, left)), token.w + j);
      if (!args_.a) continue;
      store(some(args_.a + at + j, left), token.a + j);
      store(some(args_.b + at + j, left), token.b + j);
    }
  }
  Row value(const void *values, std::int64_t t) const {
    return load_strip(static_cast<const Element *>(values) + value_at(t), count);
  }
  void set(const Row &row, void *values, std::int64_t t) const {
    store_strip(row, static_cast<Element *>(values) + value_at(t), count);
  }
  std::int64_t key_at(std::int64_t t) const { return token_at(t) * args_.key; }
  const float *bonus() const { return args_.u + head_ % args_.head * args_.key; }
  float *grad_bonus() const { return args_.grad_u + head_ * args_.key; }

  // The state before the first or after the last token; null: zero.
  void load(const float *states, Row *to) const {
    if (!states) return static_cast<void>(__builtin_memset(to, 0, keys * sizeof(Row)));
    load_state(states + state_at(), key_stride(), value_stride(), keys, count, to);
  }
  void save(const Row *from, float *states) const {
    store_state(from, states + state_at(), key_stride(), value_stride(), keys, count);
  }

  // The state before a block, kept on the way forward for the way back.
  void keep(const Row *from, std::int64_t block) const {
    float *to = args_.checkpoints + checkpoint_at(block);
    for (int j = 0; j < keys; ++j) store_strip(from[j], to + j * args_.value, count);
  }
  void recall(std::int64_t block, Row *to) const {
    const float *from = args_.checkpoints + checkpoint_at(block);
    for (int j = 0; j < keys; ++j) to[j] = load_strip(from + j * args_.value, count);
  }

 private:
  const MatrixRecurrence &args_;
  std::int64_t head_, first_;
  Scratch room_;

  template <class Any>
  static Vector some(const Any *from, int count) {
    return count == LANES ? receptance::RECEPTANCE_LEVEL::load(from) : load_some(from, count, 0.0f);
  }
  std::int64_t token_at(std::int64_t t) const {
    return (head_ / args_.head * args_.time + t) * args_.head + head_ % args_.head;
  }
  std::int64_t value_at(std::int64_t t) const { return token_at(t) * args_.value + first_; }
  std::int64_t key_stride() const { return args_.value_first ? 1 : args_.value; }
  std::int64_t value_stride() const { return args_.value_first ? args_.key : 1; }
  std::int64_t checkpoint_at(std::int64_t block) const {
    return (head_ * blocks_of(args_.time) + block) * args_.key * args_.value + first_;
  }
  std::int64_t state_at() const { return head_ * args_.value * args_.key + first_ * value_stride(); }
};

// Add to `count` numbers in memory; each strip of a head adds its share of a sum over values.
static inline void add_some(Vector x, float *to, int count) {
  store_some(load_some(to, count, 0.0f) + x, to, count);
}

// One head of one text, strip by strip.
template <class Element, class Pass>
static inline void for_each_strip(const MatrixRecurrence &args, std::int64_t head, Pass pass) {
  for (std::int64_t first = 0; first < args.value; first += WIDTH) {
    Strip<Element> strip(args, head, first);
    pass(args, strip);
  }
}

template <int... lane>
struct Lanes {};

template <int count, int... lane>
struct LanesTo : LanesTo<count - 1, count - 1, lane...> {};

template <int... lane>
struct LanesTo<0, lane...> {
  using Type = Lanes<lane...>;
};

// Each vector holds sums in groups of 2 * group lanes; halve the groups, and put those of x before those of y.
template <int group, int... lane>
static inline Vector halve(Vector x, Vector y, Lanes<lane...>) {
  return __builtin_shufflevector(x, y, (lane / group * 2 * group + lane % group)...) +
         __builtin_shufflevector(x, y, (lane / group * 2 * group + lane % group + group)...);
}

template <int group>
static inline Vector sums_of_lanes(Vector *x) {
  for (int i = 0; i < 2 * group; i += 2) x[i / 2] = halve<group>(x[i], x[i + 1], typename LanesTo<LANES>::Type{});
  if constexpr (group == 1)
    return x[0];
  else
    return sums_of_lanes<group / 2>(x);
}

// The sums of LANES vectors over their lanes, as one vector; x is used up.
static inline Vector sums(Vector *x) { return sums_of_lanes<LANES / 2>(x); }

}  // namespace receptance::RECEPTANCE_LEVEL
