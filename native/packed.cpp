// y = W x for weights in panels (packed.h), one tile of a few tokens and a few panels at a time.
//
// The sums of a tile stay in registers while the columns go by. A panel is read from memory once: the tiles of further
// tokens find it in the cache.

#include "integers.h"
#include "lanes.h"
#include "packed_amx.h"
#include "packed_tile.h"
#include "table.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

template <int TOKENS, int PANELS>
void tile_float32(const Place &place) {
  Sums<TOKENS, PANELS> sums;
  const std::int64_t columns = place.matrix.columns;
  const float *x = place.inputs.x + place.token * columns;
  const float *panel[PANELS];
  UNROLLED
  for (int p = 0; p < PANELS; ++p) panel[p] = reinterpret_cast<const float *>(place.panel_at(p));
  for (std::int64_t c = 0; c < columns; ++c)
    UNROLLED
    for (int p = 0; p < PANELS; ++p) {
      UNROLLED
      for (int i = 0; i < PARTS; ++i) {
        const Vector w = load(panel[p] + c * PANEL_ROWS + i * LANES);
        UNROLLED
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
  UNROLLED
  for (int p = 0; p < PANELS; ++p) panel[p] = place.panel_at(p);
  for (std::int64_t c = 0; c < columns; c += 2) {
    const std::int64_t next = c + 1 < columns ? c + 1 : c;  // the weights of a missing column are zero
    UNROLLED
    for (int p = 0; p < PANELS; ++p) {
      const char *line = panel[p] + c / 2 * 64;
      UNROLLED
      for (int i = 0; i < PARTS; ++i) {
        const Bits w = reinterpret<Bits>(load_ints(line + i * 4 * LANES));
        const Vector even = reinterpret<Vector>(w << 16), odd = reinterpret<Vector>(w & 0xffff0000u);
        UNROLLED
        for (int t = 0; t < TOKENS; ++t) sums.x[t][p][i] += even * x[t * columns + c];
        UNROLLED
        for (int t = 0; t < TOKENS; ++t) sums.x[t][p][i] += odd * x[t * columns + next];
      }
    }
  }
  sums.store(place);
}

// Whether inputs are rounded to bfloat16, which this level then multiplies twice as fast. The few tokens that memory
// leaves time for are not.
constexpr bool rounds_to_halves(const Inputs &inputs) {
#if defined(__AVX512BF16__) || defined(__AMX_BF16__)
  return inputs.tokens > 2 && !inputs.exact;
#else
  return inputs.tokens < 0;
#endif
}

template <int TOKENS, int PANELS>
void tile_halves(const Place &place) {
#if defined(__AVX512BF16__)
  Sums<TOKENS, PANELS> sums;
  const std::int64_t columns = place.matrix.columns, stride = padded(columns);
  const std::uint16_t *x = place.inputs.halves + place.token * stride;
  const char *panel[PANELS];
  UNROLLED
  for (int p = 0; p < PANELS; ++p) panel[p] = place.panel_at(p);
  for (std::int64_t c = 0; c < columns; c += 2)
    UNROLLED
    for (int p = 0; p < PANELS; ++p) {
      const char *line = panel[p] + c / 2 * 64;
      const auto w = reinterpret<__m512bh>(load_ints(line));
      UNROLLED
      for (int t = 0; t < TOKENS; ++t) {
        Vector &sum = sums.x[t][p][0];
        const auto both = reinterpret<__m512bh>(all_ints(x + t * stride + c));
        sum = reinterpret<Vector>(_mm512_dpbf16_ps(reinterpret<__m512>(sum), both, w));
      }
    }
  sums.store(place);
#else
  static_cast<void>(place);
#endif
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
  UNROLLED
  for (int p = 0; p < PANELS; ++p) panel[p] = place.panel_at(p);
  for (std::int64_t g = 0; g < groups; ++g)
    UNROLLED
    for (int p = 0; p < PANELS; ++p) {
      const char *group = panel[p] + g * group_bytes;
      UNROLLED
      for (int i = 0; i < PARTS; ++i) {
        Ints sum[TOKENS];
        UNROLLED
        for (int t = 0; t < TOKENS; ++t) sum[t] = all_ints(less + t * groups + g) * offset;
        UNROLLED
        for (int line = 0; line < lines; ++line) {
          const Ints w = load_ints_by_halves(group + 2 * PANEL_ROWS + line * 64 + i * 4 * LANES);
          UNROLLED
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
        UNROLLED
        for (int t = 0; t < TOKENS; ++t)
          sums.x[t][p][i] += scale * scales[t * groups + g] * __builtin_convertvector(sum[t], Vector);
      }
    }
  sums.store(place);
}

using Tile = void (*)(const Place &);

template <int TOKENS, int PANELS>
Tile tile_of(Format format, const Inputs &inputs) {
  switch (format) {
    case Format::float32: return tile_float32<TOKENS, PANELS>;
    case Format::bfloat16:
      return rounds_to_halves(inputs) ? tile_halves<TOKENS, PANELS> : tile_bfloat16<TOKENS, PANELS>;
    case Format::int8: return tile_integers<Format::int8, TOKENS, PANELS>;
    case Format::int4: return tile_integers<Format::int4, TOKENS, PANELS>;
  }
  return nullptr;
}

// The sums of a tile fill most registers, whether it has many tokens or many panels.
constexpr int REGISTERS = LANES == 16 ? 16 : 12;

// The most tokens, a power of two, with so many panels.
constexpr int most_tokens(int panels) {
  int tokens = 1;
  while (2 * tokens * panels * PARTS <= REGISTERS) tokens *= 2;
  return tokens;
}

// All tokens from place.token on, at most MOST at a time, with so many panels.
template <int PANELS, int MOST>
void multiply_tokens(Place place) {
  const Tile tile = tile_of<MOST, PANELS>(place.matrix.format, place.inputs);
  for (; place.inputs.tokens - place.token >= MOST; place.token += MOST, place.y += MOST * place.y_stride) tile(place);
  if constexpr (MOST > 1) multiply_tokens<PANELS, MOST / 2>(place);
}

// The panels begin to end, PANELS of them at a time.
template <int PANELS>
void multiply_panels(Place place, std::int64_t begin, std::int64_t end) {
  place.distance = (end - begin) / PANELS;
  for (place.panel = begin; place.panel < begin + place.distance; ++place.panel, place.y += PANEL_ROWS)
    multiply_tokens<PANELS, most_tokens(PANELS)>(place);
  if constexpr (PANELS > 1) {
    place.y += (PANELS - 1) * place.distance * PANEL_ROWS;
    multiply_panels<1>(place, begin + PANELS * place.distance, end);
  }
}

void round_to_halves(const float *group, bfloat16 *to) {
  for (int c = 0; c < GROUP_COLUMNS; c += LANES) store(load(group + c), to + c);
}

template <int by, class Any, int... lane>
Any rotated(Any x, Lanes<lane...>) {
  return __builtin_shufflevector(x, x, ((lane + by) % LANES)...);
}

// The largest lane, in every lane.
template <int by = LANES / 2>
Ints largest_of(Ints x) {
  const Ints other = rotated<by>(x, AllLanes{}), larger = x > other ? x : other;
  if constexpr (by == 1)
    return larger;
  else
    return largest_of<by / 2>(larger);
}

template <int by = LANES / 2>
Ints sum_of(Ints x) {
  const Ints sum = x + rotated<by>(x, AllLanes{});
  if constexpr (by == 1)
    return sum;
  else
    return sum_of<by / 2>(sum);
}

// A group is rounded to -127 to 127 times a scale. What is not finite makes the scale, and so the product, not a number.
void round_to_integers(const float *group, std::int8_t *rounded, float &scale, std::int32_t &minus_sum) {
  typedef std::int8_t Bytes __attribute__((vector_size(LANES)));
  constexpr float rounding = 0x1.8p+23f;  // adding it leaves the nearest integer in the low bits
  constexpr std::int32_t infinity = 0x7f800000, sign_less = 0x7fffffff;
  Ints size = {}, sum = {};
  for (int c = 0; c < GROUP_COLUMNS; c += LANES) {
    const Ints next = reinterpret<Ints>(load(group + c)) & sign_less;  // ordered as the floats are, and NaN last
    size = next > size ? next : size;
  }
  const std::int32_t largest_bits = largest_of(size)[0];
  const bool finite = largest_bits < infinity;
  const float largest = reinterpret<float>(largest_bits);
  const float inverse = finite && largest > 1e-30f ? 127.0f / largest : 0.0f;
  for (int c = 0; c < GROUP_COLUMNS; c += LANES) {
    const Vector x = finite ? load(group + c) : Vector{};
    const Ints nearest = reinterpret<Ints>(x * inverse + rounding) - reinterpret<std::int32_t>(rounding);
    const Bytes bytes = __builtin_convertvector(nearest, Bytes);
    __builtin_memcpy(rounded + c, &bytes, sizeof bytes);
    sum += nearest;
  }
  scale = finite ? largest * (1.0f / 127.0f) : __builtin_nanf("");
  minus_sum = -sum_of(sum)[0];
}

}  // namespace

void prepare(Format format, const Inputs &inputs, std::int64_t begin, std::int64_t end) {
  const std::int64_t groups = groups_of(inputs.columns);
  const bool to_integers = format == Format::int8 || format == Format::int4;
  if (!to_integers && !(format == Format::bfloat16 && rounds_to_halves(inputs))) return;
  for (std::int64_t token = begin; token < end; ++token)
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t at = token * groups + g, left = inputs.columns - g * GROUP_COLUMNS;
      const float *x = inputs.x + token * inputs.columns + g * GROUP_COLUMNS;
      float some[GROUP_COLUMNS] = {};
      if (left < GROUP_COLUMNS) {
        for (int c = 0; c < left; ++c) some[c] = x[c];
        x = some;
      }
      if (to_integers)
        round_to_integers(x, inputs.rounded + at * GROUP_COLUMNS, inputs.scales[at], inputs.sums[at]);
      else
        round_to_halves(x, reinterpret_cast<bfloat16 *>(inputs.halves) + at * GROUP_COLUMNS);
    }
}

void multiply(const Matrix &matrix, const Inputs &inputs, float *y, std::int64_t y_stride, std::int64_t begin,
              std::int64_t end) {
  const std::int64_t bytes = panel_bytes(matrix.format, matrix.columns);
  const Place place{matrix, inputs, y + begin * PANEL_ROWS, y_stride, bytes, 0, begin, 0};
#if defined(__AMX_BF16__)
  if (matrix.format == Format::bfloat16 && rounds_to_halves(inputs)) return multiply_amx(place, begin, end);
  if (inputs.tokens >= AMX_TOKENS && !inputs.exact && matrix.format == Format::int8)
    return multiply_amx_integers<Format::int8>(place, begin, end);
  if (inputs.tokens >= AMX_TOKENS && !inputs.exact && matrix.format == Format::int4)
    return multiply_amx_integers<Format::int4>(place, begin, end);
#endif
  if (inputs.tokens == 1)
    multiply_panels<4>(place, begin, end);
  else
    multiply_panels<(LANES == 16 ? 4 : LANES == 8 ? 2 : 1)>(place, begin, end);
}

}  // namespace receptance::RECEPTANCE_LEVEL
