// What the Bures-Wasserstein norm does with single matrices.
#pragma once

#include <cmath>

#include "kernels.hpp"

namespace MN_ISA {

// For each decomposed mean the weights sqrt(2 (g_i + g_j) / (g_i g_j)) and g^1/2 V^T with rows V^T; for the bias
// point's spectrum t the kernel 1 / sqrt(2 (t_i + t_j)).
template <class T>
static void bures_weights(const mn::Step& s, int n, const T* g, const T* rows, const T* target, T* weight, T* factor,
                          T* kernel) {
    for (int64_t b = 0; b < s.batch; ++b, g += n)
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                const int64_t at = b * s.width + i * n + j;
                weight[at] = std::sqrt(2 * (g[i] + g[j])) / (std::sqrt(g[i]) * std::sqrt(g[j]));
                factor[at] = std::sqrt(g[i]) * rows[at];
            }
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) kernel[i * n + j] = 1 / std::sqrt(2 * (target[i] + target[j]));
}

// sum += the outer products of `count` pairs of rows, `stride` apart, times numbers
template <int count, class T>
static void add_outer(int n, int64_t stride, const T* left, const T* right, const T* by, T* __restrict sum) {
    for (int i = 0; i < n; ++i) {
        T factor[count];
        for (int c = 0; c < count; ++c) factor[c] = by[c] * left[c * stride + i];
        for (int l = 0; l < n; ++l) {
            T all = sum[i * n + l];
            for (int c = 0; c < count; ++c) all += factor[c] * right[c * stride + l];
            sum[i * n + l] = all;
        }
    }
}

// The gradient of sum <G, k(t_i + t_j) o scale V> in the matrix with spectrum t, in its basis and added to `out`:
// M + M^T with M_il = sum_j k[t_i + t_j, t_l + t_j] sum_batch G_ij scale V_jl, k(x) = 1 / sqrt(2 x).
template <class T>
static void bures_gradient(const mn::Step& s, int n, const T* target, const T* g, const T* v, const T* scale, T* sum,
                           T* out) {
    for (int j = 0; j < n; ++j) {
        for (int i = 0; i < n * n; ++i) sum[i] = 0;
        int64_t b = 0;
        for (; b + 4 <= s.batch; b += 4) {
            const T by[4] = {scale[s.entry(b)], scale[s.entry(b + 1)], scale[s.entry(b + 2)], scale[s.entry(b + 3)]};
            add_outer<4>(n, s.width, g + b * s.width + j * n, v + b * s.width + j * n, by, sum);
        }
        for (; b < s.batch; ++b)
            add_outer<1>(n, s.width, g + b * s.width + j * n, v + b * s.width + j * n, scale + s.entry(b), sum);
        for (int i = 0; i < n; ++i)
            for (int l = 0; l < n; ++l) {
                const T x = std::sqrt(target[i] + target[j]), y = std::sqrt(target[l] + target[j]);
                const T m = sum[i * n + l] * static_cast<T>(-0.70710678118654752440) / (x * y * (x + y));
                out[i * n + l] += m;
                out[l * n + i] += m;
            }
    }
}

}  // namespace MN_ISA
