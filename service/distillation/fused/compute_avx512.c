/* Processors with AVX-512: vectors of 64 bytes. */
#if defined(__x86_64__)
#pragma GCC target("avx512f")
#define LANES 16
#define COMPUTE compute_with_avx512
#include "compute.h"
#endif
