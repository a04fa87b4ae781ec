// Share independent pieces of work between threads.

#pragma once

#include <cstdint>

namespace receptance {

using Piece = void (*)(void *work, std::int64_t index);

// Call piece(work, index) for each index below count, on at most this many threads, in any order.
void for_each(int threads, std::int64_t count, Piece piece, void *work);

// The same for a function object that takes the index.
template <class Function>
void for_each(int threads, std::int64_t count, Function &&function) {
  for_each(
      threads, count, [](void *work, std::int64_t index) { (*static_cast<Function *>(work))(index); }, &function);
}

}  // namespace receptance
