// Kernels for any processor: 128-bit vectors (SSE2 on x86-64, NEON on ARM, whatever the compiler makes elsewhere).
#define MN_ISA mn_baseline
#include "angles.hpp"
#include "grassmann.hpp"
#include "table.hpp"
