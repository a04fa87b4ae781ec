// The table of this level.

#include "table.h"

namespace receptance::RECEPTANCE_LEVEL {

void wkv4_forward(const Wkv4Forward &, std::int64_t row, std::int64_t begin, std::int64_t end);
void wkv4_backward(const Wkv4Backward &, std::int64_t row, std::int64_t begin, std::int64_t end);
void wkv6(const MatrixRecurrence &, std::int64_t head);
void wkv7(const MatrixRecurrence &, std::int64_t head);
void cross_entropy(const CrossEntropy &, std::int64_t token, float *scratch);
void norm_mix(const NormMix &, std::int64_t block, float *scratch);
void adamw(const AdamW &, std::int64_t begin, std::int64_t end);
double sum_of_squares(Type, const void *x, std::int64_t begin, std::int64_t end);
std::uint32_t read_memory(const void *from, std::int64_t bytes);
bool pack(const Rows &, Format, void *panels, std::int64_t begin, std::int64_t end);
void unpack(const Matrix &, float *weights, std::int64_t begin, std::int64_t end);
void round_group(const GroupToRound &, std::int64_t begin, std::int64_t end);
void settle_group(const GroupToSettle &, std::int64_t begin, std::int64_t end);
void prepare(Format, const Inputs &, std::int64_t begin, std::int64_t end);
void multiply(const Matrix &, const Inputs &, float *y, std::int64_t y_stride, std::int64_t begin, std::int64_t end);
void evaluate(const Network &, const Evaluation &, const Team &);
std::int64_t scratch_bytes(const Network &, const Evaluation &, const Team &);

#define TEXT_OF(name) #name
#define NAME_OF(name) TEXT_OF(name)

extern const Table table;
const Table table = {NAME_OF(RECEPTANCE_LEVEL), wkv4_forward, wkv4_backward, wkv6, wkv7, cross_entropy, norm_mix,
                     adamw, sum_of_squares, read_memory, pack, unpack, round_group, settle_group, prepare, multiply,
                     evaluate, scratch_bytes};

}  // namespace receptance::RECEPTANCE_LEVEL
