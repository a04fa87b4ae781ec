// RWKV-4 and RWKV-7 in double precision, as plainly as they can be written: what the compiled library is held against.

#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

using Numbers = std::vector<double>;

// Weights [row, column] that are exactly floats.
struct Weights {
  std::int64_t rows, columns;
  std::vector<float> values;

  Numbers operator*(const Numbers &x) const {
    Numbers y(rows);
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t c = 0; c < columns; ++c) y[row] += static_cast<double>(values[row * columns + c]) * x[c];
    return y;
  }
  double operator[](std::int64_t i) const { return values[i]; }
};

inline Weights random_weights(std::mt19937 &random, std::int64_t rows, std::int64_t columns, float middle, float size) {
  std::normal_distribution<float> normal(middle, size);
  Weights weights{rows, columns, std::vector<float>(rows * columns)};
  for (float &each : weights.values) each = normal(random);
  return weights;
}

struct NormWeights {
  Weights weight, bias;

  NormWeights(std::mt19937 &random, std::int64_t size)
      : weight(random_weights(random, 1, size, 1.0f, 0.2f)), bias(random_weights(random, 1, size, 0.0f, 0.2f)) {}

  // `first` and `size`: the channels of a head.
  void apply(Numbers &x, double epsilon, std::int64_t first, std::int64_t size) const {
    double mean = 0.0, variance = 0.0;
    for (std::int64_t i = first; i < first + size; ++i) mean += x[i] / size;
    for (std::int64_t i = first; i < first + size; ++i) variance += (x[i] - mean) * (x[i] - mean) / size;
    for (std::int64_t i = first; i < first + size; ++i)
      x[i] = (x[i] - mean) / std::sqrt(variance + epsilon) * weight[i] + bias[i];
  }
  Numbers operator()(Numbers x, double epsilon) const {
    apply(x, epsilon, 0, static_cast<std::int64_t>(x.size()));
    return x;
  }
};

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

inline Numbers mixed(const Numbers &x, const Numbers &previous, const Weights &mu) {
  Numbers y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] + (previous[i] - x[i]) * mu[i];
  return y;
}

struct ChannelMixWeights {
  NormWeights norm;
  Weights mix_k, mix_r, key, receptance, value;
  bool gated;

  ChannelMixWeights(std::mt19937 &random, std::int64_t channels, std::int64_t wide, bool gated)
      : norm(random, channels),
        mix_k(random_weights(random, 1, channels, 0.5f, 0.3f)),
        mix_r(random_weights(random, 1, channels, 0.5f, 0.3f)),
        key(random_weights(random, wide, channels, 0.0f, 0.2f)),
        receptance(random_weights(random, channels, channels, 0.0f, 0.2f)),
        value(random_weights(random, channels, wide, 0.0f, 0.2f)),
        gated(gated) {}

  void run(Numbers &x, Numbers &shift) const {
    const Numbers seen = norm(x, 1e-5);
    Numbers k = key * mixed(seen, shift, mix_k);
    for (double &each : k) each = each > 0.0 ? each * each : 0.0;
    const Numbers v = value * k, r = receptance * mixed(seen, shift, mix_r);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += (gated ? sigmoid(r[i]) : 1.0) * v[i];
    shift = seen;
  }
};

struct Layer4Weights {
  ChannelMixWeights channel_mix;
  NormWeights norm;
  Weights decay, bonus, mix_k, mix_v, mix_r, key, value, receptance, output;

  Layer4Weights(std::mt19937 &random, std::int64_t channels, std::int64_t wide)
      : channel_mix(random, channels, wide, true),
        norm(random, channels),
        decay(random_weights(random, 1, channels, -1.0f, 0.3f)),
        bonus(random_weights(random, 1, channels, 0.5f, 0.3f)),
        mix_k(random_weights(random, 1, channels, 0.5f, 0.3f)),
        mix_v(random_weights(random, 1, channels, 0.5f, 0.3f)),
        mix_r(random_weights(random, 1, channels, 0.5f, 0.3f)),
        key(random_weights(random, channels, channels, 0.0f, 0.3f)),
        value(random_weights(random, channels, channels, 0.0f, 0.3f)),
        receptance(random_weights(random, channels, channels, 0.0f, 0.3f)),
        output(random_weights(random, channels, channels, 0.0f, 0.3f)) {}

  struct State {
    Numbers time_shift, channel_shift, a, b;

    explicit State(std::int64_t channels)
        : time_shift(channels), channel_shift(channels), a(channels), b(channels) {}
  };

  void run(Numbers &x, State &state) const {
    const Numbers seen = norm(x, 1e-5);
    const Numbers k = key * mixed(seen, state.time_shift, mix_k), v = value * mixed(seen, state.time_shift, mix_v);
    const Numbers r = receptance * mixed(seen, state.time_shift, mix_r);
    Numbers y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double now = std::exp(bonus[i] + k[i]), e = std::exp(k[i]), w = std::exp(decay[i]);
      y[i] = sigmoid(r[i]) * (state.a[i] + now * v[i]) / (state.b[i] + now);
      state.a[i] = w * state.a[i] + e * v[i];
      state.b[i] = w * state.b[i] + e;
    }
    const Numbers change = output * y;
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += change[i];
    state.time_shift = seen;
    channel_mix.run(x, state.channel_shift);
  }
};

struct Layer7Weights {
  std::int64_t heads;
  bool is_first;
  ChannelMixWeights channel_mix;
  NormWeights norm, head_norm;
  Weights mix_r, mix_w, mix_k, mix_v, mix_a, mix_g, w0, a0, v0, k_k, k_a, r_k;
  Weights w1, w2, a1, a2, v1, v2, g1, g2, receptance, key, value, output;

  Layer7Weights(std::mt19937 &random, std::int64_t channels, std::int64_t wide, std::int64_t heads, std::int64_t rank,
                bool is_first)
      : heads(heads), is_first(is_first), channel_mix(random, channels, wide, false), norm(random, channels),
        head_norm(random, channels) {
    for (Weights *mix : {&mix_r, &mix_w, &mix_k, &mix_v, &mix_a, &mix_g})
      *mix = random_weights(random, 1, channels, 0.5f, 0.3f);
    for (Weights *vector : {&w0, &a0, &v0, &k_k, &k_a, &r_k}) *vector = random_weights(random, 1, channels, 0.3f, 0.5f);
    for (Weights *one : {&w1, &a1, &v1, &g1}) *one = random_weights(random, rank, channels, 0.0f, 0.2f);
    for (Weights *two : {&w2, &a2, &v2, &g2}) *two = random_weights(random, channels, rank, 0.0f, 0.3f);
    for (Weights *whole : {&receptance, &key, &value, &output})
      *whole = random_weights(random, channels, channels, 0.0f, 0.3f);
  }

  struct State {
    Numbers time_shift, channel_shift, memory;  // [head, value, key]

    State(std::int64_t channels, std::int64_t heads)
        : time_shift(channels), channel_shift(channels), memory(channels * channels / heads) {}
  };

  // `first_v`: the values of the first layer, which it writes.
  void run(Numbers &x, State &state, Numbers &first_v) const {
    const std::int64_t channels = static_cast<std::int64_t>(x.size()), size = channels / heads;
    const Numbers seen = norm(x, 1e-5);
    const auto at = [&](const Weights &mu) { return mixed(seen, state.time_shift, mu); };
    const Numbers r = receptance * at(mix_r);
    Numbers k = key * at(mix_k), v = value * at(mix_v), w = w1 * at(mix_w), g = g1 * at(mix_g);
    for (double &each : w) each = std::tanh(each);
    for (double &each : g) each = sigmoid(each);
    w = w2 * w, g = g2 * g;
    Numbers a = a2 * (a1 * at(mix_a)), share = v2 * (v1 * at(mix_v)), y(channels), kappa(channels);
    if (is_first) first_v = v;
    for (std::int64_t i = 0; i < channels; ++i) {
      w[i] = std::exp(-std::exp(-0.5) * sigmoid(w0[i] + w[i]));
      a[i] = sigmoid(a0[i] + a[i]);
      if (!is_first) v[i] += (first_v[i] - v[i]) * sigmoid(v0[i] + share[i]);
      kappa[i] = k[i] * k_k[i];
      k[i] *= 1.0 + (a[i] - 1.0) * k_a[i];
    }
    for (std::int64_t first = 0; first < channels; first += size) {
      double length = 0.0, bonus = 0.0;
      for (std::int64_t i = first; i < first + size; ++i) {
        length += kappa[i] * kappa[i];
        bonus += r[i] * k[i] * r_k[i];
      }
      for (std::int64_t i = first; i < first + size; ++i) {
        double *row = &state.memory[i * size], removed = 0.0;
        for (std::int64_t j = 0; j < size; ++j) removed += row[j] * kappa[first + j] / std::sqrt(length);
        for (std::int64_t j = 0; j < size; ++j) {
          const std::int64_t c = first + j;
          row[j] = row[j] * w[c] - removed * kappa[c] / std::sqrt(length) * a[c] + v[i] * k[c];
          y[i] += row[j] * r[c];
        }
      }
      head_norm.apply(y, size * 1e-5, first, size);
      for (std::int64_t i = first; i < first + size; ++i) y[i] = (y[i] + bonus * v[i]) * g[i];
    }
    const Numbers change = output * y;
    for (std::int64_t i = 0; i < channels; ++i) x[i] += change[i];
    state.time_shift = seen;
    channel_mix.run(x, state.channel_shift);
  }
};
