// What the kernels of principal angles offer for one instruction set; the only thing that angles.cpp sees of it.
#pragma once

#include <stdint.h>

namespace mn {

constexpr int kLargestAngles = 96;

enum AngleOperation : int {
    kBases, kShoot, kDilateBackward, kVelocityBackward, kSquareBackward, kAngleOperations
};

// One call on `batch` samples with p angles in p + m dimensions; see angles.hpp for the operands.
struct Angles {
    int operation, p, m;
    int64_t batch;
    const double* in[7];
    double* out[3];
};

struct AngleKernels {
    int64_t (*memory)(int p, int m);  // numbers of scratch memory
    void (*run)(const Angles& call, int64_t begin, int64_t end, double* memory);
};

}  // namespace mn

namespace mn_baseline {
extern const mn::AngleKernels angle_kernels;
}
#if defined(__x86_64__)
namespace mn_avx2 {
extern const mn::AngleKernels angle_kernels;
}
namespace mn_avx512 {
extern const mn::AngleKernels angle_kernels;
}
#endif
