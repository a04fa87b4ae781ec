// A group of columns rounded to integers so that later columns make up for the errors of earlier ones: the formulas are
// those of receptance/quantization/column_group.py. A lane is a row of the matrix. This file is compiled without
// contracting multiply-adds, so that every level rounds alike, and as the torch code does.

#include "table.h"
#include "vector.h"

namespace receptance::RECEPTANCE_LEVEL {
namespace {

// A column of some rows; what is beyond the last row is zero.
Vector load_some(const float *from, int count) {
  Vector x = {};
  __builtin_memcpy(&x, from, count * sizeof(float));
  return x;
}

void store_some(Vector x, float *to, int count) { __builtin_memcpy(to, &x, count * sizeof(float)); }

Vector nearest_integer(Vector x, float low, float high) {
  constexpr float rounding = 0x1.8p+23f;  // adding it leaves the nearest integer in the low bits
  return smaller(larger(x, all(low)), all(high)) + rounding - rounding;
}

Vector inverse_of(Vector scale) { return scale == 0.0f ? Vector{} : 1.0f / scale; }

// The integers for one choice of scales, and by how much they leave each column off.
struct Rounded {
  Vector scale, number[GROUP_COLUMNS], error[GROUP_COLUMNS], squares;

  Rounded(const GroupToRound &group, Vector scale, const Vector *weights) : scale(scale), squares{} {
    Vector left[GROUP_COLUMNS];
    for (int j = 0; j < GROUP_COLUMNS; ++j) left[j] = weights[j];
    const Vector step = inverse_of(scale);
    for (int j = 0; j < GROUP_COLUMNS; ++j) {
      const float *inverse = group.inverse + j * GROUP_COLUMNS;
      number[j] = nearest_integer(left[j] * step, group.low, group.high);
      error[j] = (left[j] - number[j] * scale) / inverse[j];
      squares += error[j] * error[j];
      for (int later = j + 1; later < GROUP_COLUMNS; ++later) left[later] -= inverse[later] * error[j];
    }
  }
  void keep_better(const Rounded &other) {
    const auto is_better = other.squares < squares;
    scale = is_better ? other.scale : scale;
    squares = is_better ? other.squares : squares;
    for (int j = 0; j < GROUP_COLUMNS; ++j) {
      number[j] = is_better ? other.number[j] : number[j];
      error[j] = is_better ? other.error[j] : error[j];
    }
  }
};

int rows_at_once(std::int64_t left) { return left < LANES ? static_cast<int>(left) : LANES; }

}  // namespace

void round_group(const GroupToRound &group, std::int64_t begin, std::int64_t end) {
  int count;
  for (std::int64_t row = begin; row < end; row += count) {
    count = rows_at_once(end - row);
    Vector weights[GROUP_COLUMNS];
    for (int j = 0; j < GROUP_COLUMNS; ++j) weights[j] = load_some(group.weights + j * group.rows + row, count);
    const auto with = [&](std::int64_t choice) {
      return Rounded(group, load_some(group.scales + choice * group.rows + row, count), weights);
    };
    Rounded best = with(0);
    for (std::int64_t choice = 1; choice < group.choices; ++choice) best.keep_better(with(choice));
    store_some(best.scale, group.scale + row, count);
    for (int j = 0; j < GROUP_COLUMNS; ++j) {
      store_some(best.number[j], group.numbers + j * group.rows + row, count);
      store_some(best.error[j], group.errors + j * group.rows + row, count);
    }
  }
}

void settle_group(const GroupToSettle &group, std::int64_t begin, std::int64_t end) {
  int count;
  for (std::int64_t row = begin; row < end; row += count) {
    count = rows_at_once(end - row);
    const Vector scale = load_some(group.scale + row, count), step = inverse_of(scale);
    Vector slope[GROUP_COLUMNS];
    for (int j = 0; j < GROUP_COLUMNS; ++j) slope[j] = load_some(group.slopes + j * group.rows + row, count);
    for (int j = 0; j < GROUP_COLUMNS; ++j) {
      const float *inputs = group.inputs + j * GROUP_COLUMNS;
      float *number_at = group.numbers + j * group.rows + row, *off_at = group.off + j * group.rows + row;
      const Vector number = load_some(number_at, count);
      const Vector settled = nearest_integer(number + slope[j] / inputs[j] * step, group.low, group.high);
      const Vector moved = (settled - number) * scale;
      store_some(settled, number_at, count);
      store_some(load_some(off_at, count) - moved, off_at, count);
      for (int later = j + 1; later < GROUP_COLUMNS; ++later) slope[later] -= inputs[later] * moved;
    }
  }
}

}  // namespace receptance::RECEPTANCE_LEVEL
