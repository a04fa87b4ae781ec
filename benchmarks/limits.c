// Multiply-adds in registers and nothing else: what benchmarks/limits.py measures.

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

typedef float Vector __attribute__((vector_size(BYTES)));

#if defined(__aarch64__)
#define REGISTER "+w"
#else
#define REGISTER "+v"
#endif

// The empty instruction keeps the compiler from doing them otherwise than one by one.
#define STEP(x)   \
  x = x * a + b;  \
  __asm__ volatile("" : REGISTER(x));

// Ten sums that do not wait for each other. Returns how many multiply-adds of two numbers were done.
long multiply_adds(long rounds) {
  const Vector a = (Vector){} + 0.999f, b = (Vector){} + 0.001f;
  Vector x0 = b, x1 = b, x2 = b, x3 = b, x4 = b, x5 = b, x6 = b, x7 = b, x8 = b, x9 = b;
  for (long i = 0; i < rounds; ++i) {
    STEP(x0) STEP(x1) STEP(x2) STEP(x3) STEP(x4) STEP(x5) STEP(x6) STEP(x7) STEP(x8) STEP(x9)
  }
  return rounds * 10 * (BYTES / 4);
}
