// Reduction of Hermitian matrices to real tridiagonal form, and the unitary matrix that does it. A complex number is
// two vectors side by side, so that the rows of the basis are rows of twice as many real entries: what rotates and
// writes those of real matrices does the same with these.
#pragma once

#include "tridiagonal.hpp"

namespace MN_ISA {

constexpr int kPairs = kBlock / 2;  // rows of a block: half as many as for real matrices fill the registers

template <class T> struct Complex {
    typename Simd<T>::V re, im;
};

// c += a b
template <class T> MN_INLINE void add_product(Complex<T>& c, const Complex<T>& a, const Complex<T>& b) {
    c.re = fnma(a.im, b.im, fma(a.re, b.re, c.re));
    c.im = fma(a.im, b.re, fma(a.re, b.im, c.im));
}

// c += conj(a) b
template <class T> MN_INLINE void add_inner(Complex<T>& c, const Complex<T>& a, const Complex<T>& b) {
    c.re = fma(a.im, b.im, fma(a.re, b.re, c.re));
    c.im = fnma(a.im, b.re, fma(a.re, b.im, c.im));
}

// c -= a b
template <class T> MN_INLINE void subtract_product(Complex<T>& c, const Complex<T>& a, const Complex<T>& b) {
    c.re = fma(a.im, b.im, fnma(a.re, b.re, c.re));
    c.im = fnma(a.im, b.re, fnma(a.re, b.im, c.im));
}

// c -= a conj(b)
template <class T> MN_INLINE void subtract_outer(Complex<T>& c, const Complex<T>& a, const Complex<T>& b) {
    c.re = fnma(a.im, b.im, fnma(a.re, b.re, c.re));
    c.im = fnma(a.im, b.re, fma(a.re, b.im, c.im));
}

// A number of modulus one with the direction of z, and z's modulus; 1 and 0 where that is below kTiny.
template <class T> MN_INLINE Complex<T> direction(const Complex<T>& z, typename Simd<T>::V& modulus) {
    using V = typename Simd<T>::V;
    const V floor = broadcast<T>(Traits<T>::kTiny * Traits<T>::kTiny), zero{};
    const V square = fma(z.re, z.re, z.im * z.im);
    const auto vanishes = less_equal(square, floor);
    const V guarded = maximum(square, floor), inverse = rsqrt(guarded);
    modulus = select(vanishes, zero, guarded * inverse);
    return {select(vanishes, broadcast<T>(1), z.re * inverse), select(vanishes, zero, z.im * inverse)};
}

// On kRows rows from `row` on of a packed Hermitian matrix (row i holds the entries A_ji, j <= i):
// A -= v w^H + w v^H, and y += A x with the new A. One pass over A.
template <class T, int kRows, bool kUpdate>
MN_INLINE void update_rows(Complex<T>* a, const Complex<T>* v, const Complex<T>* w, const Complex<T>* x,
                           Complex<T>* y, int row) {
    Complex<T> *lines[kRows], vs[kRows], ws[kRows], xs[kRows], sum[kRows] = {};
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) {
        lines[q] = a + packed(row + q);
        vs[q] = v[row + q];
        ws[q] = w[row + q];
        xs[q] = x[row + q];
    }
    for (int j = 0; j < row; ++j) {
        const Complex<T> vj = v[j], wj = w[j], xj = x[j];
        Complex<T> total = y[j];
#pragma GCC unroll 4
        for (int q = 0; q < kRows; ++q) {
            Complex<T> entry = lines[q][j];
            if (kUpdate) {
                subtract_outer<T>(entry, vj, ws[q]);
                subtract_outer<T>(entry, wj, vs[q]);
                lines[q][j] = entry;
            }
            add_inner<T>(sum[q], entry, xj);
            add_product<T>(total, entry, xs[q]);
        }
        y[j] = total;
    }
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) {
#pragma GCC unroll 4
        for (int p = 0; p <= q; ++p) {
            Complex<T> entry = lines[q][row + p];
            if (kUpdate) {
                subtract_outer<T>(entry, vs[p], ws[q]);
                subtract_outer<T>(entry, ws[p], vs[q]);
                if (p == q) entry.im = typename Simd<T>::V{};
                lines[q][row + p] = entry;
            }
            add_inner<T>(sum[q], entry, xs[p]);
            if (p < q) add_product<T>(sum[p], entry, xs[q]);
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) y[row + q] = sum[q];
}

template <class T, bool kUpdate>
static void update(Complex<T>* a, const Complex<T>* v, const Complex<T>* w, const Complex<T>* x, Complex<T>* y,
                   int size) {
    int row = 0;
    for (; row + kPairs <= size; row += kPairs) update_rows<T, kPairs, kUpdate>(a, v, w, x, y, row);
    for (; row < size; ++row) update_rows<T, 1, kUpdate>(a, v, w, x, y, row);
}

// Turn the first `size` entries of x into the vector v of the reflection I - tau v v^H that maps them to their last
// one, `modulus` times `phase`, and return tau, which is real. A norm below kTiny is zero.
template <class T>
static typename Simd<T>::V reflection(Complex<T>* x, int size, typename Simd<T>::V& modulus, Complex<T>& phase) {
    using V = typename Simd<T>::V;
    const V floor = broadcast<T>(Traits<T>::kTiny * Traits<T>::kTiny), zero{};
    V real{}, imaginary{};
    for (int r = 0; r < size - 1; ++r) {
        real = fma(x[r].re, x[r].re, real);
        imaginary = fma(x[r].im, x[r].im, imaginary);
    }
    Complex<T>& last = x[size - 1];
    const V square = real + imaginary, whole = fma(last.re, last.re, fma(last.im, last.im, square));
    const auto vanishes = less_equal(whole, floor);
    const V guarded = maximum(whole, floor), norm = guarded * rsqrt(guarded);
    V ignored;
    const Complex<T> unit = direction<T>(last, ignored);
    last = {fma(norm, unit.re, last.re), fma(norm, unit.im, last.im)};
    modulus = select(vanishes, zero, norm);
    phase = {select(vanishes, broadcast<T>(1), -unit.re), select(vanishes, zero, -unit.im)};
    // 2 / v^H v with the v that is there: the reflection is orthogonal whatever the error of the norm
    const V length = fma(last.re, last.re, fma(last.im, last.im, square));
    return select(vanishes, zero, broadcast<T>(2) * reciprocal(length));
}

// A = Q D T D^H Q^H with real T = (d, e), e >= 0, and a diagonal D of complex numbers of modulus one. Row i of `a`
// keeps the vector v_i of the reflection H_i = I - tau_i v_i v_i^H, for i = n-1..2, and Q = H_{n-1} ... H_2. `work`
// holds 2 n complex vectors.
template <class T>
static void tridiagonalise(Complex<T>* a, typename Simd<T>::V* d, typename Simd<T>::V* e, typename Simd<T>::V* tau,
                           Complex<T>* phases, Complex<T>* work, int n) {
    using V = typename Simd<T>::V;
    Complex<T> *w = work, *y = work + n;
    phases[0] = {broadcast<T>(1), V{}};
    d[0] = a[0].re;
    if (n == 2) {
        d[1] = a[2].re;
        phases[1] = direction<T>(a[1], e[0]);
    }
    if (n > 2) {
        Complex<T>* v = a + packed(n - 1);
        d[n - 1] = v[n - 1].re;
        tau[n - 1] = reflection<T>(v, n - 1, e[n - 2], phases[n - 1]);
        update<T, false>(a, v, v, v, y, n - 1);
        for (int i = n - 1;; --i) {
            // here y = A v_i; the matrix becomes A - v w^H - w v^H
            V dot{};
            for (int r = 0; r < i; ++r) dot = fma(v[r].im, y[r].im, fma(v[r].re, y[r].re, dot));
            const V shift = static_cast<T>(0.5) * tau[i] * (tau[i] * dot);  // tau^2 may overflow
            for (int r = 0; r < i; ++r)
                w[r] = {fnma(shift, v[r].re, tau[i] * y[r].re), fnma(shift, v[r].im, tau[i] * y[r].im)};
            Complex<T>* const next = a + packed(i - 1);
            for (int r = 0; r < i; ++r) {
                subtract_outer<T>(next[r], v[r], w[i - 1]);
                subtract_outer<T>(next[r], w[r], v[i - 1]);
            }
            d[i - 1] = next[i - 1].re;
            if (i == 2) {
                phases[1] = direction<T>(next[0], e[0]);
                d[0] = fnma(w[0].im + w[0].im, v[0].im, fnma(w[0].re + w[0].re, v[0].re, a[0].re));
                break;
            }
            tau[i - 1] = reflection<T>(next, i - 1, e[i - 2], phases[i - 1]);
            update<T, true>(a, v, w, next, y, i - 1);
            v = next;
        }
    }
    for (int i = 1; i < n; ++i) {  // from the phase of each entry to that of its row and column, kept at modulus one
        const Complex<T> one = phases[i], before = phases[i - 1];
        Complex<T> product{};
        add_inner<T>(product, one, before);
        const V square = fma(product.re, product.re, product.im * product.im);
        const V factor = fnma(broadcast<T>(0.5), square, broadcast<T>(1.5));
        phases[i] = {product.re * factor, product.im * factor};
    }
}

// Two reflections at once, of lengths i and i + 1.
template <class T> struct ComplexReflections {
    const Complex<T>*first, *second;
    typename Simd<T>::V first_scale, second_scale;
    Complex<T> cross;  // second^H first

    // The factors of the two vectors for a row with these products.
    inline __attribute__((always_inline)) void factors(Complex<T>& one, Complex<T>& two) const {
        one = {first_scale * one.re, first_scale * one.im};
        subtract_product<T>(two, one, cross);
        two = {second_scale * two.re, second_scale * two.im};
    }
};

// Apply both to kRows rows, of which the first `length` = i - 1 entries are there; the next two become so.
template <class T, int kRows>
MN_INLINE void reflect(typename Simd<T>::V* rows, int stride, const ComplexReflections<T>& both, int length) {
    Complex<T>* lines[kRows];
    Complex<T> one[kRows] = {}, two[kRows] = {};
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) lines[q] = reinterpret_cast<Complex<T>*>(rows + q * stride);
    for (int r = 0; r < length; ++r) {
        const Complex<T> v = both.first[r], w = both.second[r];
#pragma GCC unroll 4
        for (int q = 0; q < kRows; ++q) {
            add_inner<T>(one[q], v, lines[q][r]);
            add_inner<T>(two[q], w, lines[q][r]);
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) both.factors(one[q], two[q]);
    for (int r = 0; r < length; ++r) {
        const Complex<T> v = both.first[r], w = both.second[r];
#pragma GCC unroll 4
        for (int q = 0; q < kRows; ++q) {
            Complex<T> entry = lines[q][r];
            subtract_product<T>(entry, one[q], v);
            subtract_product<T>(entry, two[q], w);
            lines[q][r] = entry;
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) {
        Complex<T> entry{}, last{};
        subtract_product<T>(entry, one[q], both.first[length]);
        subtract_product<T>(entry, two[q], both.second[length]);
        subtract_product<T>(last, two[q], both.second[length + 1]);
        lines[q][length] = entry;
        lines[q][length + 1] = last;
    }
}

template <class T> MN_INLINE Complex<T> conjugate(const Complex<T>& z) { return {z.re, -z.im}; }

// Row j of `rows` (n rows of n complex entries, `stride` apart) becomes column j of Q D: see the real `form_basis`.
template <class T>
static void form_basis(const Complex<T>* a, const typename Simd<T>::V* tau, const Complex<T>* phases,
                       typename Simd<T>::V* rows, int stride, int n) {
    using V = typename Simd<T>::V;
    const V zero{}, one = broadcast<T>(1);
    const auto line = [&](int j) { return reinterpret_cast<Complex<T>*>(rows + j * stride); };
    line(0)[0] = {one, zero};
    int i = 2;
    if (n > 2 && n % 2 == 1) {  // the number of reflections is odd: the first one alone
        const Complex<T>* const v = a + packed(2);
        for (int j = 0; j < 2; ++j) {
            const Complex<T> factor{tau[2] * v[j].re, -tau[2] * v[j].im};
            for (int r = 0; r < 2; ++r) {
                Complex<T> entry{r == j ? one : zero, zero};
                subtract_product<T>(entry, factor, v[r]);
                line(j)[r] = entry;
            }
        }
        i = 3;
    }
    for (; i + 1 < n; i += 2) {
        ComplexReflections<T> both{a + packed(i), a + packed(i + 1), tau[i], tau[i + 1], {zero, zero}};
        const Complex<T> *const first = both.first, *const second = both.second;
        for (int r = 0; r < i; ++r) add_inner<T>(both.cross, second[r], first[r]);
        int j = 0;
        for (; j + kBlock <= i - 1; j += kBlock) reflect<T, kBlock>(rows + j * stride, stride, both, i - 1);
        for (; j < i - 1; ++j) reflect<T, 1>(rows + j * stride, stride, both, i - 1);
        Complex<T> x = conjugate<T>(first[i - 1]), y = conjugate<T>(second[i - 1]);  // the unit vectors i - 1 and i
        both.factors(x, y);
        for (int r = 0; r <= i; ++r) {
            Complex<T> entry{r == i - 1 ? one : zero, zero};
            if (r < i) subtract_product<T>(entry, x, first[r]);
            subtract_product<T>(entry, y, second[r]);
            line(i - 1)[r] = entry;
        }
        y = {tau[i + 1] * second[i].re, -tau[i + 1] * second[i].im};
        for (int r = 0; r <= i; ++r) {
            Complex<T> entry{r == i ? one : zero, zero};
            subtract_product<T>(entry, y, second[r]);
            line(i)[r] = entry;
        }
    }
    for (int r = 0; r < n; ++r) line(n - 1)[r] = line(r)[n - 1] = {r == n - 1 ? one : zero, zero};
    for (int j = 1; j < n; ++j)
        for (int r = 0; r < n; ++r) {
            Complex<T> entry{};
            add_product<T>(entry, phases[j], line(j)[r]);
            line(j)[r] = entry;
        }
}

}  // namespace MN_ISA
