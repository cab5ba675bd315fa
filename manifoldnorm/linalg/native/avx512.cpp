// Kernels for x86-64 with AVX-512; setup.py compiles this file alone with those instructions.
#if defined(__AVX512F__)
#define MN_ISA mn_avx512
#include "angles.hpp"
#include "grassmann.hpp"
#include "table.hpp"
#endif
