// The products of a head's memory with a few vectors, in which the kernels of RWKV-5, 6 and 7 spend their time. For
// kernel files only (see table.h).
//
// A memory is cut into tiles: for each block of LANES keys, for each column of LANES values, one vector of values for
// each key. Vectors of values are rows of `columns` vectors. Vectors of keys are interleaved: for each block of keys
// one vector of each, `stride` in all.

#pragma once

#include "lanes.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {

constexpr int SUMS = LANES == 16 ? 16 : 8;  // as many as the registers hold beside what they are made of

template <int COUNT>
constexpr int WIDE = COUNT >= SUMS ? 1 : COUNT * 4 <= SUMS ? 4 : SUMS / COUNT;  // columns at the same time

struct Memory {
  Vector *tiles;
  int blocks, columns;

  Vector *tile(int block, int column) const { return tiles + (block * columns + column) * LANES; }
};

template <int COUNT, int WIDTH>
static inline void sum_keys_of(Memory memory, int column, const Vector *keys, int stride, Vector *to) {
  Vector sum[COUNT][WIDTH];
  for (int i = 0; i < COUNT; ++i)
    for (int n = 0; n < WIDTH; ++n) sum[i][n] = Vector{};
  for (int block = 0; block < memory.blocks; ++block, keys += stride) {
    const Vector *tile = memory.tile(block, column);
    for (int lane = 0; lane < LANES; ++lane)
      for (int i = 0; i < COUNT; ++i)
        for (int n = 0; n < WIDTH; ++n) sum[i][n] += tile[n * LANES + lane] * keys[i][lane];
  }
  for (int i = 0; i < COUNT; ++i)
    for (int n = 0; n < WIDTH; ++n) to[i * memory.columns + column + n] = sum[i][n];
}

// The memory as seen by COUNT vectors of keys: sums over the keys.
template <int COUNT>
static inline void sum_keys(Memory memory, const Vector *keys, int stride, Vector *to) {
  int column = 0;
  for (; column + WIDE<COUNT> <= memory.columns; column += WIDE<COUNT>)
    sum_keys_of<COUNT, WIDE<COUNT>>(memory, column, keys, stride, to);
  for (; column < memory.columns; ++column) sum_keys_of<COUNT, 1>(memory, column, keys, stride, to);
}

template <int COUNT, int WIDTH>
static inline void change_of(Memory memory, Memory to, int column, const Vector *decay, const Vector *keys,
                             const Vector *values) {
  Vector value[COUNT][WIDTH];
  for (int i = 0; i < COUNT; ++i)
    for (int n = 0; n < WIDTH; ++n) value[i][n] = values[i * memory.columns + column + n];
  for (int block = 0; block < memory.blocks; ++block, keys += COUNT) {
    const Vector *from_tile = memory.tile(block, column);
    Vector *to_tile = to.tile(block, column);
    for (int lane = 0; lane < LANES; ++lane) {
      // Two sums, so that none waits long for its last part.
      Vector kept[WIDTH], added[WIDTH];
      for (int n = 0; n < WIDTH; ++n) {
        kept[n] = from_tile[n * LANES + lane] * decay[block][lane];
        added[n] = value[0][n] * keys[0][lane];
      }
      for (int i = 1; i < COUNT; ++i)
        for (int n = 0; n < WIDTH; ++n) (i % 2 ? kept : added)[n] += value[i][n] * keys[i][lane];
      for (int n = 0; n < WIDTH; ++n) to_tile[n * LANES + lane] = kept[n] + added[n];
    }
  }
}

// Let the memory decay, and add COUNT products of a vector of keys and one of values; `to` may be the same memory.
template <int COUNT>
static inline void change(Memory memory, Memory to, const Vector *decay, const Vector *keys, const Vector *values) {
  int column = 0;
  for (; column + WIDE<COUNT> <= memory.columns; column += WIDE<COUNT>)
    change_of<COUNT, WIDE<COUNT>>(memory, to, column, decay, keys, values);
  for (; column < memory.columns; ++column) change_of<COUNT, 1>(memory, to, column, decay, keys, values);
}

// The memory as seen by COUNT vectors of values: sums over the values, as interleaved vectors of keys.
template <int COUNT>
static inline void sum_values(Memory memory, const Vector *values, Vector *to) {
  for (int block = 0; block < memory.blocks; ++block)
    for (int i = 0; i < COUNT; ++i) {
      Vector sum[LANES];
      for (int lane = 0; lane < LANES; ++lane) sum[lane] = Vector{};
      for (int n = 0; n < memory.columns; ++n)
        for (int lane = 0; lane < LANES; ++lane)
          sum[lane] += values[i * memory.columns + n] * memory.tile(block, n)[lane];
      to[block * COUNT + i] = sums(sum);
    }
}

// The sums over the values of two memories multiplied with each other, as one vector of keys.
static inline void sum_products(Memory memory, Memory other, Vector *to) {
  for (int block = 0; block < memory.blocks; ++block) {
    Vector sum[LANES];
    for (int lane = 0; lane < LANES; ++lane) sum[lane] = Vector{};
    for (int n = 0; n < memory.columns; ++n)
      for (int lane = 0; lane < LANES; ++lane)
        sum[lane] += memory.tile(block, n)[lane] * other.tile(block, n)[lane];
    to[block] = sums(sum);
  }
}

// The sums of COUNT vectors over their lanes; x is used up, and both have room for whole groups of LANES.
template <int COUNT>
static inline void sum_lanes(Vector *x, Vector *to) {
  for (int i = 0; i < vectors_of(COUNT); ++i) to[i] = sums(x + i * LANES);
}

}  // namespace receptance::RECEPTANCE_LEVEL
