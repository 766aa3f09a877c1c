/* All others: vectors of 16 bytes, which every 64-bit processor has. */
#define LANES 4
#define COMPUTE compute_with_sse
#include "compute.h"
