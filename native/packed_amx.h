// Many tokens times bfloat16, int8 and int4 weights on AMX: a tile register holds 16 tokens or 16 lines of a panel, and
// the packed order is the one that the instructions take their second operand in. For kernel files only (see table.h).

#pragma once

#if defined(__AMX_BF16__)

#include "integers.h"
#include "packed_tile.h"

namespace receptance::RECEPTANCE_LEVEL {

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  void set(int tile, int tile_rows, int tile_row_bytes) {
    rows[tile] = static_cast<std::uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<std::uint16_t>(tile_row_bytes);
  }
  void use() const {
    asm volatile("" ::"r"(this) : "memory");  // GCC 12 believes that only 8 bytes of it are read
    _tile_loadconfig(this);
  }
};

// What was written before is in memory: GCC does not know that tiles are loaded from there.
static inline void settle() { asm volatile("" ::: "memory"); }

// The sums of panel p, which is also the number of the tile that holds them.
#define STORE_TILE(p)                                                                            \
  if (place.rows_of(p) == PANEL_ROWS) {                                                          \
    _tile_stored(p, place.y + p * place.distance * PANEL_ROWS, place.y_stride * 4);              \
  } else {                                                                                       \
    alignas(64) float sums[16 * PANEL_ROWS];                                                     \
    _tile_stored(p, sums, 4 * PANEL_ROWS);                                                       \
    for (int t = 0; t < tokens; ++t)                                                             \
      for (int row = 0; row < place.rows_of(p); ++row)                                           \
        place.y[t * place.y_stride + p * place.distance * PANEL_ROWS + row] = sums[t * PANEL_ROWS + row]; \
  }

// Tiles 0 to 3 are the sums [token][row] of four panels, 4 the inputs [token][32 columns], 5 and 6 weights
// [16 pairs of columns][row][2]. PANELS is 1 or 4.
template <int PANELS>
static inline void amx_tile(const Place &place, int tokens) {
  const std::int64_t columns = place.matrix.columns, stride = padded(columns), bytes = (columns + 1) / 2 * 64;
  const std::uint16_t *x = place.inputs.halves + place.token * stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t at = 0; at < bytes; at += 1024) {
    alignas(64) char last[PANELS][1024];
    const char *weights[PANELS];
    for (int p = 0; p < PANELS; ++p) {
      weights[p] = place.panel_at(p) + at;
      if (bytes - at >= 1024) continue;
      __builtin_memset(last[p], 0, 1024);
      __builtin_memcpy(last[p], weights[p], bytes - at);
      weights[p] = last[p];
    }
    settle();
    _tile_loadd(4, x + at / 32, stride * 2);
    _tile_loadd(5, weights[0], 64);
    _tile_dpbf16ps(0, 4, 5);
    if constexpr (PANELS == 4) {
      _tile_loadd(6, weights[1], 64);
      _tile_dpbf16ps(1, 4, 6);
      _tile_loadd(5, weights[2], 64);
      _tile_dpbf16ps(2, 4, 5);
      _tile_loadd(6, weights[3], 64);
      _tile_dpbf16ps(3, 4, 6);
    }
  }
  STORE_TILE(0)
  if constexpr (PANELS == 4) {
    STORE_TILE(1)
    STORE_TILE(2)
    STORE_TILE(3)
  }
}

// The panels begin to end.
template <int PANELS>
static inline void amx_panels(Place place, std::int64_t begin, std::int64_t end) {
  const std::int64_t count = place.inputs.tokens, most = count < 16 ? count : 16;
  float *y = place.y;
  place.distance = (end - begin) / PANELS;
  for (place.panel = begin; place.panel < begin + place.distance; ++place.panel)
    for (std::int64_t token = 0; token < count; token += most) {
      place.token = token + most <= count ? token : count - most;  // the last tile may repeat some of the one before
      place.y = y + place.token * place.y_stride + (place.panel - begin) * PANEL_ROWS;
      amx_tile<PANELS>(place, static_cast<int>(most));
    }
  if constexpr (PANELS > 1) {
    place.y = y + PANELS * place.distance * PANEL_ROWS;
    amx_panels<1>(place, begin + PANELS * place.distance, end);
  }
}

static inline void multiply_amx(const Place &place, std::int64_t begin, std::int64_t end) {
  TileConfig config;
  for (int tile = 0; tile < 5; ++tile)
    config.set(tile, static_cast<int>(place.inputs.tokens < 16 ? place.inputs.tokens : 16), 64);
  config.set(5, 16, 64);
  config.set(6, 16, 64);
  config.use();
  amx_panels<4>(place, begin, end);
  _tile_release();
}

constexpr int AMX_TOKENS = 16;  // integers are multiplied in tiles of so many tokens, neither more nor less

// A group's weights as lines of four columns. int4 goes from pairs that are 16 columns apart to int8.
template <Format FORMAT>
static inline const char *lines_of(const char *numbers, char *unpacked) {
  if constexpr (FORMAT == Format::int8) return numbers;
  constexpr int half = GROUP_COLUMNS / 2 * PANEL_ROWS;
  for (int at = 0; at < half; at += 4 * LANES) {
    typedef std::int8_t Bytes __attribute__((vector_size(4 * LANES)));
    const Ints pairs = load_ints_by_halves(numbers + at);
    const Bytes low = reinterpret<Bytes>(pairs & 0x0f0f0f0f) - 8, high = reinterpret<Bytes>(pairs >> 4 & 0x0f0f0f0f) - 8;
    __builtin_memcpy(unpacked + at, &low, sizeof low);
    __builtin_memcpy(unpacked + half + at, &high, sizeof high);
  }
  return unpacked;
}

// One panel. The scales follow every group, so its sums go through memory; they are added up as for a token alone.
template <Format FORMAT>
static inline void amx_integer_tile(const Place &place) {
  constexpr std::int64_t group_bytes = panel_bytes(FORMAT, GROUP_COLUMNS);
  const std::int64_t groups = groups_of(place.matrix.columns), first = place.token * groups;
  const std::int8_t *rounded = place.inputs.rounded + first * GROUP_COLUMNS;
  const float *scales = place.inputs.scales + first;
  const char *group = place.panel_at(0);
  Sums<AMX_TOKENS, 1> sums;
  for (std::int64_t g = 0; g < groups; ++g, group += group_bytes) {
    alignas(64) char unpacked[GROUP_COLUMNS * PANEL_ROWS];
    alignas(64) std::int32_t products[AMX_TOKENS][PANEL_ROWS];
    const char *weights = lines_of<FORMAT>(group + 2 * PANEL_ROWS, unpacked);
    settle();
    _tile_zero(0);
    _tile_loadd(1, rounded + g * GROUP_COLUMNS, groups * GROUP_COLUMNS);
    _tile_loadd(2, weights, 64);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, products, 64);
    UNROLLED
    for (int i = 0; i < PARTS; ++i) {
      const Vector scale = load(reinterpret_cast<const bfloat16 *>(group) + i * LANES);
      UNROLLED
      for (int t = 0; t < AMX_TOKENS; ++t)
        sums.x[t][0][i] += scale * scales[t * groups + g] *
                           __builtin_convertvector(load_ints(products[t] + i * LANES), Vector);
    }
  }
  sums.store(place);
}

template <Format FORMAT>
static inline void multiply_amx_integers(Place place, std::int64_t begin, std::int64_t end) {
  TileConfig config;
  config.set(0, AMX_TOKENS, 64);             // sums [token][row]
  config.set(1, AMX_TOKENS, GROUP_COLUMNS);  // inputs [token][column]
  config.set(2, GROUP_COLUMNS / 4, 64);      // weights [four columns][row][4]
  config.use();
  float *y = place.y;
  for (place.panel = begin; place.panel < end; ++place.panel)
    for (std::int64_t token = 0; token < place.inputs.tokens; token += AMX_TOKENS) {
      const std::int64_t last = place.inputs.tokens - AMX_TOKENS;
      place.token = token < last ? token : last;  // the last tile may repeat some of the one before
      place.y = y + place.token * place.y_stride + (place.panel - begin) * PANEL_ROWS;
      amx_integer_tile<FORMAT>(place);
    }
  _tile_release();
}

}  // namespace receptance::RECEPTANCE_LEVEL

#endif
