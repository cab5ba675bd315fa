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
    kHyperbolicWeights, kSumOfKernels, kSumOfFunctions, kSumOfInverses, kBuresMove, kBuresStep, kBuresAdjoint,
    kBuresMeanAdjoint, kProducts, kOperations
};

// The kind of kAdjoint: the function, and whether K and A are one matrix for all or one for each.
enum AdjointKind : int { kFunction = 15, kEachK = 16, kEachA = 32 };

constexpr int kInputs = 9, kOutputs = 4;

struct Fused {
    int operation, kind, n;
    int64_t batch;
    const void* in[kInputs];
    void* out[kOutputs];  // the third is a sum over the batch, of `sums` matrices
    double number;
    const int64_t* index;  // where operands differ: which of several each matrix takes; null: the one of its number
};

// Whether the operation says which matrices failed, and in which output.
constexpr int flags(int operation) {
    return operation == kCholesky ? 2 : operation == kSumOfInverses ? 0 : operation == kBuresStep ? 1 : -1;
}

// The steps of a program that are no fused kernel; see steps.hpp and _program.py for the operands.
enum StepOperation : int {
    kEigen = 32, kSumRows, kFloorLog, kMap, kShift, kDot, kSquares, kFactor, kSlope, kLerp, kRearrange, kDiagonalExp,
    kInvertLower, kMultiply, kFinite, kRidges, kBuresWeights, kBuresGradient, kCounts,
    kSelect, kGather, kIdentities, kStepOperations
};
enum FloorKind : int { kTolerant, kStrict };
enum MapKind : int { kScale, kExp, kRoot, kInverseRoot, kFill, kRatio };
enum MultiplyKind : int { kTransposeA = 1, kOneA = 2 };
enum RearrangeKind : int { kSymmetric, kHalfLower, kOfHalfLower, kTransposed, kAsItIs };

struct Step {
    int operation, kind, n;
    int64_t batch, width;  // `batch` rows of `width` numbers
    const void* in[kInputs];
    void* out[kOutputs];
    double number[2];
    const int64_t* index;  // the group of each row
    int64_t groups;

    // The entry that row `b` takes of an operand with one entry for each group.
    int64_t entry(int64_t b) const { return index != nullptr ? index[b] : groups > 1 ? b : 0; }
};

// One line of a program: its operands are places (buffer << 48 | offset in bytes), -1 for none.
struct Instruction {
    int operation, kind, n;
    int64_t batch, width;
    int64_t in[kInputs], out[kOutputs], index, groups;
    double number[2];
};

struct Kernels {
    int lanes[kKinds], groups;
    // bytes of memory that a thread needs for 1, 2, .. `groups` vectors of matrices at a time
    int64_t (*eigen_memory[kKinds])(int n, bool vectors, int groups);
    // decompose the matrices from `first` on, `groups` vectors full; returns how many did not converge
    int64_t (*eigen[kKinds])(const Eigen& call, int64_t first, int groups, char* memory);
    // the same for the fused kernels, on the matrices from `begin` to `end`; `partial` receives a sum over them
    int64_t (*fused_memory[kTypes])(int n);
    void (*fused[kTypes])(const Fused& call, int64_t begin, int64_t end, char* memory, void* partial);
    bool (*step[2])(const Step& step);  // false: it failed
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
