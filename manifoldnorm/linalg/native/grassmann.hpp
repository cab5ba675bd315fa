// The steps of a batch norm on frames, one sample after the other without leaving the cache, the decompositions some
// samples at a time; included once by each of baseline.cpp, avx2.cpp and avx512.cpp after angles.hpp and table.hpp.
#pragma once

#include "grassmann_centre.hpp"
#include "grassmann_mean.hpp"
#include "grassmann_shots.hpp"

namespace MN_ISA {

// The call for item k, whose operands are so far apart.
static mn::Grassmann item(const mn::Grassmann& call, int64_t k, const int64_t* in, const int64_t* out) {
    mn::Grassmann found = call;
    for (int i = 0; i < 9; ++i)
        if (found.in[i] != nullptr) found.in[i] += k * in[i];
    for (int i = 0; i < 7; ++i)
        if (found.out[i] != nullptr) found.out[i] += k * out[i];
    return found;
}

// The operations on single frames: means and geodesics.
static bool single(const mn::Grassmann& call, int64_t k, Space& s) {
    const int64_t p = s.p, m = s.m, n = s.n, size = n * p, square = p * p, angles = 2 * p + square;
    const int64_t dominant_in[9] = {n * n, size, 1}, dominant_out[7] = {size, n * padded(s.n)};
    const int64_t shot_in[9] = {size, size}, shot_out[7] = {size, size, p * m, angles, p, square, square};
    const int64_t back_in[9] = {size, p * m, angles, p, square, square, size, size}, back_out[7] = {size};
    switch (call.operation) {
        case mn::kDominant: return dominant(item(call, k, dominant_in, dominant_out), s);
        case mn::kShot: return shot(item(call, k, shot_in, shot_out), s);
        case mn::kShotGradient: return shot_gradient(item(call, k, back_in, back_out), s), true;
    }
    return move(call, k, s);
}

static bool grassmann(const mn::Grassmann& call, int64_t begin, int64_t end, char* memory, double* partial) {
    Space s(memory, call.p, call.m);
    const int64_t size = grassmann_sum(call.operation, call.p, call.m);
    Sums sum(mn::sums_by_group(call) ? call.index : nullptr, begin, partial, size);
    switch (call.operation) {
        case mn::kChordal: return chordal(call, begin, end, s, sum), true;
        case mn::kTangents: return tangents(call, begin, end, s, sum);
        case mn::kCentre: return centre(call, begin, end, s);
        case mn::kFinish: return finish(call, begin, end, s), true;
        case mn::kGradient: return gradient(call, begin, end, s, partial), true;
        case mn::kPull: return pull_back(call, begin, end, s, sum), true;
        case mn::kHessian: return hessian(call, begin, end, s, sum), true;
        case mn::kTangentsGradient: return tangents_gradient(call, begin, end, s), true;
    }
    for (int64_t k = begin; k < end; ++k)
        if (!single(call, k, s)) return false;
    return true;
}

extern const mn::GrassmannKernels grassmann_kernels;
const mn::GrassmannKernels grassmann_kernels = {grassmann_memory, grassmann_sum, grassmann};

}  // namespace MN_ISA
