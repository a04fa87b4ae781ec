// The tile instructions of AMX in plain C++, so that code for them runs on any machine: what they do and what they
// refuse, as Intel's Software Developer's Manual has it (volume 2). The processor would raise an exception where this
// ends the program.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__SSE4_1__)
#include <immintrin.h>  // before its names are taken over
#endif

namespace emulated_amx {

struct Config {
  std::uint8_t palette, start_row, reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};
static_assert(sizeof(Config) == 64, "as LDTILECFG reads it");

struct Tile {
  alignas(64) unsigned char row[16][64];
};

inline thread_local Config config;
inline thread_local Tile tiles[8];
inline thread_local long products = 0;  // how many there were

inline void require(bool holds, const char *what) {
  if (holds) return;
  std::fprintf(stderr, "AMX: %s\n", what);
  std::abort();
}

inline void load_config(const void *from) {
  std::memcpy(&config, from, sizeof config);
  std::memset(tiles, 0, sizeof tiles);
  require(config.palette == 1 && config.start_row == 0, "palette 1 from row 0 is needed");
  for (int byte : config.reserved) require(byte == 0, "reserved bytes of the configuration are not zero");
  for (int tile = 0; tile < 16; ++tile) {
    const int rows = config.rows[tile], bytes = config.row_bytes[tile];
    require(rows <= 16 && bytes <= 64 && (tile < 8 || (rows == 0 && bytes == 0)), "a tile is too large");
    require((rows == 0) == (bytes == 0), "a tile has rows without bytes, or bytes without rows");
  }
}

inline void release() { std::memset(&config, 0, sizeof config); }

inline Tile &used(int tile) {
  require(config.palette == 1 && config.rows[tile] > 0, "a tile is used that is not configured");
  return tiles[tile];
}

inline void zero(int tile) { std::memset(&used(tile), 0, sizeof(Tile)); }

inline void load(int tile, const void *from, std::int64_t stride) {
  zero(tile);
  for (int row = 0; row < config.rows[tile]; ++row)
    std::memcpy(tiles[tile].row[row], static_cast<const char *>(from) + row * stride, config.row_bytes[tile]);
}

inline void store(int tile, void *to, std::int64_t stride) {
  used(tile);
  for (int row = 0; row < config.rows[tile]; ++row)
    std::memcpy(static_cast<char *>(to) + row * stride, tiles[tile].row[row], config.row_bytes[tile]);
}

inline void check_shapes(int sum, int a, int b) {
  used(sum), used(a), used(b);
  require(sum != a && sum != b && a != b, "the tiles of a product must differ");
  require(config.rows[sum] == config.rows[a] && config.row_bytes[sum] == config.row_bytes[b] &&
              config.row_bytes[a] == 4 * config.rows[b],
          "the shapes of a product do not fit");
}

inline float without_denormals(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

template <class Element>
Element at(const Tile &tile, int row, int index) {
  Element x;
  std::memcpy(&x, tile.row[row] + index * sizeof x, sizeof x);
  return x;
}

inline float widened(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return without_denormals(x);
}

// Even and odd columns are summed apart, then together.
inline void multiply_bfloat16(int sum, int a, int b) {
  check_shapes(sum, a, b);
  ++products;
  for (int m = 0; m < config.rows[sum]; ++m)
    for (int n = 0; n < config.row_bytes[sum] / 4; ++n) {
      float parts[2] = {};
      for (int k = 0; k < config.rows[b]; ++k)
        for (int i = 0; i < 2; ++i)
          parts[i] = without_denormals(std::fma(widened(at<std::uint16_t>(tiles[a], m, 2 * k + i)),
                                                widened(at<std::uint16_t>(tiles[b], k, 2 * n + i)), parts[i]));
      const float both = without_denormals(parts[0] + parts[1]);
      const float result = without_denormals(without_denormals(at<float>(tiles[sum], m, n)) + both);
      std::memcpy(tiles[sum].row[m] + 4 * n, &result, sizeof result);
    }
}

// Signed bytes, four to a lane.
inline void multiply_int8(int sum, int a, int b) {
  check_shapes(sum, a, b);
  ++products;
  for (int m = 0; m < config.rows[sum]; ++m)
    for (int n = 0; n < config.row_bytes[sum] / 4; ++n) {
      std::int32_t result = at<std::int32_t>(tiles[sum], m, n);
      for (int k = 0; k < config.rows[b]; ++k)
        for (int i = 0; i < 4; ++i)
          result += at<std::int8_t>(tiles[a], m, 4 * k + i) * at<std::int8_t>(tiles[b], k, 4 * n + i);
      std::memcpy(tiles[sum].row[m] + 4 * n, &result, sizeof result);
    }
}

}  // namespace emulated_amx

#define __AMX_BF16__ 1
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_loadconfig emulated_amx::load_config
#define _tile_release emulated_amx::release
#define _tile_zero emulated_amx::zero
#define _tile_loadd emulated_amx::load
#define _tile_stored emulated_amx::store
#define _tile_dpbf16ps emulated_amx::multiply_bfloat16
#define _tile_dpbssd emulated_amx::multiply_int8
