#define LANES 4
#define COMPUTE compute_with_sse
#include "compute.h"
