// What a set of kernels for one instruction set offers; the only thing that dispatch.cpp sees of it.
#pragma once

#include <stdint.h>

namespace mn {

// The first three are real symmetric, the others Hermitian, with the imaginary part behind each real one in memory.
enum Kind : int {
    kDouble, kSingle, kSingleToDouble, kComplexDouble, kComplexSingle, kComplexSingleToDouble, kKinds
};

struct Eigen {
    const void* matrices;
    void *values, *vectors;  // vectors may be null
    uint8_t* status;
    int64_t batch;
    int n;
};

// The types of the fused kernels; those of Hermitian matrices are in hermitian_products.hpp.
enum Type : int { kRealDouble, kRealSingle, kHermitianDouble, kHermitianSingle, kTypes };

// One call of the fused kernels; see fused.hpp and _fused.py for the operands.
enum Operation : int {
    kCongruence, kRebuild, kAdjoint, kCholesky, kCholeskyAdjoint, kFromChart, kFromChartAdjoint, kSandwich,
    kHyperbolicWeights, kSumOfKernels, kSumOfFunctions, kSumOfInverses, kOperations
};

// The kind of kAdjoint: the function, and whether K and A are one matrix for all or one for each.
enum AdjointKind : int { kFunction = 15, kEachK = 16, kEachA = 32 };

struct Fused {
    int operation, kind, n;
    int64_t batch;
    const void* in[7];
    void* out[3];
};

struct Kernels {
    int lanes[kKinds];
    // bytes of memory that a thread needs for `groups` (1 or 2) vectors of matrices at a time
    int64_t (*eigen_memory[kKinds])(int n, bool vectors, int groups);
    // decompose the matrices from `first` on, `groups` vectors full; returns how many did not converge
    int64_t (*eigen[kKinds])(const Eigen& call, int64_t first, int groups, char* memory);
    // the same for the fused kernels, on the matrices from `begin` to `end`; `partial` receives a sum over them
    int64_t (*fused_memory[kTypes])(int n);
    void (*fused[kTypes])(const Fused& call, int64_t begin, int64_t end, char* memory, void* partial);
};

}  // namespace mn

namespace mn_baseline {
extern const mn::Kernels kernels;
}
#if defined(__x86_64__)
namespace mn_avx2 {
extern const mn::Kernels kernels;
}
namespace mn_avx512 {
extern const mn::Kernels kernels;
}
#endif
