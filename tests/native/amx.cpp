// The products of native/packed_amx.h on emulated tiles, against sums in double precision.

#include "emulated_amx.h"

#include "packed.cpp"

#include <random>
#include <vector>

namespace receptance::RECEPTANCE_LEVEL {
bool pack(const Rows &, Format, void *panels, std::int64_t begin, std::int64_t end);
void unpack(const Matrix &, float *weights, std::int64_t begin, std::int64_t end);
}

namespace {

using namespace receptance;

int failures = 0;

float rounded(float x) { return RECEPTANCE_LEVEL::reinterpret<float>(
    static_cast<std::uint32_t>(RECEPTANCE_LEVEL::nearest_halves(RECEPTANCE_LEVEL::all(x))[0]) << 16); }

// The panels begin to end of a product, and nothing beside them.
void check(std::int64_t rows, std::int64_t columns, std::int64_t tokens, std::int64_t begin, std::int64_t end) {
  std::mt19937 random(static_cast<unsigned>(rows * 1000 + columns * 10 + tokens));
  std::normal_distribution<float> normal;
  std::vector<float> weights(rows * columns), x(tokens * columns);
  for (float &each : weights) each = rounded(normal(random));
  for (float &each : x) each = rounded(normal(random));

  std::vector<char> memory(panels_of(rows) * panel_bytes(Format::bfloat16, columns) + 64);
  void *panels = memory.data() + (-reinterpret_cast<std::uintptr_t>(memory.data()) & 63);
  RECEPTANCE_LEVEL::pack({Type::float32, weights.data(), rows, columns, columns, 1}, Format::bfloat16, panels, 0,
                         panels_of(rows));
  std::vector<std::uint16_t> halves(tokens * padded(columns), 0x7fc0);
  const Inputs inputs{tokens, columns, x.data(), halves.data(), nullptr, nullptr, nullptr};
  RECEPTANCE_LEVEL::prepare(Format::bfloat16, inputs, 0, tokens);

  constexpr float untouched = 12345.0f;
  const std::int64_t stride = rows + 5, last = end * PANEL_ROWS < rows ? end * PANEL_ROWS : rows;
  std::vector<float> y(tokens * stride, untouched);
  const long before = emulated_amx::products;
  RECEPTANCE_LEVEL::multiply({Format::bfloat16, panels, rows, columns}, inputs, y.data(), stride, begin, end);
  emulated_amx::require(emulated_amx::products > before, "it was not used");
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t row = 0; row < stride; ++row) {
      double sum = 0.0, size = 0.0;
      for (std::int64_t c = 0; row < rows && c < columns; ++c) {
        const double product = static_cast<double>(weights[row * columns + c]) * x[t * columns + c];
        sum += product;
        size += std::fabs(product);
      }
      const bool wanted = begin * PANEL_ROWS <= row && row < last;
      const double got = y[t * stride + row], expected = wanted ? sum : untouched;
      if (std::fabs(got - expected) <= (wanted ? 1e-6 * size : 0.0)) continue;
      std::printf("%ld x %ld, %ld tokens, panels %ld to %ld: y[%ld, %ld] is %g, not %g\n", static_cast<long>(rows),
                  static_cast<long>(columns), static_cast<long>(tokens), static_cast<long>(begin),
                  static_cast<long>(end), static_cast<long>(t), static_cast<long>(row), got, expected);
      ++failures;
      return;
    }
}

std::int64_t multiplied(Format format, const Matrix &matrix, const float *x, std::int64_t tokens, float *y) {
  const std::int64_t groups = groups_of(matrix.columns);
  std::vector<std::int8_t> bytes(tokens * padded(matrix.columns));
  std::vector<float> scales(tokens * groups);
  std::vector<std::int32_t> sums(tokens * groups);
  const Inputs inputs{tokens, matrix.columns, x, nullptr, bytes.data(), scales.data(), sums.data()};
  RECEPTANCE_LEVEL::prepare(format, inputs, 0, tokens);
  const long before = emulated_amx::products;
  RECEPTANCE_LEVEL::multiply(matrix, inputs, y, matrix.rows, 0, panels_of(matrix.rows));
  return emulated_amx::products - before;
}

// Several tokens' products of integers, on tiles, are to the bit those of the tokens alone, without tiles, and no further
// from the sums in double precision than the rounding of the inputs.
void check_integers(Format format, std::int64_t rows, std::int64_t columns, std::int64_t tokens) {
  std::mt19937 random(static_cast<unsigned>(rows * 1000 + columns * 10 + tokens));
  std::normal_distribution<float> normal;
  std::vector<float> weights(rows * columns), held(rows * columns), x(tokens * columns);
  for (float &each : weights) each = normal(random);
  for (float &each : x) each = normal(random);
  std::vector<char> memory(panels_of(rows) * panel_bytes(format, columns) + 64);
  void *panels = memory.data() + (-reinterpret_cast<std::uintptr_t>(memory.data()) & 63);
  RECEPTANCE_LEVEL::pack({Type::float32, weights.data(), rows, columns, columns, 1}, format, panels, 0,
                         panels_of(rows));
  const Matrix matrix{format, panels, rows, columns};
  RECEPTANCE_LEVEL::unpack(matrix, held.data(), 0, rows);
  std::vector<float> together(tokens * rows), alone(tokens * rows);
  bool right = multiplied(format, matrix, x.data(), tokens, together.data()) > 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    right = right && multiplied(format, matrix, &x[t * columns], 1, &alone[t * rows]) == 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      double sum = 0.0, size = 0.0, largest = 0.0;
      for (std::int64_t c = 0; c < columns; ++c) {
        sum += static_cast<double>(held[row * columns + c]) * x[t * columns + c];
        size += std::fabs(held[row * columns + c]);
        largest = std::fmax(largest, std::fabs(x[t * columns + c]));
      }
      right = right && std::fabs(together[t * rows + row] - sum) <= size * largest / 127.0;
    }
  }
  if (right && !std::memcmp(together.data(), alone.data(), together.size() * sizeof(float))) return;
  std::printf("format %d, %ld x %ld, %ld tokens: wrong\n", static_cast<int>(format), static_cast<long>(rows),
              static_cast<long>(columns), static_cast<long>(tokens));
  ++failures;
}

}  // namespace

int main() {
  for (const Format format : {Format::int8, Format::int4})
    for (const std::int64_t rows : {1, 16, 37, 143})
      for (const std::int64_t columns : {1, 31, 32, 33, 64, 130})
        for (const std::int64_t tokens : {16, 17, 31, 32, 50}) check_integers(format, rows, columns, tokens);
  for (const std::int64_t rows : {1, 16, 37, 64, 65, 130, 143})
    for (const std::int64_t columns : {1, 2, 31, 32, 33, 64, 95, 130})
      for (const std::int64_t tokens : {3, 5, 15, 16, 17, 31, 32, 33, 50}) {
        const std::int64_t panels = panels_of(rows);
        check(rows, columns, tokens, 0, panels);
        if (panels > 1) check(rows, columns, tokens, 1, panels);
        if (panels > 5) check(rows, columns, tokens, 1, panels - 1);
      }
  if (!failures) std::printf("every product is right\n");
  return failures != 0;
}
