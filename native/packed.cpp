// y = W x for weights in panels (packed.h), one tile of a few tokens and a few panels at a time.
//
// The sums of a tile stay in registers while the columns go by. A panel is read from memory once: the tiles of further
// tokens find it in the cache.

#include "packed.h"

#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

constexpr int PARTS = PANEL_ROWS / LANES;  // vectors a panel is wide

typedef std::int32_t Ints __attribute__((vector_size(4 * LANES)));

// What a tile works on: `panels` is its first panel's place, `token` its first token.
struct Place {
  const Matrix &matrix;
  const Inputs &inputs;
  float *y;  // of the tile's first token and row
  std::int64_t y_stride, token, panel;

  const char *panel_at(int p) const {
    return static_cast<const char *>(matrix.panels) + (panel + p) * panel_bytes(matrix.format, matrix.columns);
  }
  int rows_of(int p) const {
    const std::int64_t left = matrix.rows - (panel + p) * PANEL_ROWS;
    return left < PANEL_ROWS ? static_cast<int>(left) : PANEL_ROWS;
  }
};

// The sums of one tile.
template <int TOKENS, int PANELS>
struct Sums {
  Vector x[TOKENS][PANELS][PARTS] = {};

  void store(const Place &place) const {
    for (int t = 0; t < TOKENS; ++t)
      for (int p = 0; p < PANELS; ++p)
        for (int i = 0; i < PARTS; ++i) {
          float *to = place.y + t * place.y_stride + p * PANEL_ROWS + i * LANES;
          const int left = place.rows_of(p) - i * LANES;
          if (left >= LANES)
            receptance::RECEPTANCE_LEVEL::store(x[t][p][i], to);
          else if (left > 0)
            store_some(x[t][p][i], to, left);
        }
  }
};

template <int TOKENS, int PANELS>
void tile_float32(const Place &place) {
  Sums<TOKENS, PANELS> sums;
  const std::int64_t columns = place.matrix.columns;
  const float *x = place.inputs.x + place.token * columns;
  const float *panel[PANELS];
  for (int p = 0; p < PANELS; ++p) panel[p] = reinterpret_cast<const float *>(place.panel_at(p));
  for (std::int64_t c = 0; c < columns; ++c)
    for (int p = 0; p < PANELS; ++p)
      for (int i = 0; i < PARTS; ++i) {
        const Vector w = load(panel[p] + c * PANEL_ROWS + i * LANES);
        for (int t = 0; t < TOKENS; ++t) sums.x[t][p][i] += w * x[t * columns + c];
      }
  sums.store(place);
}

template <int TOKENS, int PANELS>
void tile_bfloat16(const Place &place) {
  Sums<TOKENS, PANELS> sums;
  const std::int64_t columns = place.matrix.columns;
  const float *x = place.inputs.x + place.token * columns;
  const std::uint32_t *panel[PANELS];
  for (int p = 0; p < PANELS; ++p) panel[p] = reinterpret_cast<const std::uint32_t *>(place.panel_at(p));
  for (std::int64_t c = 0; c < columns; c += 2)
    for (int p = 0; p < PANELS; ++p)
      for (int i = 0; i < PARTS; ++i) {
        Bits w;
        __builtin_memcpy(&w, panel[p] + c / 2 * PANEL_ROWS + i * LANES, sizeof w);
        const Vector even = reinterpret<Vector>(w << 16), odd = reinterpret<Vector>(w & 0xffff0000u);
        for (int t = 0; t < TOKENS; ++t) sums.x[t][p][i] += even * x[t * columns + c];
        if (c + 1 < columns)
          for (int t = 0; t < TOKENS; ++t) sums.x[t][p][i] += odd * x[t * columns + c + 1];
      }
  sums.store(place);
}

// Each number of a group, as the integer that it is.
inline int weight_at(Format format, const std::int8_t *group, int row, int column) {
  if (format == Format::int8) return group[column / 4 * 64 + row * 4 + column % 4];
  const int byte = static_cast<std::uint8_t>(group[column % 16 / 4 * 64 + row * 4 + column % 4]);
  return (column < 16 ? byte & 15 : byte >> 4) - 8;
}

template <Format FORMAT, int TOKENS, int PANELS>
void tile_integers(const Place &place) {
  Sums<TOKENS, PANELS> sums;
  const std::int64_t groups = groups_of(place.matrix.columns);
  const std::int64_t group_bytes = panel_bytes(FORMAT, GROUP_COLUMNS);
  for (int p = 0; p < PANELS; ++p)
    for (std::int64_t g = 0; g < groups; ++g) {
      const char *group = place.panel_at(p) + g * group_bytes;
      const auto *scales = reinterpret_cast<const bfloat16 *>(group);
      const auto *weights = reinterpret_cast<const std::int8_t *>(group + 2 * PANEL_ROWS);
      for (int t = 0; t < TOKENS; ++t) {
        const std::int64_t at = (place.token + t) * groups + g;
        const std::int8_t *x = place.inputs.rounded + at * GROUP_COLUMNS;
        for (int i = 0; i < PARTS; ++i) {
          Ints sum = {};
          for (int row = 0; row < LANES; ++row)
            for (int c = 0; c < GROUP_COLUMNS; ++c) sum[row] += weight_at(FORMAT, weights, row + i * LANES, c) * x[c];
          const Vector scale = load(scales + i * LANES) * place.inputs.scales[at];
          sums.x[t][p][i] += scale * __builtin_convertvector(sum, Vector);
        }
      }
    }
  sums.store(place);
}

using Tile = void (*)(const Place &);

template <int TOKENS, int PANELS>
Tile tile_of(Format format) {
  switch (format) {
    case Format::float32: return tile_float32<TOKENS, PANELS>;
    case Format::bfloat16: return tile_bfloat16<TOKENS, PANELS>;
    case Format::int8: return tile_integers<Format::int8, TOKENS, PANELS>;
    case Format::int4: return tile_integers<Format::int4, TOKENS, PANELS>;
  }
  return nullptr;
}

// One group of one token, rounded to the nearest of -127 to 127 times a scale. What is not finite makes the scale, and
// with it the product, not a number.
void round_group(const float *x, int count, std::int8_t *rounded, float &scale, std::int32_t &sum) {
  constexpr float rounding = 0x1.8p+23f;  // adding it leaves the nearest integer in the low bits
  float padded[GROUP_COLUMNS] = {}, largest = 0.0f, poison = 0.0f;
  for (int c = 0; c < count; ++c) padded[c] = x[c];
  for (float v : padded) {
    const float size = __builtin_fabsf(v);
    largest = size > largest ? size : largest;
    poison += v * 0.0f;
  }
  const float inverse = largest > 1e-30f && poison == 0.0f ? 127.0f / largest : 0.0f;
  scale = largest * (1.0f / 127.0f) + poison;
  sum = 0;
  for (int c = 0; c < GROUP_COLUMNS; ++c) {
    const int nearest = reinterpret<std::int32_t>((poison == 0.0f ? padded[c] * inverse : 0.0f) + rounding) - 0x4b400000;
    rounded[c] = static_cast<std::int8_t>(nearest);
    sum += nearest;
  }
}

}  // namespace

void prepare(Format format, const Inputs &inputs, std::int64_t begin, std::int64_t end) {
  if (format == Format::float32 || format == Format::bfloat16) return;
  const std::int64_t groups = groups_of(inputs.columns);
  for (std::int64_t token = begin; token < end; ++token)
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t at = token * groups + g, left = inputs.columns - g * GROUP_COLUMNS;
      round_group(inputs.x + token * inputs.columns + g * GROUP_COLUMNS,
                  left < GROUP_COLUMNS ? static_cast<int>(left) : GROUP_COLUMNS, inputs.rounded + at * GROUP_COLUMNS,
                  inputs.scales[at], inputs.sums[at]);
    }
}

void multiply(const Matrix &matrix, const Inputs &inputs, float *y, std::int64_t y_stride, std::int64_t begin,
              std::int64_t end) {
  for (std::int64_t panel = begin; panel < end; ++panel)
    for (std::int64_t token = 0; token < inputs.tokens;) {
      const int tokens = inputs.tokens - token >= 4 ? 4 : 1;
      const Tile tile = tokens == 4 ? tile_of<4, 1>(matrix.format) : tile_of<1, 1>(matrix.format);
      tile({matrix, inputs, y + token * y_stride + panel * PANEL_ROWS, y_stride, token, panel});
      token += tokens;
    }
}

}  // namespace receptance::RECEPTANCE_LEVEL
