// The kernels as Python calls them: pointers and sizes in, the work shared between threads. Python has checked shapes,
// types and contiguity; every pointer is to a contiguous array as described in table.h.

#include <atomic>
#include <vector>

#include "dispatch.h"
#include "export.h"
#include "threads.h"

using receptance::AdamW;
using receptance::CrossEntropy;
using receptance::Evaluation;
using receptance::Format;
using receptance::GroupToRound;
using receptance::GroupToSettle;
using receptance::Inputs;
using receptance::Matrix;
using receptance::MatrixRecurrence;
using receptance::Network;
using receptance::NormMix;
using receptance::Rows;
using receptance::Team;
using receptance::Type;
using receptance::Wkv4Backward;
using receptance::Wkv4Forward;

namespace {

constexpr std::int64_t least_work = 32768;  // elements that are worth waking a thread for

// Cut [batch, channel] into ranges of one row, enough of them to keep the threads busy, and call `range` on each.
// Channels do not know of each other, so the result does not depend on the cut.
template <class Range>
void for_each_range(int threads, std::int64_t batch, std::int64_t time, std::int64_t channel, Range &&range) {
  constexpr std::int64_t tile = 64;  // channels
  const std::int64_t work = batch * time * channel / least_work + 1;
  if (threads > work) threads = static_cast<int>(work);
  const std::int64_t tiles = (channel + tile - 1) / tile;
  std::int64_t pieces = threads <= 1 ? 1 : (2 * threads + batch - 1) / batch;
  if (pieces > tiles) pieces = tiles;
  const std::int64_t step = (tiles + pieces - 1) / pieces * tile;
  pieces = (channel + step - 1) / step;
  receptance::for_each(threads, batch * pieces, [&](std::int64_t index) {
    const std::int64_t begin = index % pieces * step;
    range(index / pieces, begin, begin + step < channel ? begin + step : channel);
  });
}

// Heads do not know of each other. One multiplication of a memory is far less work than an element of WKV-4.
void for_each_head(int threads, const MatrixRecurrence &args, void (*kernel)(const MatrixRecurrence &, std::int64_t)) {
  const std::int64_t heads = args.batch * args.head;
  const std::int64_t work = heads * args.time * args.key * args.value / (8 * least_work) + 1;
  if (threads > work) threads = static_cast<int>(work);
  receptance::for_each(threads, heads, [&](std::int64_t head) { kernel(args, head); });
}

// Ranges of panels, each of enough elements.
template <class Range>
void for_each_panels(int threads, std::int64_t rows, std::int64_t columns, Range &&range) {
  const std::int64_t panels = receptance::panels_of(rows), panel = receptance::PANEL_ROWS * columns;
  const std::int64_t step = (least_work + panel - 1) / panel, pieces = (panels + step - 1) / step;
  receptance::for_each(threads, pieces, [&](std::int64_t i) {
    range(i * step, (i + 1) * step < panels ? (i + 1) * step : panels);
  });
}

}  // namespace

// Returns the tokens from one checkpoint to the next, so that Python can say how many there are.
RECEPTANCE_EXPORT int receptance_wkv4_block() { return receptance::WKV4_BLOCK; }

RECEPTANCE_EXPORT void receptance_wkv4_forward(int type, const void *k, const void *v, const float *w, const float *u,
                                               const float *a, const float *b, const float *p, void *y, float *a_end,
                                               float *b_end, float *p_end, float *checkpoints, std::int64_t batch,
                                               std::int64_t time, std::int64_t channel, int threads) {
  const Wkv4Forward args{static_cast<Type>(type), k, v, w, u, a, b, p, y, a_end, b_end, p_end, checkpoints,
                         batch, time, channel};
  const auto kernel = receptance::kernels().wkv4_forward;
  for_each_range(threads, batch, time, channel,
                 [&](std::int64_t row, std::int64_t begin, std::int64_t end) { kernel(args, row, begin, end); });
}

RECEPTANCE_EXPORT void receptance_wkv4_backward(int type, const void *k, const void *v, const float *w,
                                                const float *u, const float *checkpoints, const float *a_end,
                                                const float *b_end, const float *p_end, const void *grad_y,
                                                const float *grad_a_end, const float *grad_b_end,
                                                const float *grad_p_end, void *grad_k, void *grad_v, float *grad_w,
                                                float *grad_u, float *grad_a, float *grad_b, float *grad_p,
                                                std::int64_t batch, std::int64_t time, std::int64_t channel,
                                                int threads) {
  const Wkv4Backward args{static_cast<Type>(type), k, v, w, u, checkpoints, a_end, b_end, p_end, grad_y, grad_a_end,
                          grad_b_end, grad_p_end, grad_k, grad_v, grad_w, grad_u, grad_a, grad_b, grad_p, batch,
                          time, channel};
  const auto kernel = receptance::kernels().wkv4_backward;
  for_each_range(threads, batch, time, channel,
                 [&](std::int64_t row, std::int64_t begin, std::int64_t end) { kernel(args, row, begin, end); });
}

RECEPTANCE_EXPORT int receptance_matrix_block() { return receptance::MATRIX_BLOCK; }

RECEPTANCE_EXPORT void receptance_wkv6(const MatrixRecurrence *args, int threads) {
  for_each_head(threads, *args, receptance::kernels().wkv6);
}

RECEPTANCE_EXPORT void receptance_wkv7(const MatrixRecurrence *args, int threads) {
  for_each_head(threads, *args, receptance::kernels().wkv7);
}

// Every target must be below the vocabulary, or negative.
RECEPTANCE_EXPORT void receptance_cross_entropy(int type, void *logits, const std::int64_t *targets, float *nll,
                                                float *penalty, float max_logit_weight, float z_loss_weight,
                                                int gradient, std::int64_t tokens, std::int64_t vocabulary,
                                                int threads) {
  const CrossEntropy args{static_cast<Type>(type), logits, targets, nll, penalty, max_logit_weight, z_loss_weight,
                          gradient != 0, tokens, vocabulary};
  const auto kernel = receptance::kernels().cross_entropy;
  const std::int64_t piece = 1 + least_work / vocabulary;  // tokens
  receptance::for_each(threads, (tokens + piece - 1) / piece, [&](std::int64_t index) {
    static thread_local std::vector<float> scratch;  // a row in full precision, kept for the next call
    constexpr std::int64_t lanes = receptance::CROSS_ENTROPY_LANES;
    scratch.resize((vocabulary + lanes - 1) / lanes * lanes);
    const std::int64_t end = (index + 1) * piece < tokens ? (index + 1) * piece : tokens;
    for (std::int64_t token = index * piece; token < end; ++token) kernel(args, token, scratch.data());
  });
}

// Returns the tokens of a block, so that Python can say how many there are.
RECEPTANCE_EXPORT int receptance_norm_mix_block() { return receptance::NORM_MIX_BLOCK; }

RECEPTANCE_EXPORT void receptance_norm_mix(const NormMix *args, int threads) {
  constexpr std::int64_t block = receptance::NORM_MIX_BLOCK;
  const std::int64_t work = args->batch * args->time * args->channel * (1 + args->mixes) / least_work + 1;
  if (threads > work) threads = static_cast<int>(work);
  receptance::for_each(threads, args->batch * ((args->time + block - 1) / block), [&](std::int64_t index) {
    static thread_local std::vector<float> scratch;  // kept for the next call
    scratch.resize(3 * args->channel);
    receptance::kernels().norm_mix(*args, index, scratch.data());
  });
}

RECEPTANCE_EXPORT void receptance_adamw(const AdamW *args, int threads) {
  receptance::for_each(threads, (args->size + least_work - 1) / least_work, [&](std::int64_t index) {
    const std::int64_t begin = index * least_work, end = begin + least_work;
    receptance::kernels().adamw(*args, begin, end < args->size ? end : args->size);
  });
}

// Parts of one size are summed one after the other, so the result does not depend on the threads.
RECEPTANCE_EXPORT double receptance_sum_of_squares(int type, const void *x, std::int64_t size, int threads) {
  std::vector<double> sums((size + least_work - 1) / least_work);
  receptance::for_each(threads, static_cast<std::int64_t>(sums.size()), [&](std::int64_t index) {
    const std::int64_t begin = index * least_work, end = begin + least_work;
    sums[index] = receptance::kernels().sum_of_squares(static_cast<Type>(type), x, begin, end < size ? end : size);
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

// Read memory on all threads, to see how long it takes.
RECEPTANCE_EXPORT std::uint32_t receptance_read_memory(const void *from, std::int64_t bytes, int threads) {
  const auto *at = static_cast<const char *>(from);
  const std::int64_t part = bytes / threads / 64 * 64;
  std::vector<std::uint32_t> results(threads);
  receptance::for_each(threads, threads, [&](std::int64_t i) {
    results[i] = receptance::kernels().read_memory(at + i * part, part);
  });
  std::uint32_t result = 0;
  for (const std::uint32_t each : results) result ^= each;
  return result;
}

// Returns 0 when a weight is not finite and the format cannot hold it; the panels are then of no use.
RECEPTANCE_EXPORT int receptance_pack(int type, const void *weights, std::int64_t rows, std::int64_t columns,
                                      std::int64_t row_stride, std::int64_t column_stride, int format, void *panels,
                                      int threads) {
  const Rows from{static_cast<Type>(type), weights, rows, columns, row_stride, column_stride};
  const auto pack = receptance::kernels().pack;
  std::atomic<bool> finite{true};
  for_each_panels(threads, rows, columns, [&](std::int64_t begin, std::int64_t end) {
    if (!pack(from, static_cast<Format>(format), panels, begin, end)) finite = false;
  });
  return finite;
}

// weights [row, column] = the numbers that the packed matrix holds.
RECEPTANCE_EXPORT void receptance_unpack(int format, const void *panels, std::int64_t rows, std::int64_t columns,
                                         float *weights, int threads) {
  const Matrix from{static_cast<Format>(format), panels, rows, columns};
  const auto unpack = receptance::kernels().unpack;
  for_each_panels(threads, rows, columns, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * receptance::PANEL_ROWS, last = end * receptance::PANEL_ROWS;
    unpack(from, weights + first * columns, first, last < rows ? last : rows);
  });
}

constexpr std::int64_t group_work = receptance::GROUP_COLUMNS * receptance::GROUP_COLUMNS / 8;  // for a row

// scale [row], numbers and errors [column, row] of a group of weights [column, row].
RECEPTANCE_EXPORT void receptance_round_group(const float *weights, const float *scales, std::int64_t choices,
                                              const float *inverse, std::int64_t rows, float low, float high,
                                              float *numbers, float *errors, float *scale, int threads) {
  const GroupToRound group{rows, choices, weights, scales, inverse, low, high, numbers, errors, scale};
  for_each_range(threads, 1, choices * group_work, rows, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    receptance::kernels().round_group(group, begin, end);
  });
}

// Changes numbers and off [column, row].
RECEPTANCE_EXPORT void receptance_settle_group(const float *scale, const float *inputs, const float *slopes,
                                               std::int64_t rows, float low, float high, float *numbers, float *off,
                                               int threads) {
  const GroupToSettle group{rows, scale, inputs, slopes, low, high, numbers, off};
  for_each_range(threads, 1, group_work, rows, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    receptance::kernels().settle_group(group, begin, end);
  });
}

// y [token, row] = x [token, column] times the packed matrix.
RECEPTANCE_EXPORT void receptance_multiply(int format, const void *panels, std::int64_t rows, std::int64_t columns,
                                           const float *x, std::int64_t tokens, float *y, int threads) {
  const Matrix matrix{static_cast<Format>(format), panels, rows, columns};
  const std::int64_t groups = receptance::groups_of(columns), padded = groups * receptance::GROUP_COLUMNS;
  std::vector<std::uint16_t> halves(tokens * padded);
  std::vector<std::int8_t> rounded(tokens * padded);
  std::vector<float> scales(tokens * groups);
  std::vector<std::int32_t> sums(tokens * groups);
  const Inputs inputs{tokens, columns, x, halves.data(), rounded.data(), scales.data(), sums.data()};
  receptance::kernels().prepare(matrix.format, inputs, 0, tokens);
  const std::int64_t panels_count = receptance::panels_of(rows);
  const std::int64_t pieces = threads < panels_count ? threads : panels_count;
  receptance::for_each(threads, pieces, [&](std::int64_t i) {
    receptance::kernels().multiply(matrix, inputs, y, rows, i * panels_count / pieces, (i + 1) * panels_count / pieces);
  });
}

// The bytes of scratch memory that this call takes on so many threads.
RECEPTANCE_EXPORT std::int64_t receptance_scratch_bytes(const Network *network, const Evaluation *call, int threads) {
  Team::Meeting meeting;
  return receptance::kernels().scratch_bytes(*network, *call, Team(meeting, threads, 0));
}

// Returns -1, or the place of a token that is not below the vocabulary: nothing is written then.
RECEPTANCE_EXPORT std::int64_t receptance_evaluate(const Network *network, const Evaluation *call, int threads) {
  for (std::int64_t i = 0; i < call->batch * call->time; ++i)
    if (call->tokens[i] < 0 || call->tokens[i] >= network->vocabulary) return i;
  const auto evaluate = receptance::kernels().evaluate;
  receptance::with_team(threads, [&](const Team &team) { evaluate(*network, *call, team); });
  return -1;
}
