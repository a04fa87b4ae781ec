// Many tokens times bfloat16 weights on AMX: a tile register holds 16 tokens' or 16 columns' pairs, and the packed order
// is the one that the instruction takes its second operand in. For kernel files only (see table.h).

#pragma once

#if defined(__AMX_BF16__)

#include "packed_tile.h"

namespace receptance::RECEPTANCE_LEVEL {

// Tiles 0 to 3 are the sums [token][row] of four panels, 4 the inputs [token][32 columns], 5 and 6 weights
// [16 pairs of columns][row][2].
static inline void configure_tiles(int tokens) {
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {};
  } config;
  for (int tile = 0; tile < 5; ++tile) config.rows[tile] = static_cast<std::uint8_t>(tokens);
  config.rows[5] = config.rows[6] = 16;
  asm volatile("" ::"r"(&config) : "memory");  // GCC 12 believes that only 8 bytes of it are read
  _tile_loadconfig(&config);
}

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

// PANELS is 1 or 4.
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
  configure_tiles(static_cast<int>(place.inputs.tokens < 16 ? place.inputs.tokens : 16));
  amx_panels<4>(place, begin, end);
  _tile_release();
}

}  // namespace receptance::RECEPTANCE_LEVEL

#endif
