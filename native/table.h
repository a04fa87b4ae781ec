// The kernels of one instruction-set level, as a table of functions.
//
// Every kernel file is compiled once for each level, with RECEPTANCE_LEVEL naming the namespace that its
// functions go into; dispatch.cpp holds one table per level and points to the one in use.
//
// Rule for those files: no templates or inline functions of the standard library. The linker keeps one copy of
// such a function out of all levels, and an older processor would then run the newest level's copy.

#pragma once

#include <cstdint>

namespace receptance {

enum class Type : int { float32 = 0, bfloat16 = 1 };

struct Wkv4Forward;
struct Wkv4Backward;
struct CrossEntropy;

struct Table {
  const char *name;
};

}  // namespace receptance
