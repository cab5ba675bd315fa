// Cholesky factors, the log-Cholesky chart and their adjoints, W matrices at a time.
#pragma once

#include "spectral.hpp"

namespace MN_ISA {

// The lower factor of the symmetric part, in place. Returns the lanes whose matrix is not positive definite.
template <class T> static typename Simd<T>::I factorise(typename Simd<T>::V* a, int n) {
    using V = typename Simd<T>::V;
    using I = typename Simd<T>::I;
    I failed{};
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < i; ++j) a[i * n + j] = T(0.5) * (a[i * n + j] + a[j * n + i]);
    for (int j = 0; j < n; ++j) {
        V* const mine = a + j * n;
        V pivot = mine[j];
        for (int k = 0; k < j; ++k) pivot = fnma(mine[k], mine[k], pivot);
        failed |= ~(I)(pivot > V{});
        const V inverse = rsqrt(pivot);
        mine[j] = pivot * inverse;
        int i = j + 1;
        for (; i + 4 <= n; i += 4) {
            V* const other = a + i * n;
            V s0 = other[j], s1 = other[n + j], s2 = other[2 * n + j], s3 = other[3 * n + j];
            for (int k = 0; k < j; ++k) {
                const V x = mine[k];
                s0 = fnma(other[k], x, s0);
                s1 = fnma(other[n + k], x, s1);
                s2 = fnma(other[2 * n + k], x, s2);
                s3 = fnma(other[3 * n + k], x, s3);
            }
            other[j] = s0 * inverse;
            other[n + j] = s1 * inverse;
            other[2 * n + j] = s2 * inverse;
            other[3 * n + j] = s3 * inverse;
        }
        for (; i < n; ++i) {
            V sum = a[i * n + j];
            for (int k = 0; k < j; ++k) sum = fnma(a[i * n + k], mine[k], sum);
            a[i * n + j] = sum * inverse;
        }
        for (int k = j + 1; k < n; ++k) mine[k] = V{};
    }
    return failed;
}

// The factor, and with `chart` also its strictly lower part with the logarithm of the diagonal.
template <class T>
static void cholesky(const T* x, T* factor, T* chart, uint8_t* failed, int64_t begin, int64_t end, int64_t batch, int n,
                     typename Simd<T>::V* memory) {
    using V = typename Simd<T>::V;
    const int64_t size = static_cast<int64_t>(n) * n;
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        load<T>(x, first, batch, size, memory);
        const auto bad = factorise<T>(memory, n);
        for (int lane = 0; lane < Simd<T>::W && first + lane < batch; ++lane) failed[first + lane] = bad[lane] != 0;
        store<T>(memory, first, batch, size, factor);
        if (!chart) continue;
        for (int i = 0; i < n; ++i) {
            V log;
            log_difference<T>(memory[i * n + i], broadcast<T>(1), &log);
            memory[i * n + i] = log;
        }
        store<T>(memory, first, batch, size, chart);
    }
}

// x = L^-T x for the n columns of x.
template <class V> static void solve_transposed(const V* factor, V* x, int n) {
    for (int i = n - 1; i >= 0; --i) {
        const V inverse = 1 / factor[i * n + i];
        for (int j = 0; j < n; j += 4) {
            const int width = n - j < 4 ? n - j : 4;
            V sum[4];
            for (int c = 0; c < width; ++c) sum[c] = x[i * n + j + c];
            if (width == 4) {
                for (int k = i + 1; k < n; ++k) {
                    const V f = factor[k * n + i];
                    const V* const other = x + k * n + j;
#pragma GCC unroll 4
                    for (int c = 0; c < 4; ++c) sum[c] = fnma(f, other[c], sum[c]);
                }
            } else {
                for (int k = i + 1; k < n; ++k)
                    for (int c = 0; c < width; ++c) sum[c] = fnma(factor[k * n + i], x[k * n + j + c], sum[c]);
            }
            for (int c = 0; c < width; ++c) x[i * n + j + c] = sum[c] * inverse;
        }
    }
}

// The sum over the batch of weights (X + ridge)^-1, or with `each` these terms, and which matrices have no factor;
// ridges and weights are in `parts`.
template <class T>
static void sum_of_inverses(const T* x, const T* parts, uint8_t* failed, T* each, int64_t begin, int64_t end,
                            int64_t batch, int n, typename Simd<T>::V* memory, T* out) {
    using V = typename Simd<T>::V;
    const int64_t size = static_cast<int64_t>(n) * n;
    V *factor = memory, *inverse = factor + size, *result = inverse + size, *sum = result + size, *part = sum + size;
    for (int64_t i = 0; i < size; ++i) sum[i] = V{};
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        load<T>(x, first, batch, size, factor);
        load<T>(parts, first, batch, 2, part);
        for (int i = 0; i < n; ++i) factor[i * n + i] += part[0];
        const auto bad = factorise<T>(factor, n);
        for (int lane = 0; lane < Simd<T>::W && first + lane < batch; ++lane) failed[first + lane] = bad[lane] != 0;
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) inverse[i * n + j] = i == j ? broadcast<T>(1) : V{};
        solve_transposed(factor, inverse, n);
        product(plain(inverse, n), transposed(inverse, n), result, n, true);
        for (int64_t i = 0; i < size; ++i) result[i] *= part[1];
        if (each)
            store<T>(result, first, batch, size, each);
        else
            add_lanes<T>(result, size, batch - first, sum);
    }
    if (!each) total<T>(sum, size, T(1), out);
}

// The gradient in X of the factor (`chart` false) or of the chart: L^-T half(L^T g) L^-1, symmetrised.
template <class T>
static void cholesky_adjoint(const T* factor, const T* g, bool chart, T* out, int64_t begin, int64_t end, int64_t batch,
                             int n, typename Simd<T>::V* memory) {
    using V = typename Simd<T>::V;
    const int64_t size = static_cast<int64_t>(n) * n;
    V *l = memory, *from = l + size, *inner = from + size;
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        load<T>(factor, first, batch, size, l);
        load<T>(g, first, batch, size, from);
        for (int i = 0; i < n; ++i) {
            for (int j = i + 1; j < n; ++j) from[i * n + j] = V{};
            if (chart) from[i * n + i] /= l[i * n + i];
        }
        product(transposed(l, n), plain(from, n), inner, n);
        for (int i = 0; i < n; ++i) {
            inner[i * n + i] *= T(0.5);
            for (int j = 0; j < i; ++j) inner[j * n + i] = inner[i * n + j] = T(0.5) * inner[i * n + j];
        }
        solve_transposed(l, inner, n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) from[j * n + i] = inner[i * n + j];
        solve_transposed(l, from, n);
        store<T>(from, first, batch, size, out);
    }
}

// P = K K^T for the factor K with the given chart; the exponentials of the diagonal are an argument.
template <class T>
static void from_chart(const T* chart, const T* diagonal, T* factor, T* out, int64_t begin, int64_t end, int64_t batch,
                       int n, typename Simd<T>::V* memory) {
    using V = typename Simd<T>::V;
    const int64_t size = static_cast<int64_t>(n) * n;
    V *k = memory, *result = k + size, *d = result + size;
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        load<T>(chart, first, batch, size, k);
        load<T>(diagonal, first, batch, n, d);
        for (int i = 0; i < n; ++i) {
            k[i * n + i] = d[i];
            for (int j = i + 1; j < n; ++j) k[i * n + j] = V{};
        }
        store<T>(k, first, batch, size, factor);
        product(plain(k, n), transposed(k, n), result, n, true);
        store<T>(result, first, batch, size, out);
    }
}

// The gradient in the chart: the lower part of (G + G^T) K, its diagonal times that of K.
template <class T>
static void from_chart_adjoint(const T* factor, const T* g, T* out, int64_t begin, int64_t end, int64_t batch, int n,
                               typename Simd<T>::V* memory) {
    using V = typename Simd<T>::V;
    const int64_t size = static_cast<int64_t>(n) * n;
    V *k = memory, *from = k + size, *result = from + size;
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        load<T>(factor, first, batch, size, k);
        load<T>(g, first, batch, size, from);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) from[i * n + j] = from[j * n + i] = from[i * n + j] + from[j * n + i];
        product(plain(from, n), plain(k, n), result, n);
        for (int i = 0; i < n; ++i) {
            result[i * n + i] *= k[i * n + i];
            for (int j = i + 1; j < n; ++j) result[i * n + j] = V{};
        }
        store<T>(result, first, batch, size, out);
    }
}

// out = B (D o (A sym(X) A^T)) B^T, all but X one matrix for the batch.
template <class T>
static void sandwich(const T* a, const T* d, const T* b, const T* x, T* out, int64_t begin, int64_t end, int64_t batch,
                     int n, typename Simd<T>::V* memory) {
    const int64_t size = static_cast<int64_t>(n) * n;
    auto *left = memory, *right = left + size, *weight = right + size, *from = weight + size, *half = from + size;
    repeat<T>(a, size, left);
    repeat<T>(d, size, weight);
    repeat<T>(b, size, right);
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        load<T>(x, first, batch, size, from);
        symmetrise(from, n);
        product(plain(left, n), plain(from, n), half, n);
        product(plain(half, n), transposed(left, n), from, n, true);
        for (int64_t k = 0; k < size; ++k) from[k] *= weight[k];
        product(plain(right, n), plain(from, n), half, n);
        product(plain(half, n), transposed(right, n), from, n, true);
        store<T>(from, first, batch, size, out);
    }
}

}  // namespace MN_ISA
