// The table of this level.

#include "table.h"

namespace receptance::RECEPTANCE_LEVEL {

#define TEXT_OF(name) #name
#define NAME_OF(name) TEXT_OF(name)

extern const Table table;
const Table table = {NAME_OF(RECEPTANCE_LEVEL)};

}  // namespace receptance::RECEPTANCE_LEVEL
