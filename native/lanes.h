// Vectors taken together: the sums over their lanes, and rows made columns. For kernel files only (see table.h).

#pragma once

#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {

// As many as hold so many numbers.
static constexpr int vectors_of(std::int64_t count) { return static_cast<int>((count + LANES - 1) / LANES); }

template <int... lane>
struct Lanes {};

template <int count, int... lane>
struct LanesTo : LanesTo<count - 1, count - 1, lane...> {};

template <int... lane>
struct LanesTo<0, lane...> {
  using Type = Lanes<lane...>;
};

using AllLanes = typename LanesTo<LANES>::Type;

// Each vector holds sums in groups of 2 * group lanes; halve the groups, and put those of x before those of y.
template <int group, int... lane>
static inline Vector halve(Vector x, Vector y, Lanes<lane...>) {
  return __builtin_shufflevector(x, y, (lane / group * 2 * group + lane % group)...) +
         __builtin_shufflevector(x, y, (lane / group * 2 * group + lane % group + group)...);
}

template <int group>
static inline Vector sums_of_lanes(Vector *x) {
  for (int i = 0; i < 2 * group; i += 2) x[i / 2] = halve<group>(x[i], x[i + 1], AllLanes{});
  if constexpr (group == 1)
    return x[0];
  else
    return sums_of_lanes<group / 2>(x);
}

// The sums of LANES vectors over their lanes, as one vector; x is used up.
static inline Vector sums(Vector *x) { return sums_of_lanes<LANES / 2>(x); }

// Exchange the lanes of x that have this bit with those of y that have it not.
template <int bit, int... lane>
static inline void exchange(Vector &x, Vector &y, Lanes<lane...>) {
  const Vector without = __builtin_shufflevector(x, y, (lane & bit ? LANES + lane - bit : lane)...);
  y = __builtin_shufflevector(x, y, (lane & bit ? LANES + lane : lane + bit)...);
  x = without;
}

template <int bit = LANES / 2>
static inline void transpose(Vector *x) {
  for (int i = 0; i < LANES; ++i)
    if (!(i & bit)) exchange<bit>(x[i], x[i + bit], AllLanes{});
  if constexpr (bit > 1) transpose<bit / 2>(x);
}

}  // namespace receptance::RECEPTANCE_LEVEL
