// Products of n x n matrices, one matrix per lane.
#pragma once

#include "simd.hpp"

namespace MN_ISA {

constexpr int kRows = 4, kColumns = kCarried >= 10 ? 4 : 2;

// A matrix and its strides: reading (i, k) of the transpose costs the same.
template <class V> struct View {
    const V* data;
    int row, column;
};

template <class V> MN_INLINE View<V> plain(const V* data, int n) { return {data, n, 1}; }
template <class V> MN_INLINE View<V> transposed(const V* data, int n) { return {data, 1, n}; }

template <class V, int R, int C>
MN_INLINE void block(View<V> a, View<V> b, V* out, int n, int i, int j) {
    V sum[R][C] = {};
    const V *left = a.data + i * a.row, *right = b.data + j * b.column;
    for (int k = 0; k < n; ++k, left += a.column, right += b.row) {
        V x[R], y[C];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) x[r] = left[r * a.row];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) y[c] = right[c * b.column];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) sum[r][c] = fma(x[r], y[c], sum[r][c]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) out[(i + r) * n + j + c] = sum[r][c];
}

// out = A B; with `lower` only the blocks that touch the lower triangle, the others mirrored: for symmetric results.
template <class V> static void product(View<V> a, View<V> b, V* out, int n, bool lower = false) {
    int i = 0;
    for (; i + kRows <= n; i += kRows) {
        const int end = lower ? i + kRows : n;
        int j = 0;
        for (; j + kColumns <= end; j += kColumns) block<V, kRows, kColumns>(a, b, out, n, i, j);
        for (; j < end; ++j) block<V, kRows, 1>(a, b, out, n, i, j);
    }
    for (; i < n; ++i) {
        const int end = lower ? i + 1 : n;
        int j = 0;
        for (; j + kColumns <= end; j += kColumns) block<V, 1, kColumns>(a, b, out, n, i, j);
        for (; j < end; ++j) block<V, 1, 1>(a, b, out, n, i, j);
    }
    if (!lower) return;
    for (i = 0; i < n; ++i)
        for (int j = 0; j < i; ++j) out[j * n + i] = out[i * n + j];
}

}  // namespace MN_ISA
