// Threads are borrowed, not owned: where an OpenMP runtime is already loaded (torch brings one), its pool serves,
// so that two pools never fight for the same cores. It is found by name at run time; nothing is linked.
// Where there is none, threads are started for the call.

#include "threads.h"

#include <dlfcn.h>

#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace receptance {
namespace {

// Entry point of GNU OpenMP, which LLVM's and Intel's runtimes offer too: run function(data) on a team.
using Parallel = void (*)(void (*function)(void *), void *data, unsigned threads, unsigned flags);

Parallel borrowed_pool() {
  static std::atomic<Parallel> found{nullptr};
  Parallel parallel = found.load(std::memory_order_relaxed);
  if (!parallel) {  // looked for each time until it is there: torch may be imported later than this library
    parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    found.store(parallel, std::memory_order_relaxed);
  }
  return parallel;
}

struct Queue {
  Piece piece;
  void *work;
  std::int64_t count;
  std::atomic<std::int64_t> next{0};

  // Every thread of the team takes the next piece until none is left, so the team may have any size.
  static void drain(void *pointer) {
    Queue &queue = *static_cast<Queue *>(pointer);
    for (;;) {
      const std::int64_t index = queue.next.fetch_add(1, std::memory_order_relaxed);
      if (index >= queue.count) return;
      queue.piece(queue.work, index);
    }
  }
};

}  // namespace

void for_each(int threads, std::int64_t count, Piece piece, void *work) {
  Queue queue{piece, work, count};
  if (threads > count) threads = static_cast<int>(count);
  if (threads <= 1) return Queue::drain(&queue);
  if (Parallel parallel = borrowed_pool()) return parallel(Queue::drain, &queue, static_cast<unsigned>(threads), 0);
  std::vector<std::thread> started;
  try {
    for (int i = 1; i < threads; ++i) started.emplace_back(Queue::drain, &queue);
  } catch (const std::system_error &) {
    // No more threads to be had: those that started, and this one, do the work.
  }
  Queue::drain(&queue);
  for (std::thread &thread : started) thread.join();
}

}  // namespace receptance
