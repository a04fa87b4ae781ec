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

using Number = int (*)();

// An OpenMP runtime.
struct Pool {
  Parallel parallel;
  Number size, thread;  // of the team that calls: how many, and who
};

// Looked for each time until it is there: torch may be imported later than this library.
template <class Function>
Function look_up(const char *name, std::atomic<Function> &found) {
  Function function = found.load(std::memory_order_relaxed);
  if (!function) {
    function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
    found.store(function, std::memory_order_relaxed);
  }
  return function;
}

Pool borrowed_pool() {
  static std::atomic<Parallel> parallel{nullptr};
  static std::atomic<Number> size{nullptr}, thread{nullptr};
  return {look_up("GOMP_parallel", parallel), look_up("omp_get_num_threads", size),
          look_up("omp_get_thread_num", thread)};
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

// Tell the processor that this thread only waits.
void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

struct Region {
  Member member;
  void *work;
  const Pool pool;
  Team::Meeting meeting;
  std::atomic<int> size{0};  // of a team that is started, once it is known

  void run(int threads, int thread) { member(work, Team(meeting, threads, thread)); }

  // The pool may give fewer threads than were asked for.
  static void join_borrowed(void *pointer) {
    Region &region = *static_cast<Region *>(pointer);
    region.run(region.pool.size(), region.pool.thread());
  }
  static void join_started(Region *region, int thread) {
    int size;
    while (!(size = region->size.load(std::memory_order_acquire))) std::this_thread::yield();
    region->run(size, thread);
  }
};

}  // namespace

void for_each(int threads, std::int64_t count, Piece piece, void *work) {
  Queue queue{piece, work, count};
  if (threads > count) threads = static_cast<int>(count);
  if (threads <= 1) return Queue::drain(&queue);
  if (Parallel parallel = borrowed_pool().parallel)
    return parallel(Queue::drain, &queue, static_cast<unsigned>(threads), 0);
  std::vector<std::thread> started;
  try {
    for (int i = 1; i < threads; ++i) started.emplace_back(Queue::drain, &queue);
  } catch (const std::system_error &) {
    // No more threads to be had: those that started, and this one, do the work.
  }
  Queue::drain(&queue);
  for (std::thread &thread : started) thread.join();
}

void Team::meet() const {
  if (size_ == 1) return;
  constexpr int patience = 2000;  // rounds before the core is offered to others
  const unsigned count = meeting_.count.load(std::memory_order_relaxed);
  if (meeting_.waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    meeting_.waiting.store(0, std::memory_order_relaxed);
    meeting_.count.store(count + 1, std::memory_order_release);
    return;
  }
  for (int round = 0; meeting_.count.load(std::memory_order_acquire) == count; ++round) {
    if (round > patience)
      std::this_thread::yield();
    else
      pause();
  }
}

void with_team(int threads, Member member, void *work) {
  Region region{member, work, borrowed_pool(), {}};
  if (threads <= 1) return region.run(1, 0);
  const Pool &pool = region.pool;
  if (pool.parallel && pool.size && pool.thread)
    return pool.parallel(Region::join_borrowed, &region, static_cast<unsigned>(threads), 0);
  std::vector<std::thread> started;
  try {
    for (int i = 1; i < threads; ++i) started.emplace_back(Region::join_started, &region, i);
  } catch (const std::system_error &) {
    // No more threads to be had: the team is smaller.
  }
  const int size = static_cast<int>(started.size()) + 1;
  region.size.store(size, std::memory_order_release);
  region.run(size, 0);
  for (std::thread &thread : started) thread.join();
}

}  // namespace receptance
