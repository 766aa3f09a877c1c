/* Processors with AVX2: vectors of 32 bytes. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define LANES 8
#define COMPUTE compute_with_avx2
#include "compute.h"
#endif
