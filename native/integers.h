// Products of small integers, four to a lane: what int8 and int4 weights are multiplied with. For kernel files only
// (see table.h).

#pragma once

#include "vector.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace receptance::RECEPTANCE_LEVEL {

typedef std::int32_t Ints __attribute__((vector_size(4 * LANES)));  // a lane holds a number, or four of a byte

static inline Ints load_ints(const void *from) {
  Ints x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

// The same from a multiple of 32 bytes: a load across two cache lines would take twice as long.
static inline Ints load_ints_by_halves(const void *from) {
#if defined(__AVX512F__)
  const auto *halves = static_cast<const __m256i *>(from);
  const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256(halves));
  return reinterpret<Ints>(_mm512_maskz_inserti64x4(0xff, low, _mm256_loadu_si256(halves + 1), 1));
#else
  return load_ints(from);
#endif
}

// Four bytes in every lane.
static inline Ints all_ints(const void *from) {
  std::int32_t x;
  __builtin_memcpy(&x, from, sizeof x);
  return x - Ints{};
}

// For signed weights the dot product below adds WEIGHT_OFFSET times the sum of x; taking that off is the caller's.
#if defined(__AVX512VNNI__)
constexpr int WEIGHT_OFFSET = 128;
#else
constexpr int WEIGHT_OFFSET = 0;
#endif

// sum + the four weights of a lane times the four signed bytes of x, all of them -127 to 127, or, when not SIGNED,
// weights of 0 to 15.
template <bool SIGNED>
static inline Ints dot(Ints sum, Ints weights, Ints x) {
#if defined(__AVX512VNNI__)
  const Ints positive = SIGNED ? weights ^ static_cast<std::int32_t>(0x80808080u) : weights;
  return reinterpret<Ints>(_mm512_dpbusd_epi32(reinterpret<__m512i>(sum), reinterpret<__m512i>(positive),
                                               reinterpret<__m512i>(x)));
#elif defined(__AVX2__)
  const __m256i w = reinterpret<__m256i>(weights), by = reinterpret<__m256i>(x), ones = _mm256_set1_epi16(1);
  const __m256i pairs = SIGNED ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(by, w))
                               : _mm256_maddubs_epi16(w, by);
  return sum + reinterpret<Ints>(_mm256_madd_epi16(pairs, ones));
#elif defined(__SSE4_1__)
  const __m128i w = reinterpret<__m128i>(weights), by = reinterpret<__m128i>(x), ones = _mm_set1_epi16(1);
  const __m128i pairs = SIGNED ? _mm_maddubs_epi16(_mm_abs_epi8(w), _mm_sign_epi8(by, w)) : _mm_maddubs_epi16(w, by);
  return sum + reinterpret<Ints>(_mm_madd_epi16(pairs, ones));
#elif defined(__ARM_FEATURE_DOTPROD)
  return reinterpret<Ints>(
      vdotq_s32(reinterpret<int32x4_t>(sum), reinterpret<int8x16_t>(weights), reinterpret<int8x16_t>(x)));
#elif defined(__aarch64__)
  const int8x16_t w = reinterpret<int8x16_t>(weights), by = reinterpret<int8x16_t>(x);
  const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(by)), vmull_high_s8(w, by));
  return reinterpret<Ints>(vpadalq_s16(reinterpret<int32x4_t>(sum), pairs));
#else
  for (int bits = 24; bits >= 0; bits -= 8) sum += (weights << bits >> 24) * (x << bits >> 24);
  return sum;
#endif
}

}  // namespace receptance::RECEPTANCE_LEVEL
