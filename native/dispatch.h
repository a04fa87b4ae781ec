// The level in use: the best that was compiled in and that this processor runs, unless another was asked for.

#pragma once

#include "table.h"

namespace receptance {

const Table &kernels();

}  // namespace receptance
