// The steps of a batch norm on frames, one sample after the other without leaving the cache, the decompositions some
// samples at a time; included once by each of baseline.cpp, avx2.cpp and avx512.cpp after angles.hpp and table.hpp.
#pragma once

#include "grassmann_centre.hpp"
#include "grassmann_mean.hpp"
#include "grassmann_shots.hpp"

namespace MN_ISA {

static bool grassmann(const mn::Grassmann& call, int64_t begin, int64_t end, char* memory, double* partial) {
    Space s(memory, call.p, call.m);
    if (partial != nullptr) memset(partial, 0, sizeof(double) * grassmann_sum(call.operation, call.p, call.m));
    switch (call.operation) {
        case mn::kChordal: return chordal(call, begin, end, s, partial), true;
        case mn::kDominant: return dominant(call, s, call.out[1]);
        case mn::kTangents: return tangents(call, begin, end, s, partial);
        case mn::kShot: return shot(call, s);
        case mn::kCentre: return centre(call, begin, end, s);
        case mn::kFinish: return finish(call, begin, end, s), true;
        case mn::kGradient: return gradient(call, begin, end, s, partial), true;
        case mn::kPull: return pull_back(call, begin, end, s, partial), true;
        case mn::kHessian: return hessian(call, begin, end, s, partial), true;
        case mn::kTangentsGradient: return tangents_gradient(call, begin, end, s), true;
        case mn::kShotGradient: return shot_gradient(call, s), true;
    }
    for (int64_t k = begin; k < end; ++k)
        if (!move(call, k, s)) return false;
    return true;
}

extern const mn::GrassmannKernels grassmann_kernels;
const mn::GrassmannKernels grassmann_kernels = {grassmann_memory, grassmann_sum, grassmann};

}  // namespace MN_ISA
