// Which instruction-set level the kernels run at.
//
// CMake passes the levels that were compiled in, worst first, as RECEPTANCE_LEVELS: LEVEL(x86_64_v2) LEVEL(...).
// A level counts as usable when cpuid reports its instructions and the operating system saves its registers.

#include "dispatch.h"

#include <atomic>
#include <cstring>
#include <initializer_list>

#include "export.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace receptance {

#define LEVEL(name)           \
  namespace name {            \
  extern const Table table;   \
  }
RECEPTANCE_LEVELS
#undef LEVEL

namespace {

#if defined(__x86_64__)

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool all(unsigned word, std::initializer_list<int> bits) {
  for (int bit : bits)
    if (!(word >> bit & 1)) return false;
  return true;
}

// The register sets that the operating system saves: 1 SSE, 2 AVX, 5-7 AVX-512, 17-18 AMX.
bool saves(std::initializer_list<int> register_sets) {
  if (!all(cpuid(1, 0).ecx, {27})) return false;  // OSXSAVE: xgetbv may be used
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return all(low, register_sets);
}

// Linux hands the AMX registers only to a process that asks for them, once.
bool may_use_amx() {
#if defined(__linux__)
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
  return false;
#endif
}

bool runs_v2() {
  // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; LAHF.
  return all(cpuid(1, 0).ecx, {0, 9, 13, 19, 20, 23}) && all(cpuid(0x80000001, 0).ecx, {0});
}

bool runs_v3() {
  // FMA, MOVBE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT.
  return runs_v2() && all(cpuid(1, 0).ecx, {12, 22, 28, 29}) && all(cpuid(7, 0).ebx, {3, 5, 8}) &&
         all(cpuid(0x80000001, 0).ecx, {5}) && saves({1, 2});
}

bool runs_v4() {
  // AVX-512 F, DQ, CD, BW, VL; VNNI.
  return runs_v3() && all(cpuid(7, 0).ebx, {16, 17, 28, 30, 31}) && all(cpuid(7, 0).ecx, {11}) &&
         saves({1, 2, 5, 6, 7});
}

bool runs_v4_bf16() {
  // AVX-512 BF16.
  return runs_v4() && all(cpuid(7, 1).eax, {5});
}

bool runs_amx() {
  // AMX-BF16, AMX-TILE, AMX-INT8.
  return runs_v4_bf16() && all(cpuid(7, 0).edx, {22, 24, 25}) && saves({17, 18}) && may_use_amx();
}

bool runs(const char *level) {
  if (!std::strcmp(level, "x86_64_v2")) return runs_v2();
  if (!std::strcmp(level, "x86_64_v3")) return runs_v3();
  if (!std::strcmp(level, "x86_64_v4")) return runs_v4();
  if (!std::strcmp(level, "x86_64_v4_bf16")) return runs_v4_bf16();
  if (!std::strcmp(level, "x86_64_amx")) return runs_amx();
  return !std::strcmp(level, "base");
}

#else

bool has_dot_products() {
#if defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long DOT_PRODUCTS = 1 << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & DOT_PRODUCTS;
#elif defined(__aarch64__) && defined(__APPLE__)
  return true;  // every Mac of this architecture has them
#else
  return false;
#endif
}

bool runs(const char *level) {
  if (!std::strcmp(level, "aarch64_dotprod")) return has_dot_products();
  return !std::strcmp(level, "base");
}

#endif

struct Levels {
  const Table *usable[8] = {};
  int count = 0;
  char names[256] = "";  // separated by spaces
  std::atomic<const Table *> in_use{nullptr};

  Levels() {
    const Table *compiled[] = {
#define LEVEL(name) &name::table,
        RECEPTANCE_LEVELS
#undef LEVEL
    };
    for (const Table *table : compiled) {
      if (!runs(table->name)) continue;
      if (count) std::strcat(names, " ");
      std::strcat(names, table->name);
      usable[count++] = table;
    }
    if (count) in_use = usable[count - 1];
  }
};

Levels &levels() {
  static Levels levels;
  return levels;
}

}  // namespace

const Table &kernels() { return *levels().in_use.load(std::memory_order_relaxed); }

}  // namespace receptance

// The usable levels, worst first, separated by spaces; empty when this processor runs none of them.
RECEPTANCE_EXPORT const char *receptance_levels() { return receptance::levels().names; }

// The level in use, or null when there is none.
RECEPTANCE_EXPORT const char *receptance_level() {
  const receptance::Table *table = receptance::levels().in_use;
  return table ? table->name : nullptr;
}

// Run every kernel at this level from now on, in the whole process. Returns 0 when the level is not usable.
RECEPTANCE_EXPORT int receptance_use_level(const char *name) {
  receptance::Levels &levels = receptance::levels();
  for (int i = 0; i < levels.count; ++i) {
    if (std::strcmp(levels.usable[i]->name, name)) continue;
    levels.in_use = levels.usable[i];
    return 1;
  }
  return 0;
}

// Changes whenever a C function changes what it takes or leaves, so that Python does not call a stale library.
RECEPTANCE_EXPORT int receptance_interface() { return 9; }
