// y = W x for weights in panels (packed.h), one tile of a few tokens and a few panels at a time.
//
// The sums of a tile stay in registers while the columns go by. A panel is read from memory once: the tiles of further
// tokens find it in the cache.

#include "packed.h"

#include "integers.h"
#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

constexpr int PARTS = PANEL_ROWS / LANES;  // vectors a panel is wide

// What a tile works on: its first token, and its first panel with the distance to the next: a tile reads panels far from
// each other, so that every one goes on where the one before ended, and the processor fetches ahead.
struct Place {
  const Matrix &matrix;
  const Inputs &inputs;
  float *y;  // of the tile's first token and row
  std::int64_t y_stride, token, panel, distance;

  const char *panel_at(int p) const {
    return static_cast<const char *>(matrix.panels) + (panel + p * distance) * panel_bytes(matrix.format, matrix.columns);
  }
  int rows_of(int p) const {
    const std::int64_t left = matrix.rows - (panel + p * distance) * PANEL_ROWS;
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
          float *to = place.y + t * place.y_stride + p * place.distance * PANEL_ROWS + i * LANES;
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
    for (int p = 0; p < PANELS; ++p) {
      for (int i = 0; i < PARTS; ++i) {
        const Vector w = load(panel[p] + c * PANEL_ROWS + i * LANES);
        for (int t = 0; t < TOKENS; ++t) sums.x[t][p][i] += w * x[t * columns + c];
      }
    }
  sums.store(place);
}

// Weights as they are, inputs as they are.
template <int TOKENS, int PANELS>
void tile_bfloat16(const Place &place) {
  Sums<TOKENS, PANELS> sums;
  const std::int64_t columns = place.matrix.columns;
  const float *x = place.inputs.x + place.token * columns;
  const char *panel[PANELS];
  for (int p = 0; p < PANELS; ++p) panel[p] = place.panel_at(p);
  const auto pair = [&](std::int64_t c, bool whole) {
    for (int p = 0; p < PANELS; ++p) {
      const char *line = panel[p] + c / 2 * 64;
      for (int i = 0; i < PARTS; ++i) {
        const Bits w = reinterpret<Bits>(load_ints(line + i * 4 * LANES));
        const Vector even = reinterpret<Vector>(w << 16), odd = reinterpret<Vector>(w & 0xffff0000u);
        for (int t = 0; t < TOKENS; ++t) sums.x[t][p][i] += even * x[t * columns + c];
        if (!whole) continue;
        for (int t = 0; t < TOKENS; ++t) sums.x[t][p][i] += odd * x[t * columns + c + 1];
      }
    }
  };
  const std::int64_t whole = columns / 2 * 2;
  for (std::int64_t c = 0; c < whole; c += 2) pair(c, true);
  if (whole < columns) pair(whole, false);
  sums.store(place);
}

// The integers of a group times those of the inputs are summed exactly; the scales follow.
template <Format FORMAT, int TOKENS, int PANELS>
void tile_integers(const Place &place) {
  constexpr bool is_int8 = FORMAT == Format::int8;
  constexpr int lines = is_int8 ? 8 : 4, group_bytes = 2 * PANEL_ROWS + 64 * lines;
  constexpr int offset = is_int8 ? WEIGHT_OFFSET : 8;
  Sums<TOKENS, PANELS> sums;
  const std::int64_t groups = groups_of(place.matrix.columns), first = place.token * groups;
  const std::int8_t *rounded = place.inputs.rounded + first * GROUP_COLUMNS;
  const float *scales = place.inputs.scales + first;
  const std::int32_t *less = place.inputs.sums + first;
  const char *panel[PANELS];
  for (int p = 0; p < PANELS; ++p) panel[p] = place.panel_at(p);
  for (std::int64_t g = 0; g < groups; ++g)
    for (int p = 0; p < PANELS; ++p) {
      const char *group = panel[p] + g * group_bytes;
      for (int i = 0; i < PARTS; ++i) {
        Ints sum[TOKENS];
        for (int t = 0; t < TOKENS; ++t) sum[t] = all_ints(less + t * groups + g) * offset;
        for (int line = 0; line < lines; ++line) {
          const Ints w = load_ints(group + 2 * PANEL_ROWS + line * 64 + i * 4 * LANES);
          for (int t = 0; t < TOKENS; ++t) {
            const std::int8_t *x = rounded + (t * groups + g) * GROUP_COLUMNS + 4 * line;
            if (is_int8) {
              sum[t] = dot<true>(sum[t], w, all_ints(x));
            } else {
              sum[t] = dot<false>(sum[t], w & 0x0f0f0f0f, all_ints(x));
              sum[t] = dot<false>(sum[t], w >> 4 & 0x0f0f0f0f, all_ints(x + GROUP_COLUMNS / 2));
            }
          }
        }
        const Vector scale = load(reinterpret_cast<const bfloat16 *>(group) + i * LANES);
        for (int t = 0; t < TOKENS; ++t)
          sums.x[t][p][i] += scale * scales[t * groups + g] * __builtin_convertvector(sum[t], Vector);
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

// The sums of a tile fill most registers; the largest tiles have so many tokens.
constexpr int REGISTERS = LANES == 16 ? 24 : LANES == 8 ? 10 : 8;
constexpr int MOST_TOKENS = LANES == 16 ? 8 : LANES == 8 ? 4 : 2;

// These panels, and the following tokens, at most MOST of them at a time.
template <int PANELS, int MOST = MOST_TOKENS>
void multiply_panels(Place place) {
  if constexpr (MOST > 1 && MOST * PANELS * PARTS > REGISTERS) return multiply_panels<PANELS, MOST / 2>(place);
  const Tile tile = tile_of<MOST, PANELS>(place.matrix.format);
  for (; place.inputs.tokens - place.token >= MOST; place.token += MOST, place.y += MOST * place.y_stride) tile(place);
  if constexpr (MOST > 1) multiply_panels<PANELS, MOST / 2>(place);
}

// One group of one token, rounded to the nearest of -127 to 127 times a scale. What is not finite makes the scale, and
// with it the product, not a number.
void round_group(const float *x, int count, std::int8_t *rounded, float &scale,
                 std::int32_t &minus_sum) {
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
  int total = 0;
  for (int c = 0; c < GROUP_COLUMNS; ++c) {
    const int nearest = reinterpret<std::int32_t>((poison == 0.0f ? padded[c] * inverse : 0.0f) + rounding) - 0x4b400000;
    rounded[c] = static_cast<std::int8_t>(nearest);
    total += nearest;
  }
  minus_sum = -total;
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
  constexpr int MANY = 4;
  const std::int64_t distance = (end - begin) / MANY;
  for (std::int64_t panel = begin; panel < begin + distance; ++panel)
    multiply_panels<MANY>({matrix, inputs, y + panel * PANEL_ROWS, y_stride, 0, panel, distance});
  for (std::int64_t panel = begin + MANY * distance; panel < end; ++panel)
    multiply_panels<1>({matrix, inputs, y + panel * PANEL_ROWS, y_stride, 0, panel, distance});
}

}  // namespace receptance::RECEPTANCE_LEVEL
