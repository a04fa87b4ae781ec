// Keep freed memory in the process. By default glibc returns every large block to the system when it is freed and
// asks for it again at the next allocation, and the system then clears it page by page: for a training step, which
// allocates the same large tensors over and over, that costs more than any kernel here.

#include <cstdlib>  // defines __GLIBC__ where that is the C library

#include "export.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

// For the whole process and for good. Returns 1 when done, 0 where the C library is not glibc.
RECEPTANCE_EXPORT int receptance_tune_allocator() {
#if defined(__GLIBC__)
  constexpr int never = 0x7fffffff, top_pad = 64 << 20;
  return mallopt(M_MMAP_MAX, 0) && mallopt(M_TRIM_THRESHOLD, never) && mallopt(M_TOP_PAD, top_pad);
#else
  return 0;
#endif
}
