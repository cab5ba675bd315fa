// What the kernels of batches of frames offer for one instruction set; the only thing that grassmann.cpp sees of it.
#pragma once

#include <stdint.h>

namespace mn {

enum GrassmannOperation : int {
    kChordal, kDominant, kTangents, kHessian, kShot, kCentre, kFinish, kGradient, kPull, kTangentsGradient,
    kShotGradient, kMove, kGrassmannOperations
};

// One call on `batch` frames of p vectors in p + m dimensions; see grassmann.hpp for the operands.
struct Grassmann {
    int operation, p, m;
    int64_t batch;
    const double* in[9];
    double* out[7];
    const int64_t* index;  // the group of each sample, ascending; null: all are of one
    const int64_t* order;  // where the sample stands in what the caller has (frames and their gradients), or null
    int64_t groups;

    int64_t group(int64_t k) const { return index == nullptr ? 0 : index[k]; }
    int64_t place(int64_t k) const { return order == nullptr ? k : order[k]; }
};

// Whether an operation sums over each group.
constexpr bool sums_by_group(const Grassmann& call) { return call.index != nullptr && call.operation != kGradient; }

struct GrassmannKernels {
    int64_t (*memory)(int p, int m);  // bytes of scratch memory
    // how many numbers the operation sums over the batch or over each group, into out[0]
    int64_t (*sum)(int operation, int p, int m);
    // the samples from `begin` to `end`; `partial` receives their sum, or those of their groups one behind the other;
    // false if an iteration did not end
    bool (*run)(const Grassmann& call, int64_t begin, int64_t end, char* memory, double* partial);
};

}  // namespace mn

namespace mn_baseline {
extern const mn::GrassmannKernels grassmann_kernels;
}
#if defined(__x86_64__)
namespace mn_avx2 {
extern const mn::GrassmannKernels grassmann_kernels;
}
namespace mn_avx512 {
extern const mn::GrassmannKernels grassmann_kernels;
}
#endif
