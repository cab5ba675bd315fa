// The fused kernels behind one function per type: a part of the batch, given by its first and last matrix.
#pragma once

#include "bures.hpp"
#include "cholesky.hpp"
#include "kernels.hpp"

namespace MN_ISA {

// Memory for one part: twelve matrices and four rows per lane.
template <class T> static int64_t fused_memory(int n) {
    return (12 * static_cast<int64_t>(n) * n + 4 * n) * static_cast<int64_t>(sizeof(typename Simd<T>::V));
}

template <class T> static void fused(const mn::Fused& call, int64_t begin, int64_t end, char* memory, void* partial) {
    const auto in = [&](int k) { return static_cast<const T*>(call.in[k]); };
    const auto out = [&](int k) { return static_cast<T*>(call.out[k]); };
    auto* const space = reinterpret_cast<typename Simd<T>::V*>(memory);
    const int n = call.n;
    const int64_t batch = call.batch;
    switch (call.operation) {
        case mn::kCongruence:
            return congruence<T>({in(0), call.kind == 1, call.index}, in(1), out(0), begin, end, batch, n, space);
        case mn::kRebuild:
            return rebuild<T>(in(0), in(1), {in(2), call.kind == 1, call.index}, out(0), begin, end, batch, n, space);
        case mn::kAdjoint: {
            const Operand<T> k{in(5), (call.kind & mn::kEachK) != 0, call.index};
            const Operand<T> a{in(6), (call.kind & mn::kEachA) != 0, call.index};
            const Adjoint<T> what{call.kind & mn::kFunction, in(0), in(1), in(2), in(3), in(4), k, a, out(0), out(1)};
            return adjoint<T>(what, begin, end, batch, n, space, static_cast<T*>(partial));
        }
        case mn::kCholesky: {
            auto* const failed = static_cast<uint8_t*>(call.out[2]);
            return cholesky<T>(in(0), out(0), out(1), failed, begin, end, batch, n, space);
        }
        case mn::kCholeskyAdjoint:
            return cholesky_adjoint<T>(in(0), in(1), call.kind != 0, out(0), begin, end, batch, n, space);
        case mn::kFromChart: return from_chart<T>(in(0), in(1), out(0), out(1), begin, end, batch, n, space);
        case mn::kFromChartAdjoint: return from_chart_adjoint<T>(in(0), in(1), out(0), begin, end, batch, n, space);
        case mn::kHyperbolicWeights: return hyperbolic_weights<T>(in(0), out(0), begin, end, batch, n, space);
        case mn::kSumOfKernels:
            return sum_of_kernels<T>({in(0), call.kind == 1, call.index}, in(1), in(2), out(0), begin, end, batch, n, space,
                                     static_cast<T*>(partial));
        case mn::kSumOfFunctions:
            return sum_of_functions<T>(in(0), in(1), begin, end, batch, n, space, static_cast<T*>(partial));
        case mn::kSumOfInverses: {
            auto* const failed = static_cast<uint8_t*>(call.out[0]);
            return sum_of_inverses<T>(in(0), in(1), failed, out(1), begin, end, batch, n, space,
                                      static_cast<T*>(partial));
        }
        case mn::kBuresMove: {
            const Means<T> m{in(2), in(3), in(4), nullptr, call.kind == 1, call.index};
            return bures_move<T>(m, in(0), in(1), out(0), begin, end, batch, n, space);
        }
        case mn::kBuresStep: {
            const Means<T> m{nullptr, nullptr, nullptr, in(4), call.kind == 1, call.index};
            auto* const failed = static_cast<uint8_t*>(call.out[1]);
            return bures_step<T>(m, {in(1), in(2), in(3)}, static_cast<T>(call.number), in(0), out(0), failed, begin, end,
                                 batch, n, space);
        }
        case mn::kBuresAdjoint: {
            const Means<T> m{nullptr, in(2), in(3), in(7), call.kind == 1, call.index};
            return bures_adjoint<T>(m, {in(4), in(5), in(6)}, in(0), in(1), out(0), out(1), out(3), begin, end, batch, n,
                                    space, static_cast<T*>(partial));
        }
        case mn::kBuresMeanAdjoint: {
            const Means<T> m{in(3), in(4), nullptr, in(2), call.kind == 1, call.index};
            return bures_mean_adjoint<T>(m, in(0), in(1), out(0), out(1), out(2), out(3), begin, end, batch, n, space,
                                         static_cast<T*>(partial));
        }
        case mn::kProducts:
            return products<T>(in(0), in(1), out(0), begin, end, batch, n, space, static_cast<T*>(partial));
        case mn::kSandwich: return sandwich<T>(in(0), in(1), in(2), in(3), out(0), begin, end, batch, n, space);
    }
}

}  // namespace MN_ISA
