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

// sum += the outer products of `count` pairs of rows, times numbers
template <int count, class T>
static void add_outer(int n, const T* const* left, const T* const* right, const T* by, T* __restrict sum) {
    for (int i = 0; i < n; ++i) {
        T factor[count];
        for (int c = 0; c < count; ++c) factor[c] = by[c] * left[c][i];
        for (int l = 0; l < n; ++l) {
            T all = sum[i * n + l];
            for (int c = 0; c < count; ++c) all += factor[c] * right[c][l];
            sum[i * n + l] = all;
        }
    }
}

// `order` becomes the rows group by group, those of a group in ascending order; `ends` where each group ends.
static inline void sort_by_group(const int64_t* index, int64_t batch, int64_t groups, int64_t* order, int64_t* ends) {
    for (int64_t d = 0; d < groups; ++d) ends[d] = 0;
    for (int64_t b = 0; b < batch; ++b) ++ends[index[b]];
    for (int64_t d = 0, begin = 0; d < groups; ++d) {
        const int64_t members = ends[d];
        ends[d] = begin;
        begin += members;
    }
    for (int64_t b = 0; b < batch; ++b) order[ends[index[b]]++] = b;
}

// The gradient of sum <G, k(t_i + t_j) o scale V> in the matrix with spectrum t, in its basis and added to `out`:
// M + M^T with M_il = sum_j k[t_i + t_j, t_l + t_j] sum_batch G_ij scale V_jl, k(x) = 1 / sqrt(2 x). With `kind` 1 each
// group has a spectrum and a gradient of its own.
template <class T>
static void bures_gradient(const mn::Step& s, int n, const T* target, const T* g, const T* v, const T* scale, T* sum,
                           T* out) {
    const int64_t groups = s.kind == 1 ? s.groups : 1;
    int64_t *const order = new int64_t[s.batch + groups], *const ends = order + s.batch;
    if (groups > 1) {
        sort_by_group(s.index, s.batch, groups, order, ends);
    } else {
        for (int64_t b = 0; b < s.batch; ++b) order[b] = b;
        ends[0] = s.batch;
    }
    for (int64_t d = 0; d < groups; ++d, target += n, out += s.width)
        for (int j = 0; j < n; ++j) {
            for (int i = 0; i < n * n; ++i) sum[i] = 0;
            const T *left[4], *right[4];
            T by[4];
            const auto take = [&](int64_t place, int c) {
                const int64_t b = order[place];
                left[c] = g + b * s.width + j * n, right[c] = v + b * s.width + j * n, by[c] = scale[s.entry(b)];
            };
            int64_t k = d == 0 ? 0 : ends[d - 1];
            for (; k + 4 <= ends[d]; k += 4) {
                for (int c = 0; c < 4; ++c) take(k + c, c);
                add_outer<4>(n, left, right, by, sum);
            }
            for (; k < ends[d]; ++k) {
                take(k, 0);
                add_outer<1>(n, left, right, by, sum);
            }
            for (int i = 0; i < n; ++i)
                for (int l = 0; l < n; ++l) {
                    const T x = std::sqrt(target[i] + target[j]), y = std::sqrt(target[l] + target[j]);
                    const T m = sum[i * n + l] * static_cast<T>(-0.70710678118654752440) / (x * y * (x + y));
                    out[i * n + l] += m;
                    out[l * n + i] += m;
                }
        }
    delete[] order;
}

}  // namespace MN_ISA
