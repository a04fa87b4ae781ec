// The compiled library against double precision, without Python: `library PATH` checks every level that the processor
// runs, also under an emulator of another one. Prints the largest errors; returns 1 where one is too large.

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "network.h"
#include "recurrences.h"

using namespace receptance;

namespace {

void *library;
bool failed = false;
std::string level;

template <class Function>
Function *function(const char *name) {
  void *found = dlsym(library, name);
  if (!found) std::fprintf(stderr, "%s\n", dlerror()), std::exit(2);
  return reinterpret_cast<Function *>(found);
}

void report(const char *what, double error, double bound) {
  const bool holds = error <= bound;  // and is a number
  std::printf("%s: %s: off by %.2g, at most %.2g\n", level.c_str(), what, error, bound);
  failed = failed || !holds;
}

// A matrix in panels.
class Panels {
 public:
  Panels(const Weights &weights, Format format)
      : matrix{format, nullptr, weights.rows, weights.columns},
        memory_(panels_of(weights.rows) * panel_bytes(format, weights.columns) + 64) {
    void *panels = memory_.data() + (-reinterpret_cast<std::uintptr_t>(memory_.data()) & 63);
    function<int(int, const void *, std::int64_t, std::int64_t, std::int64_t, std::int64_t, int, void *, int)>(
        "receptance_pack")(0, weights.values.data(), weights.rows, weights.columns, weights.columns, 1,
                           static_cast<int>(format), panels, 2);
    matrix.panels = panels;
  }
  Panels(Panels &&) = default;

  // What was packed, as it is read back.
  Weights unpacked() const {
    Weights weights{matrix.rows, matrix.columns, std::vector<float>(matrix.rows * matrix.columns)};
    function<void(int, const void *, std::int64_t, std::int64_t, float *, int)>("receptance_unpack")(
        static_cast<int>(matrix.format), matrix.panels, matrix.rows, matrix.columns, weights.values.data(), 2);
    return weights;
  }

  Matrix matrix;

 private:
  std::vector<char> memory_;
};

// The largest error of products as a share of the sum of the sizes of what is added; inputs may be rounded too.
void check_products(std::mt19937 &random) {
  const char *names[] = {"float32", "bfloat16", "int8", "int4"};
  const double rounding[] = {1e-7, 1.0 / 256, 1.0 / 127, 1.0 / 7}, input[] = {1e-6, 1.0 / 256, 1.0 / 127, 1.0 / 127};
  for (int format = 0; format < 4; ++format) {
    double weights_off = 0.0, products_off = 0.0;
    for (const auto &[rows, columns] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {37, 65}, {64, 31}, {129, 200}})
      for (const std::int64_t tokens : {1, 2, 3, 16, 21}) {
        const Weights weights = random_weights(random, rows, columns, 0.0f, 1.0f);
        const Weights x = random_weights(random, tokens, columns, 0.0f, 1.0f);
        const Panels panels(weights, static_cast<Format>(format));
        const Weights held = panels.unpacked();
        std::vector<float> y(tokens * rows);
        function<void(int, const void *, std::int64_t, std::int64_t, const float *, std::int64_t, float *, int)>(
            "receptance_multiply")(format, panels.matrix.panels, rows, columns, x.values.data(), tokens, y.data(), 2);
        for (std::int64_t row = 0; row < rows; ++row)
          for (std::int64_t t = 0; t < tokens; ++t) {
            double sum = 0.0, largest_x = 0.0, largest = 0.0, size = 0.0;
            for (std::int64_t c = 0; c < columns; ++c) {
              const double w = held[row * columns + c], each = x[t * columns + c];
              sum += w * each;
              size += std::fabs(w);
              largest_x = std::fmax(largest_x, std::fabs(each));
              largest = std::fmax(largest, std::fabs(weights[row * columns + c]));
            }
            for (std::int64_t c = 0; c < columns; ++c)
              weights_off = std::fmax(
                  weights_off, std::fabs(held[row * columns + c] - weights[row * columns + c]) / largest);
            products_off = std::fmax(products_off, std::fabs(y[t * rows + row] - sum) / (size * largest_x + 1e-30));
          }
      }
    report((std::string(names[format]) + " weights").c_str(), weights_off, rounding[format]);
    report((std::string(names[format]) + " products").c_str(), products_off, input[format]);
  }
}

constexpr std::int64_t CHANNELS = 48, WIDE = 100, HEADS = 3, VOCABULARY = 37, LAYERS = 2, RANK = 12, TIME = 40;

Norm norm_of(const NormWeights &norm) { return {norm.weight.values.data(), norm.bias.values.data()}; }

// Gives out matrices of float32, and keeps them.
struct Keeper {
  std::vector<Panels> kept;

  Matrix operator()(const Weights &weights) {
    kept.emplace_back(weights, Format::float32);
    return kept.back().matrix;
  }
  ChannelMix channel_mix(const ChannelMixWeights &from) {
    ChannelMix mix{};
    mix.norm = norm_of(from.norm);
    mix.mix_k = from.mix_k.values.data(), mix.mix_r = from.mix_r.values.data();
    mix.key = (*this)(from.key), mix.value = (*this)(from.value);
    if (from.gated) mix.receptance = (*this)(from.receptance);
    return mix;
  }
};

// The embedding is in int8, and the network that it is held against knows the same numbers.
struct Ends {
  Panels embedding;
  Weights embedded, head;
  NormWeights first, last;

  explicit Ends(std::mt19937 &random)
      : embedding(random_weights(random, VOCABULARY, CHANNELS, 0.0f, 1.0f), Format::int8),
        embedded(embedding.unpacked()),
        head(random_weights(random, VOCABULARY, CHANNELS, 0.0f, 0.3f)),
        first(random, CHANNELS),
        last(random, CHANNELS) {}

  Numbers embed(std::int64_t token) const {
    const auto row = embedded.values.begin() + token * CHANNELS;
    return first(Numbers(row, row + CHANNELS), 1e-5);
  }
  Network network(int generation, const void *layers, Keeper &keeper) const {
    Network network{};
    network.generation = generation;
    network.layers = LAYERS, network.channels = network.memory_channels = CHANNELS;
    network.heads = generation == 4 ? 1 : HEADS;
    network.feed_forward = WIDE, network.vocabulary = VOCABULARY, network.rank = RANK;
    network.embedding = embedding.matrix;
    network.embedding_norm = norm_of(first), network.last_norm = norm_of(last);
    network.epsilon = network.last_epsilon = 1e-5f, network.head_epsilon = CHANNELS / HEADS * 1e-5f;
    network.layer = layers;
    network.head = keeper(head);
    return network;
  }
};

// Read a text in these parts, and hold its logits against `expected` [time, vocabulary].
void check_network(const char *name, const Network &network, const std::vector<std::int64_t> &tokens,
                   const Numbers &expected, std::int64_t memory_size, const std::vector<std::int64_t> &parts) {
  std::vector<float> before(LAYERS * (2 * CHANNELS + 3 * memory_size)), after(before.size());
  for (std::int64_t i = 0; i < LAYERS * memory_size && network.generation == 4; ++i)
    before[LAYERS * (2 * CHANNELS + 2 * memory_size) + i] = -1e38f;  // no exponent yet
  std::int64_t begin = 0;
  double off = 0.0, largest = 0.0;
  for (const std::int64_t time : parts) {
    const auto states = [&](std::vector<float> &state) {
      float *shifts = state.data(), *memory = shifts + LAYERS * 2 * CHANNELS;
      return States{shifts, shifts + LAYERS * CHANNELS,
                    {memory, memory + LAYERS * memory_size, memory + 2 * LAYERS * memory_size}};
    };
    const States end = states(after);
    std::vector<float> logits(time * VOCABULARY);
    Evaluation call{};
    call.tokens = tokens.data() + begin;
    call.before = states(before), call.after = &end;
    call.logits = logits.data();
    call.batch = 1, call.time = time;
    const auto bytes = function<std::int64_t(const Network *, const Evaluation *, int)>("receptance_scratch_bytes");
    std::vector<char> scratch(bytes(&network, &call, 2) + 64);
    call.scratch = scratch.data() + (-reinterpret_cast<std::uintptr_t>(scratch.data()) & 63);
    function<std::int64_t(const Network *, const Evaluation *, int)>("receptance_evaluate")(&network, &call, 2);
    for (std::int64_t i = 0; i < time * VOCABULARY; ++i) {
      off = std::fmax(off, std::fabs(logits[i] - expected[begin * VOCABULARY + i]));
      largest = std::fmax(largest, std::fabs(expected[begin * VOCABULARY + i]));
    }
    before.swap(after);
    begin += time;
  }
  report(name, off / largest, 2e-5);
}

std::vector<std::int64_t> random_text(std::mt19937 &random) {
  std::vector<std::int64_t> tokens(TIME);
  for (std::int64_t &token : tokens) token = static_cast<std::int64_t>(random() % VOCABULARY);
  return tokens;
}

void add_logits(const Ends &ends, const Numbers &x, Numbers &to) {
  const Numbers logits = ends.head * ends.last(x, 1e-5);
  to.insert(to.end(), logits.begin(), logits.end());
}

void check_rwkv4(std::mt19937 &random) {
  const Ends ends(random);
  Keeper keeper;
  std::vector<Layer4Weights> weights;
  std::vector<Layer4Weights::State> states(LAYERS, Layer4Weights::State(CHANNELS));
  for (std::int64_t i = 0; i < LAYERS; ++i) weights.emplace_back(random, CHANNELS, WIDE);
  std::vector<Layer4> layers;
  for (const Layer4Weights &from : weights) {
    Layer4 layer{};
    layer.channel_mix = keeper.channel_mix(from.channel_mix);
    layer.norm = norm_of(from.norm);
    layer.decay = from.decay.values.data(), layer.bonus = from.bonus.values.data();
    layer.mix_k = from.mix_k.values.data(), layer.mix_v = from.mix_v.values.data();
    layer.mix_r = from.mix_r.values.data();
    layer.key = keeper(from.key), layer.value = keeper(from.value);
    layer.receptance = keeper(from.receptance), layer.output = keeper(from.output);
    layers.push_back(layer);
  }
  const std::vector<std::int64_t> tokens = random_text(random);
  Numbers expected;
  for (const std::int64_t token : tokens) {
    Numbers x = ends.embed(token);
    for (std::int64_t i = 0; i < LAYERS; ++i) weights[i].run(x, states[i]);
    add_logits(ends, x, expected);
  }
  const Network network = ends.network(4, layers.data(), keeper);
  check_network("RWKV-4 at once", network, tokens, expected, CHANNELS, {TIME});
  check_network("RWKV-4 in parts", network, tokens, expected, CHANNELS, {1, 17, 1, 1, TIME - 20});
}

void check_rwkv7(std::mt19937 &random) {
  const Ends ends(random);
  Keeper keeper;
  std::vector<Layer7Weights> weights;
  std::vector<Layer7Weights::State> states(LAYERS, Layer7Weights::State(CHANNELS, HEADS));
  for (std::int64_t i = 0; i < LAYERS; ++i) weights.emplace_back(random, CHANNELS, WIDE, HEADS, RANK, i == 0);
  std::vector<Layer7> layers;
  for (const Layer7Weights &from : weights) {
    Layer7 layer{};
    layer.channel_mix = keeper.channel_mix(from.channel_mix);
    layer.norm = norm_of(from.norm), layer.head_norm = norm_of(from.head_norm);
    layer.mix_r = from.mix_r.values.data(), layer.mix_w = from.mix_w.values.data();
    layer.mix_k = from.mix_k.values.data(), layer.mix_v = from.mix_v.values.data();
    layer.mix_a = from.mix_a.values.data(), layer.mix_g = from.mix_g.values.data();
    layer.w0 = from.w0.values.data(), layer.a0 = from.a0.values.data();
    layer.k_k = from.k_k.values.data(), layer.k_a = from.k_a.values.data(), layer.r_k = from.r_k.values.data();
    layer.w1 = keeper(from.w1), layer.w2 = keeper(from.w2), layer.a1 = keeper(from.a1), layer.a2 = keeper(from.a2);
    layer.g1 = keeper(from.g1), layer.g2 = keeper(from.g2);
    if (!from.is_first) {
      layer.v0 = from.v0.values.data();
      layer.v1 = keeper(from.v1), layer.v2 = keeper(from.v2);
    }
    layer.receptance = keeper(from.receptance), layer.key = keeper(from.key);
    layer.value = keeper(from.value), layer.output = keeper(from.output);
    layers.push_back(layer);
  }
  const std::vector<std::int64_t> tokens = random_text(random);
  Numbers expected, first_v;
  for (const std::int64_t token : tokens) {
    Numbers x = ends.embed(token);
    for (std::int64_t i = 0; i < LAYERS; ++i) weights[i].run(x, states[i], first_v);
    add_logits(ends, x, expected);
  }
  const Network network = ends.network(7, layers.data(), keeper);
  const std::int64_t size = CHANNELS * CHANNELS / HEADS;
  check_network("RWKV-7 at once", network, tokens, expected, size, {TIME});
  check_network("RWKV-7 in parts", network, tokens, expected, size, {1, 17, 1, 1, TIME - 20});
}

}  // namespace

int main(int count, char **arguments) {
  library = count == 2 ? dlopen(arguments[1], RTLD_NOW) : nullptr;
  if (!library) return std::fprintf(stderr, "usage: library PATH\n%s\n", dlerror()), 2;
  std::string levels = function<const char *()>("receptance_levels")();
  for (char *each = std::strtok(levels.data(), " "); each; each = std::strtok(nullptr, " ")) {
    level = each;
    function<int(const char *)>("receptance_use_level")(each);
    std::mt19937 random(1);
    check_products(random);
    check_rwkv4(random);
    check_rwkv7(random);
  }
  return failed;
}
