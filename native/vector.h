// Vectors of float32 that fill a register of this level, with the arithmetic of the language: the compilers (GCC and
// Clang) turn it into the instructions of any processor. For kernel files only (see table.h).

#pragma once

#include <cstdint>

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

namespace receptance::RECEPTANCE_LEVEL {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef double Doubles __attribute__((vector_size(8 * LANES)));
typedef std::uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef std::int64_t LongBits __attribute__((vector_size(8 * LANES)));
typedef std::uint16_t Halves __attribute__((vector_size(2 * LANES)));

struct bfloat16 {
  std::uint16_t bits;
};

template <class To, class From>
static inline To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "only the type changes");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

static inline Vector all(float x) { return x - Vector{}; }

// The second where either is NaN.
static inline Vector larger(Vector x, Vector y) { return x > y ? x : y; }
static inline Vector smaller(Vector x, Vector y) { return x < y ? x : y; }

// Whether a comparison holds in any lane.
template <class Mask>
static inline bool any(Mask mask) {
  std::uint64_t words[sizeof(Mask) / 8], joined = 0;
  __builtin_memcpy(words, &mask, sizeof mask);
  for (std::uint64_t word : words) joined |= word;
  return joined != 0;
}

static inline Doubles widen(Vector x) { return __builtin_convertvector(x, Doubles); }
static inline Vector narrow(Doubles x) { return __builtin_convertvector(x, Vector); }

static inline Vector load(const float *from) {
  Vector x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

static inline void store(Vector x, float *to) { __builtin_memcpy(to, &x, sizeof x); }

// Between 16 bits in memory and 32 in a register: the one place where the compilers need to be told the instruction.
static inline Bits load_halves(const void *from) {
#if defined(__AVX512F__)
  return reinterpret<Bits>(_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(static_cast<const __m256i *>(from))));
#elif defined(__AVX2__)
  return reinterpret<Bits>(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i *>(from))));
#elif defined(__SSE4_1__)
  return reinterpret<Bits>(_mm_cvtepu16_epi32(_mm_loadl_epi64(static_cast<const __m128i *>(from))));
#else
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return __builtin_convertvector(halves, Bits);
#endif
}

static inline void store_halves(Bits bits, void *to) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(static_cast<__m256i *>(to), _mm512_maskz_cvtepi32_epi16(0xffff, reinterpret<__m512i>(bits)));
#elif defined(__AVX2__)
  const __m256i words = reinterpret<__m256i>(bits);
  const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
  _mm_storeu_si128(static_cast<__m128i *>(to), _mm_packus_epi32(low, high));
#elif defined(__SSE4_1__)
  const __m128i words = reinterpret<__m128i>(bits);
  _mm_storel_epi64(static_cast<__m128i *>(to), _mm_packus_epi32(words, words));
#else
  const Halves halves = __builtin_convertvector(bits, Halves);
  __builtin_memcpy(to, &halves, sizeof halves);
#endif
}

static inline Vector load(const bfloat16 *from) { return reinterpret<Vector>(load_halves(from) << 16); }

// The nearest bfloat16 in the low 16 bits, ties to even; a NaN stays one.
static inline Bits nearest_halves(Vector x) {
  const Bits bits = reinterpret<Bits>(x), rounded = bits + 0x7fff + (bits >> 16 & 1);
  return (x == x ? rounded : Bits{} + 0x7fc00000u) >> 16;
}

static inline void store(Vector x, bfloat16 *to) { store_halves(nearest_halves(x), to); }

// The first `count` lanes only; the others are `missing`.
template <class Element>
static inline Vector load_some(const Element *from, int count, float missing) {
  Element padded[LANES] = {};
  for (int i = 0; i < count; ++i) padded[i] = from[i];
  Vector x = load(padded);
  for (int i = count; i < LANES; ++i) x[i] = missing;
  return x;
}

template <class Element>
static inline void store_some(Vector x, Element *to, int count) {
  Element padded[LANES];
  store(x, padded);
  for (int i = 0; i < count; ++i) to[i] = padded[i];
}

// e^x = 2^n e^r with |r| <= ln(2)/2, and e^r = 1 + r (1 + r P(r)), the polynomial P fitted for the least relative error
// (3e-9). A NaN stays one.
struct Power {
  Vector r, quotient;  // quotient = (e^r - 1) / r
  Bits n;              // in the place of a float's exponent
};

// For |x| <= 87.
static inline Power power_within_87(Vector x) {
  constexpr float log2_e = 0x1.715476p+0f;
  constexpr float rounding = 0x1.8p+23f;  // adding it leaves the nearest integer in the low bits
  const Vector shifted = x * log2_e + rounding;
  const Vector n = shifted - rounding;
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  const Vector r = x - n * 0x1.62e430p-1f;  // ln 2, off by 2e-9
#else
  const Vector r = x - n * 0x1.62e8p-1f + n * 2.90889713e-5f;  // ln 2 in two parts, n * the first being exact
#endif
  Vector e = 0x1.6a2352p-10f * r + 0x1.123a6cp-7f;
  e = e * r + 0x1.5558f4p-5f;
  e = e * r + 0x1.555490p-3f;
  e = e * r + 0x1.fffffcp-2f;
  return {r, e * r + 1.0f, reinterpret<Bits>(shifted) << 23};
}

// e^x for |x| <= 87, with a relative error of 1e-7 near 0 that grows to 3e-7.
static inline Vector exponential_within_87(Vector x) {
  const Power power = power_within_87(x);
  return reinterpret<Vector>(reinterpret<Bits>(power.quotient * power.r + 1.0f) + power.n);
}

// The same for any x up to 87; exactly 0 below -87, so that no denormal number arises.
static inline Vector exponential(Vector x) {
  return x < -87.0f ? Vector{} : exponential_within_87(larger(all(-87.0f), x));
}

// The factor e^x, for any x up to 87, of a sum that is multiplied by it again and again: (e^x rounded) * sum would be
// off in the same direction every time. Only the result is rounded here.
struct Factor {
  Vector rest, scale;

  explicit Factor(Vector x) {
    const Power power = power_within_87(larger(all(-87.0f), x));
    rest = power.quotient * power.r;
    scale = x < -87.0f ? Vector{} : reinterpret<Vector>(reinterpret<Bits>(all(1.0f)) + power.n);
  }
  Vector operator*(Vector sum) const { return (sum + sum * rest) * scale; }
};

// The same to nearly double precision, by the series of e^r up to r^11.
static inline Doubles exponential(Doubles x) {
  constexpr double log2_e = 0x1.71547652b82fep+0, ln2 = 0x1.62e42fefa39efp-1, rounding = 0x1.8p+52;
  const Doubles clamped = x < -87.0 ? Doubles{} - 87.0 : x;
  const Doubles shifted = clamped * log2_e + rounding;
  const Doubles r = clamped - (shifted - rounding) * ln2;
  Doubles e = Doubles{} + 1.0;
  for (int i = 11; i > 0; --i) e = 1.0 + r * (1.0 / i) * e;
  const Doubles scaled = reinterpret<Doubles>(reinterpret<LongBits>(e) + (reinterpret<LongBits>(shifted) << 52));
  return x < -87.0 ? Doubles{} : scaled;
}

}  // namespace receptance::RECEPTANCE_LEVEL
