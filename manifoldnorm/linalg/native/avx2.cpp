// Kernels for x86-64 with AVX2 and FMA; setup.py compiles this file alone with those instructions.
#if defined(__AVX2__)
#define MN_ISA mn_avx2
#include "angles.hpp"
#include "grassmann.hpp"
#include "table.hpp"
#endif
