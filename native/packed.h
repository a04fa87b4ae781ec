// Matrices of weights as decoding reads them: each number once, in order, at the speed of memory.
//
// Sixteen rows are interleaved to a panel, so that each SIMD lane is a row: nothing is summed across lanes, and a token
// is broadcast. The same packed copy serves one token, a batch and a long prompt. A panel holds, per column or group:
//
//   float32   [column][16] float
//   bfloat16  [column / 2][16][2], the number of columns being rounded up to even
//   int8      [column / 32] of { scale [16] bfloat16, [8][16][4] int8 }: 32 columns share a scale, four lie together
//   int4      [column / 32] of { scale [16] bfloat16, [4][16][4] bytes }: a byte holds column c of the first half of
//             the group in its low four bits and column c + 16 in its high four, both as value + 8
//
// Missing rows and columns are zero; int8 numbers are -127 to 127. In Python: receptance/quantization/packed.py.

#pragma once

#include <cstdint>

namespace receptance {

enum class Type : int { float32 = 0, bfloat16 = 1 };

constexpr int PANEL_ROWS = 16;
constexpr int GROUP_COLUMNS = 32;

enum class Format : int { float32 = 0, bfloat16 = 1, int8 = 2, int4 = 3 };

struct Matrix {
  Format format;
  const void *panels;  // 64-byte aligned
  std::int64_t rows, columns;
};

// Weights as models have them, still to be packed.
struct Rows {
  Type type;
  const void *weights;
  std::int64_t rows, columns, row_stride, column_stride;  // strides in elements
};

// Several tokens' inputs of matrices, prepared once for a format and read by every matrix in it. The caller owns all
// arrays, and may leave out (null) those of formats that it does not use. int8 and int4 weights always multiply inputs
// rounded to int8, with a scale for every 32 columns; bfloat16 weights multiply float32, or, several tokens at once on
// processors that have instructions for it, inputs rounded to bfloat16. Where it must be `exact`, the products of each
// token are to the bit those of the token alone, in every format.
struct Inputs {
  std::int64_t tokens, columns;
  const float *x;        // [token, column]
  std::uint16_t *halves; // for bfloat16: [token, column rounded up to 32] bfloat16
  std::int8_t *rounded;  // for int8 and int4: [token, column rounded up to 32]
  float *scales;         // for int8 and int4: [token, group]
  std::int32_t *sums;    // for int8 and int4: [token, group], minus the sums of the rounded
  bool exact = false;
};

static constexpr std::int64_t groups_of(std::int64_t columns) { return (columns + GROUP_COLUMNS - 1) / GROUP_COLUMNS; }

static constexpr std::int64_t padded(std::int64_t columns) { return groups_of(columns) * GROUP_COLUMNS; }

static constexpr std::int64_t panels_of(std::int64_t rows) { return (rows + PANEL_ROWS - 1) / PANEL_ROWS; }

static constexpr std::int64_t panel_bytes(Format format, std::int64_t columns) {
  switch (format) {
    case Format::float32: return columns * PANEL_ROWS * 4;
    case Format::bfloat16: return (columns + 1) / 2 * PANEL_ROWS * 4;
    case Format::int8: return groups_of(columns) * PANEL_ROWS * (2 + GROUP_COLUMNS);
    case Format::int4: return groups_of(columns) * PANEL_ROWS * (2 + GROUP_COLUMNS / 2);
  }
  return 0;
}

}  // namespace receptance
