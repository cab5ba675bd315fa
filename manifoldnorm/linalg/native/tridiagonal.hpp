// Reduction of symmetric matrices to tridiagonal form, and the orthogonal matrix that does it.
#pragma once

#include "simd.hpp"

namespace MN_ISA {

// Where a row of a packed lower triangle starts.
MN_INLINE constexpr int packed(int row) { return row * (row + 1) / 2; }

// On kRows rows from `row` on of a packed symmetric matrix: A -= v w^T + w v^T, and y += A x with the new A. One pass
// over A, whose entries are loaded once for four operations.
template <class T, int kRows, bool kUpdate>
MN_INLINE void update_rows(typename Simd<T>::V* a, const typename Simd<T>::V* v, const typename Simd<T>::V* w,
                           const typename Simd<T>::V* x, typename Simd<T>::V* y, int row) {
    using V = typename Simd<T>::V;
    V *lines[kRows], vs[kRows], ws[kRows], xs[kRows], sum[kRows] = {};
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) {
        lines[q] = a + packed(row + q);
        vs[q] = v[row + q];
        ws[q] = w[row + q];
        xs[q] = x[row + q];
    }
    for (int j = 0; j < row; ++j) {
        const V vj = v[j], wj = w[j], xj = x[j];
        V total = y[j];
#pragma GCC unroll 4
        for (int q = 0; q < kRows; ++q) {
            V entry = lines[q][j];
            if (kUpdate) lines[q][j] = entry = fnma(ws[q], vj, fnma(vs[q], wj, entry));
            sum[q] = fma(entry, xj, sum[q]);
            total = fma(entry, xs[q], total);
        }
        y[j] = total;
    }
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) {
#pragma GCC unroll 4
        for (int p = 0; p <= q; ++p) {
            V entry = lines[q][row + p];
            if (kUpdate) lines[q][row + p] = entry = fnma(ws[q], vs[p], fnma(vs[q], ws[p], entry));
            sum[q] = fma(entry, xs[p], sum[q]);
            if (p < q) sum[p] = fma(entry, xs[q], sum[p]);
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) y[row + q] = sum[q];
}

template <class T, bool kUpdate>
static void update(typename Simd<T>::V* a, const typename Simd<T>::V* v, const typename Simd<T>::V* w,
                   const typename Simd<T>::V* x, typename Simd<T>::V* y, int size) {
    int row = 0;
    for (; row + kBlock <= size; row += kBlock) update_rows<T, kBlock, kUpdate>(a, v, w, x, y, row);
    for (; row < size; ++row) update_rows<T, 1, kUpdate>(a, v, w, x, y, row);
}

// Turn the first `size` entries of x into the vector v of the reflection I - tau v v^T that maps them to their last
// one, and return tau; `mapped` becomes that entry. The entries are of order one at most: a norm below kTiny is zero.
template <class T>
static typename Simd<T>::V reflection(typename Simd<T>::V* x, int size, typename Simd<T>::V& mapped) {
    using V = typename Simd<T>::V;
    const V floor = broadcast<T>(Traits<T>::kTiny * Traits<T>::kTiny), zero{};
    const V last = x[size - 1];
    V square{}, other{};
    int r = 0;
    for (; r + 2 < size; r += 2) {
        square = fma(x[r], x[r], square);
        other = fma(x[r + 1], x[r + 1], other);
    }
    if (r < size - 1) square = fma(x[r], x[r], square);
    square += other;
    const V whole = fma(last, last, square);
    const auto vanishes = less_equal(whole, floor);
    const V guarded = maximum(whole, floor);
    const V norm = guarded * rsqrt(guarded), signed_norm = with_sign<T>(norm, last), end = last + signed_norm;
    mapped = select(vanishes, zero, -signed_norm);
    x[size - 1] = end;
    // 2 / v^T v with the v that is there: the reflection is orthogonal whatever the error of the norm
    return select(vanishes, zero, broadcast<T>(2) * reciprocal(fma(end, end, square)));
}

// A = Q T Q^T with T = (d, e). Row i of `a` keeps the vector v_i of the reflection H_i = I - tau_i v_i v_i^T, for
// i = n-1..2, and Q = H_{n-1} ... H_2. `work` holds 2 n vectors.
template <class T>
static void tridiagonalise(typename Simd<T>::V* a, typename Simd<T>::V* d, typename Simd<T>::V* e,
                           typename Simd<T>::V* tau, typename Simd<T>::V* work, int n) {
    using V = typename Simd<T>::V;
    V *w = work, *y = work + n;
    d[0] = a[0];
    if (n == 2) {
        d[1] = a[2];
        e[0] = a[1];
    }
    if (n <= 2) return;
    V* v = a + packed(n - 1);
    d[n - 1] = v[n - 1];
    tau[n - 1] = reflection<T>(v, n - 1, e[n - 2]);
    update<T, false>(a, v, v, v, y, n - 1);
    for (int i = n - 1; i >= 2; --i) {
        // here y = A v_i; the matrix becomes A - v w^T - w v^T
        V dot{};
        for (int r = 0; r < i; ++r) dot = fma(v[r], y[r], dot);
        const V shift = static_cast<T>(0.5) * tau[i] * (tau[i] * dot);  // tau^2 may overflow
        for (int r = 0; r < i; ++r) w[r] = fnma(shift, v[r], tau[i] * y[r]);
        V* const next = a + packed(i - 1);
        for (int r = 0; r < i; ++r) next[r] = fnma(w[i - 1], v[r], fnma(v[i - 1], w[r], next[r]));
        d[i - 1] = next[i - 1];
        if (i == 2) {
            e[0] = next[0];
            d[0] = fnma(w[0] + w[0], v[0], a[0]);
            return;
        }
        tau[i - 1] = reflection<T>(next, i - 1, e[i - 2]);
        update<T, true>(a, v, w, next, y, i - 1);
        v = next;
    }
}

// Two reflections at once, of lengths i and i + 1: each of them alone would wait for memory.
template <class T> struct Reflections {
    using V = typename Simd<T>::V;
    const V *first, *second;
    V first_scale, second_scale, cross;  // cross = first . second

    // The factors of the two vectors for a row with these products.
    inline __attribute__((always_inline)) void factors(V with_first, V with_second, V& one, V& two) const {
        one = first_scale * with_first;
        two = second_scale * fnma(one, cross, with_second);
    }
};

// Apply both to kRows rows, of which the first `length` = i - 1 entries are there; the next two become so.
template <class T, int kRows>
MN_INLINE void reflect(typename Simd<T>::V* rows, int stride, const Reflections<T>& both, int length) {
    using V = typename Simd<T>::V;
    const V *const first = both.first, *const second = both.second;
    V one[kRows] = {}, two[kRows] = {};
    for (int r = 0; r < length; ++r) {
        const V v = first[r], w = second[r];
#pragma GCC unroll 4
        for (int q = 0; q < kRows; ++q) {
            one[q] = fma(rows[q * stride + r], v, one[q]);
            two[q] = fma(rows[q * stride + r], w, two[q]);
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) both.factors(one[q], two[q], one[q], two[q]);
    for (int r = 0; r < length; ++r) {
        const V v = first[r], w = second[r];
#pragma GCC unroll 4
        for (int q = 0; q < kRows; ++q)
            rows[q * stride + r] = fnma(two[q], w, fnma(one[q], v, rows[q * stride + r]));
    }
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) {
        rows[q * stride + length] = fnma(two[q], second[length], -one[q] * first[length]);
        rows[q * stride + length + 1] = -two[q] * second[length + 1];
    }
}

// Row j of `rows` (n rows, `stride` apart) becomes column j of Q. The reflections are applied in their order, so that
// H_i meets a matrix of which only the leading i - 1 rows and columns differ from the identity.
template <class T>
static void form_basis(const typename Simd<T>::V* a, const typename Simd<T>::V* tau, typename Simd<T>::V* rows,
                       int stride, int n) {
    using V = typename Simd<T>::V;
    const V zero{}, one = broadcast<T>(1);
    rows[0] = one;
    int i = 2;
    if (n > 2 && n % 2 == 1) {  // the number of reflections is odd: the first one alone
        const V *const v = a + packed(2), scale = tau[2] * v[1];
        rows[0] = fnma(tau[2] * v[0], v[0], one);
        rows[1] = rows[stride] = -scale * v[0];
        rows[stride + 1] = fnma(scale, v[1], one);
        i = 3;
    }
    for (; i + 1 < n; i += 2) {
        Reflections<T> both{a + packed(i), a + packed(i + 1), tau[i], tau[i + 1], zero};
        const V *const first = both.first, *const second = both.second;
        for (int r = 0; r < i; ++r) both.cross = fma(first[r], second[r], both.cross);
        int j = 0;
        for (; j + 4 <= i - 1; j += 4) reflect<T, 4>(rows + j * stride, stride, both, i - 1);
        for (; j < i - 1; ++j) reflect<T, 1>(rows + j * stride, stride, both, i - 1);
        V x, y, *row = rows + (i - 1) * stride;  // the unit vectors i - 1 and i
        both.factors(first[i - 1], second[i - 1], x, y);
        for (int r = 0; r < i; ++r) row[r] = fnma(y, second[r], -x * first[r]);
        row[i - 1] += one;
        row[i] = -y * second[i];
        row += stride;
        y = both.second_scale * second[i];
        for (int r = 0; r < i; ++r) row[r] = -y * second[r];
        row[i] = fnma(y, second[i], one);
    }
    V* const row = rows + (n - 1) * stride;
    for (int r = 0; r < n - 1; ++r) row[r] = rows[r * stride + n - 1] = zero;
    row[n - 1] = one;
}

}  // namespace MN_ISA
