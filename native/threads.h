// Share independent pieces of work between threads.

#pragma once

#include <atomic>
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

// Threads that run at the same time and may wait for each other, as one of them sees it.
class Team {
 public:
  struct Meeting {
    alignas(64) std::atomic<int> waiting{0};
    alignas(64) std::atomic<unsigned> count{0};
  };

  Team(Meeting &meeting, int size, int thread) : meeting_(meeting), size_(size), thread_(thread) {}

  int size() const { return size_; }
  int thread() const { return thread_; }

  // Wait until all have come here; what any of them wrote before is then seen by all.
  void meet() const;

 private:
  Meeting &meeting_;
  int size_, thread_;
};

using Member = void (*)(void *work, const Team &team);

// Call member(work, team) on each thread of a team of at most this size, all at once.
void with_team(int threads, Member member, void *work);

// The same for a function object that takes the team.
template <class Function>
void with_team(int threads, Function &&function) {
  with_team(
      threads, [](void *work, const Team &team) { (*static_cast<Function *>(work))(team); }, &function);
}

}  // namespace receptance
