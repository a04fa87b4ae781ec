// Memory read as fast as this level can, and nothing else: what no product with weights that lie in memory can exceed.

#include "integers.h"
#include "table.h"

namespace receptance::RECEPTANCE_LEVEL {

// Four streams, as in packed.cpp. What is read decides the result, so that the reading cannot be left out.
std::uint32_t read_memory(const void *from, std::int64_t bytes) {
  constexpr int STREAMS = 4, STEP = 64;
  const std::int64_t part = bytes / STREAMS / STEP * STEP;
  const char *at = static_cast<const char *>(from);
  Ints seen[STREAMS][STEP / sizeof(Ints)] = {};
  for (std::int64_t offset = 0; offset < part; offset += STEP)
    for (int stream = 0; stream < STREAMS; ++stream)
      for (unsigned i = 0; i < STEP / sizeof(Ints); ++i)
        seen[stream][i] ^= load_ints(at + stream * part + offset + i * sizeof(Ints));
  std::uint32_t result = 0;
  for (const auto &stream : seen)
    for (const Ints &ints : stream)
      for (int lane = 0; lane < LANES; ++lane) result ^= static_cast<std::uint32_t>(ints[lane]);
  return result;
}

}  // namespace receptance::RECEPTANCE_LEVEL
