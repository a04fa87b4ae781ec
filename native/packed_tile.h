// What one tile of a product works on: a few tokens and a few panels (packed.cpp). For kernel files only (see table.h).

#pragma once

#include "packed.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {

// Sums stay in registers only where the loops over them are unrolled.
#define UNROLLED _Pragma("GCC unroll 16")

constexpr int PARTS = PANEL_ROWS / LANES;  // vectors a panel is wide

// What a tile works on: its first token, and its first panel with the distance to the next: a tile reads panels far from
// each other, so that every one goes on where the one before ended, and the processor fetches ahead.
struct Place {
  const Matrix &matrix;
  const Inputs &inputs;
  float *y;  // of the tile's first token and row
  std::int64_t y_stride, bytes, token, panel, distance;

  const char *panel_at(int p) const {
    return static_cast<const char *>(matrix.panels) + (panel + p * distance) * bytes;
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
    UNROLLED
    for (int t = 0; t < TOKENS; ++t)
      UNROLLED
      for (int p = 0; p < PANELS; ++p)
        UNROLLED
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

}  // namespace receptance::RECEPTANCE_LEVEL
