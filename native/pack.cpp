// Between weights in rows and weights in panels (packed.h); for int8 and int4 they are rounded. This file is compiled
// without contracting multiply-adds, so that every level rounds alike, and as the torch code of
// receptance/quantization/packed.py does.

#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

typedef std::int32_t Ints __attribute__((vector_size(4 * LANES)));

constexpr int PARTS = PANEL_ROWS / LANES;  // vectors a panel is wide
constexpr float LEAST_SCALE = 1e-30f;      // groups of smaller weights are zero, because 1 / scale must be finite

// A group of columns of a panel; what the matrix does not have is zero.
struct alignas(64) Tile {
  float at[GROUP_COLUMNS][PANEL_ROWS];
};

// As many of its rows as there are lanes.
struct Group {
  Vector column[GROUP_COLUMNS];
};

Vector size_of(Vector x) { return reinterpret<Vector>(reinterpret<Bits>(x) & 0x7fffffffu); }

bool is_finite(const Group &weights) {
  Bits sizes = {};
  for (const Vector &x : weights.column) {
    const Bits size = reinterpret<Bits>(size_of(x));  // ordered as the floats are, and NaN last
    sizes = size > sizes ? size : sizes;
  }
  return !any(sizes >= 0x7f800000u);
}

// The largest weight of each row, with its sign.
Vector largest_of(const Group &weights) {
  Vector largest = {};
  for (const Vector &x : weights.column) largest = size_of(x) > size_of(largest) ? x : largest;
  return largest;
}

// Integers from low to high that weights become, times a scale for each row.
struct Rounding {
  float low, high;
  Vector scale, inverse;
  Vector error;  // the sum of the squared errors

  // With the nearest scale that can be stored.
  Rounding(const Group &weights, Vector wanted, float low, float high) : low(low), high(high), error{} {
    scale = reinterpret<Vector>(nearest_halves(size_of(wanted) < LEAST_SCALE ? Vector{} : wanted) << 16);
    inverse = scale == 0.0f ? Vector{} : 1.0f / scale;
    for (const Vector &x : weights.column) {
      const Vector off = integer(x) * scale - x;
      error += off * off;
    }
  }
  Vector integer(Vector weight) const {
    constexpr float rounding = 0x1.8p+23f;  // adding it leaves the nearest integer in the low bits
    return smaller(larger(weight * inverse, all(low)), all(high)) + rounding - rounding;
  }
  void keep_better(const Rounding &other) {
    const auto is_better = other.error < error;
    scale = is_better ? other.scale : scale;
    inverse = is_better ? other.inverse : inverse;
    error = is_better ? other.error : error;
  }
};

Rounding rounding_to_int8(const Group &weights) {
  return Rounding(weights, size_of(largest_of(weights)) / 127.0f, -127.0f, 127.0f);
}

// A scale is the largest weight divided by one of several numbers, because -8 is an integer and 8 is not, or the best
// one for the integers found so. Of all these, the one with the least error.
Rounding rounding_to_int4(const Group &weights) {
  const auto by = [&](Vector scale) { return Rounding(weights, scale, -8.0f, 7.0f); };
  const Vector largest = largest_of(weights);
  Rounding best = by(largest / -8.0f);
  best.keep_better(by(largest / -8.7f));
  best.keep_better(by(largest / 7.4f));
  Vector products = {}, squares = {};
  for (const Vector &x : weights.column) {
    const Vector integer = best.integer(x);
    products += integer * x;
    squares += integer * integer;
  }
  best.keep_better(by(products / larger(squares, all(1.0f))));
  return best;
}

template <Format FORMAT>
constexpr std::int64_t group_bytes = panel_bytes(FORMAT, GROUP_COLUMNS);

// A group of a panel in each format: `put` it there, returning whether it can be, and `take` it from there. The last one
// may have fewer columns.
template <Format FORMAT>
struct Packed {  // int8 and int4
  static constexpr bool is_int8 = FORMAT == Format::int8;
  static constexpr int numbers_at = 2 * PANEL_ROWS, line_bytes = 4 * PANEL_ROWS;
  static constexpr int line_columns = is_int8 ? 4 : 8, lines = GROUP_COLUMNS / line_columns;

  static bool put(const Tile &tile, int, char *to) {
    bool finite = true;
    for (int part = 0; part < PARTS; ++part) {
      Group weights;
      for (int c = 0; c < GROUP_COLUMNS; ++c) weights.column[c] = load(tile.at[c] + part * LANES);
      finite = finite && is_finite(weights);
      const Rounding rounding = is_int8 ? rounding_to_int8(weights) : rounding_to_int4(weights);
      store(rounding.scale, reinterpret_cast<bfloat16 *>(to) + part * LANES);
      Ints four[lines] = {};  // bytes
      for (int c = 0; c < GROUP_COLUMNS; ++c) {
        const Ints number = __builtin_convertvector(rounding.integer(weights.column[c]), Ints);
        four[line_of(c)] |= (is_int8 ? number & 255 : number + 8) << low_bit_of(c);
      }
      for (int line = 0; line < lines; ++line)
        __builtin_memcpy(to + numbers_at + line * line_bytes + part * 4 * LANES, &four[line], sizeof *four);
    }
    return finite;
  }

  static void take(const char *from, int, Tile &tile) {
    for (int part = 0; part < PARTS; ++part) {
      const Vector scale = load(reinterpret_cast<const bfloat16 *>(from) + part * LANES);
      for (int c = 0; c < GROUP_COLUMNS; ++c) {
        Ints four;
        __builtin_memcpy(&four, from + numbers_at + line_of(c) * line_bytes + part * 4 * LANES, sizeof four);
        const Ints number = is_int8 ? four << (24 - low_bit_of(c)) >> 24 : (four >> low_bit_of(c) & 15) - 8;
        store(__builtin_convertvector(number, Vector) * scale, tile.at[c] + part * LANES);
      }
    }
  }

 private:
  static constexpr int line_of(int column) { return column % (4 * lines) / 4; }
  static constexpr int low_bit_of(int column) { return column % 4 * 8 + column / (4 * lines) * 4; }
};

template <>
struct Packed<Format::float32> {
  static bool put(const Tile &tile, int columns, char *to) {
    __builtin_memcpy(to, tile.at, columns * sizeof *tile.at);
    return true;
  }
  static void take(const char *from, int columns, Tile &tile) {
    __builtin_memcpy(tile.at, from, columns * sizeof *tile.at);
  }
};

template <>
struct Packed<Format::bfloat16> {
  static bool put(const Tile &tile, int columns, char *to) {
    for (int c = 0; c < columns; c += 2)
      for (int part = 0; part < PARTS; ++part, to += 4 * LANES) {
        const Bits low = nearest_halves(load(tile.at[c] + part * LANES));
        const Bits pair = low | nearest_halves(load(tile.at[c + 1] + part * LANES)) << 16;
        __builtin_memcpy(to, &pair, sizeof pair);
      }
    return true;
  }
  static void take(const char *from, int columns, Tile &tile) {
    for (int c = 0; c < columns; c += 2)
      for (int part = 0; part < PARTS; ++part, from += 4 * LANES) {
        Bits pair;
        __builtin_memcpy(&pair, from, sizeof pair);
        store(reinterpret<Vector>(pair << 16), tile.at[c] + part * LANES);
        store(reinterpret<Vector>(pair & 0xffff0000u), tile.at[c + 1] + part * LANES);
      }
  }
};

float widened(float x) { return x; }
float widened(bfloat16 x) { return reinterpret<float>(static_cast<std::uint32_t>(x.bits) << 16); }

template <class Element>
void read_rows(const Rows &from, std::int64_t row, std::int64_t column, int rows, int columns, Tile &tile) {
  const auto *first = static_cast<const Element *>(from.weights) + row * from.row_stride + column * from.column_stride;
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) tile.at[c][r] = widened(first[r * from.row_stride + c * from.column_stride]);
}

int at_most(int most, std::int64_t left) { return left < most ? static_cast<int>(left) : most; }

template <Format FORMAT>
bool pack_panels(const Rows &from, char *panels, std::int64_t begin, std::int64_t end) {
  bool finite = true;
  for (std::int64_t panel = begin; panel < end; ++panel) {
    char *to = panels + panel * panel_bytes(FORMAT, from.columns);
    const std::int64_t row = panel * PANEL_ROWS;
    const int rows = at_most(PANEL_ROWS, from.rows - row);
    for (std::int64_t column = 0; column < from.columns; column += GROUP_COLUMNS, to += group_bytes<FORMAT>) {
      const int columns = at_most(GROUP_COLUMNS, from.columns - column);
      Tile tile = {};
      if (from.type == Type::bfloat16)
        read_rows<bfloat16>(from, row, column, rows, columns, tile);
      else
        read_rows<float>(from, row, column, rows, columns, tile);
      finite = Packed<FORMAT>::put(tile, columns, to) && finite;
    }
  }
  return finite;
}

template <Format FORMAT>
void unpack_rows(const Matrix &from, float *weights, std::int64_t begin, std::int64_t end) {
  int rows;
  for (std::int64_t row = begin; row < end; row += rows, weights += rows * from.columns) {
    const char *at = static_cast<const char *>(from.panels) + row / PANEL_ROWS * panel_bytes(FORMAT, from.columns);
    const int lane = row % PANEL_ROWS;
    rows = at_most(PANEL_ROWS - lane, end - row);
    for (std::int64_t column = 0; column < from.columns; column += GROUP_COLUMNS, at += group_bytes<FORMAT>) {
      const int columns = at_most(GROUP_COLUMNS, from.columns - column);
      Tile tile;
      Packed<FORMAT>::take(at, columns, tile);
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < columns; ++c) weights[r * from.columns + column + c] = tile.at[c][lane + r];
    }
  }
}

}  // namespace

bool pack(const Rows &from, Format format, void *panels, std::int64_t begin, std::int64_t end) {
  auto *to = static_cast<char *>(panels);
  switch (format) {
    case Format::float32: return pack_panels<Format::float32>(from, to, begin, end);
    case Format::bfloat16: return pack_panels<Format::bfloat16>(from, to, begin, end);
    case Format::int8: return pack_panels<Format::int8>(from, to, begin, end);
    case Format::int4: return pack_panels<Format::int4>(from, to, begin, end);
  }
  return false;
}

void unpack(const Matrix &from, float *weights, std::int64_t begin, std::int64_t end) {
  switch (from.format) {
    case Format::float32: return unpack_rows<Format::float32>(from, weights, begin, end);
    case Format::bfloat16: return unpack_rows<Format::bfloat16>(from, weights, begin, end);
    case Format::int8: return unpack_rows<Format::int8>(from, weights, begin, end);
    case Format::int4: return unpack_rows<Format::int4>(from, weights, begin, end);
  }
}

}  // namespace receptance::RECEPTANCE_LEVEL
