// The table of kernels of one instruction set; included once by each of baseline.cpp, avx2.cpp and avx512.cpp.
#pragma once

#include "fused.hpp"
#include "hermitian_products.hpp"
#include "kernels.hpp"
#include "solve.hpp"
#include "steps.hpp"

namespace MN_ISA {

template <class T, int kParts, int G = 1> static int64_t eigen_memory(int n, bool vectors, int groups) {
    if constexpr (G < kGroups)
        if (groups > G) return eigen_memory<T, kParts, 2 * G>(n, vectors, groups);
    return Workspace<T, G, kParts>().carve(nullptr, n, vectors);
}

template <class From, class T, int kParts, int G = 1>
static int64_t eigen(const mn::Eigen& call, int64_t first, int groups, char* memory) {
    if constexpr (G < kGroups)
        if (groups > G) return eigen<From, T, kParts, 2 * G>(call, first, groups, memory);
    Workspace<T, G, kParts> space;
    space.carve(memory, call.n, call.vectors != nullptr);
    return solve<From, T, G, kParts>(static_cast<const From*>(call.matrices), static_cast<T*>(call.values),
                                     static_cast<T*>(call.vectors), call.status, first, call.batch, call.n, space);
}

extern const mn::Kernels kernels;
const mn::Kernels kernels = {
    {Simd<double>::W, Simd<float>::W, Simd<double>::W, Simd<double>::W, Simd<float>::W, Simd<double>::W},
    kGroups,
    {eigen_memory<double, 1>, eigen_memory<float, 1>, eigen_memory<double, 1>, eigen_memory<double, 2>,
     eigen_memory<float, 2>, eigen_memory<double, 2>},
    {eigen<double, double, 1>, eigen<float, float, 1>, eigen<float, double, 1>, eigen<double, double, 2>,
     eigen<float, float, 2>, eigen<float, double, 2>},
    {fused_memory<double>, fused_memory<float>, hermitian_memory<double>, hermitian_memory<float>},
    {fused<double>, fused<float>, hermitian<double>, hermitian<float>},
    {step<double>, step<float>},
};

}  // namespace MN_ISA
