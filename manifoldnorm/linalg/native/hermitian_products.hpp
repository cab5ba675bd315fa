// The fused kernels of spectral.hpp for Hermitian matrices: the same formulas, with adjoints for transposes. Operands
// that are numbers per eigenvalue or weights are real; see kernels.hpp and _fused.py.
#pragma once

#include "hermitian.hpp"
#include "kernels.hpp"
#include "spectral.hpp"

namespace MN_ISA {

constexpr int kComplexRows = 2, kComplexColumns = kCarried >= 10 ? 4 : 2;

// c += op(a) op(b), the conjugates where it is said so
template <class T, bool kLeft, bool kRight>
MN_INLINE void accumulate(Complex<T>& c, const Complex<T>& a, const Complex<T>& b) {
    if constexpr (kLeft) {
        add_inner<T>(c, a, b);
    } else if constexpr (kRight) {
        add_inner<T>(c, b, a);
    } else {
        add_product<T>(c, a, b);
    }
}

template <class T, bool kLeft, bool kRight, int R, int C>
MN_INLINE void complex_block(View<Complex<T>> a, View<Complex<T>> b, Complex<T>* out, int n, int i, int j) {
    Complex<T> sum[R][C] = {};
    const Complex<T>*left = a.data + i * a.row, *right = b.data + j * b.column;
    for (int k = 0; k < n; ++k, left += a.column, right += b.row) {
        Complex<T> x[R], y[C];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) x[r] = left[r * a.row];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) y[c] = right[c * b.column];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) accumulate<T, kLeft, kRight>(sum[r][c], x[r], y[c]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) out[(i + r) * n + j + c] = sum[r][c];
}

// out = A B with the entries of A or B conjugated; with `lower` for a Hermitian result, of which that half is formed.
template <class T, bool kLeft, bool kRight>
static void complex_product(View<Complex<T>> a, View<Complex<T>> b, Complex<T>* out, int n, bool lower) {
    constexpr int R = kComplexRows, C = kComplexColumns;
    int i = 0;
    for (; i + R <= n; i += R) {
        const int end = lower ? i + R : n;
        int j = 0;
        for (; j + C <= end; j += C) complex_block<T, kLeft, kRight, R, C>(a, b, out, n, i, j);
        for (; j < end; ++j) complex_block<T, kLeft, kRight, R, 1>(a, b, out, n, i, j);
    }
    for (; i < n; ++i) {
        const int end = lower ? i + 1 : n;
        for (int j = 0; j < end; ++j) complex_block<T, kLeft, kRight, 1, 1>(a, b, out, n, i, j);
    }
    if (!lower) return;
    for (i = 0; i < n; ++i) {
        out[i * n + i].im = typename Simd<T>::V{};
        for (int j = 0; j < i; ++j) out[j * n + i] = conjugate<T>(out[i * n + j]);
    }
}

// out = A B
template <class T> static void times(const Complex<T>* a, const Complex<T>* b, Complex<T>* out, int n) {
    complex_product<T, false, false>(plain(a, n), plain(b, n), out, n, false);
}

// out = A B^H, and with `lower` the same for a Hermitian result
template <class T>
static void times_adjoint(const Complex<T>* a, const Complex<T>* b, Complex<T>* out, int n, bool lower) {
    complex_product<T, false, true>(plain(a, n), transposed(b, n), out, n, lower);
}

// out = A^H B
template <class T>
static void adjoint_times(const Complex<T>* a, const Complex<T>* b, Complex<T>* out, int n, bool lower) {
    complex_product<T, true, false>(transposed(a, n), plain(b, n), out, n, lower);
}

template <class T> static void hermitian_part(Complex<T>* x, int n) {
    const T half = static_cast<T>(0.5);
    for (int i = 0; i < n; ++i) {
        x[i * n + i].im = typename Simd<T>::V{};
        for (int j = 0; j < i; ++j) {
            Complex<T>&one = x[i * n + j], &two = x[j * n + i];
            one = {half * (one.re + two.re), half * (one.im - two.im)};
            two = conjugate<T>(one);
        }
    }
}

// Multiply the rows by real numbers: out_ij = f_i a_ij.
template <class T>
static void scale_rows(const typename Simd<T>::V* f, const Complex<T>* a, Complex<T>* out, int n) {
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) out[i * n + j] = {f[i] * a[i * n + j].re, f[i] * a[i * n + j].im};
}

// One part of the batch for one call: its matrices in memory, and the loop over vectors of them.
template <class T> class HermitianPart {
    using V = typename Simd<T>::V;
    using C = Complex<T>;

  public:
    static constexpr int kMatrices = 8;

    HermitianPart(const mn::Fused& call, int64_t begin, int64_t end, char* memory)
        : call_(call), begin_(begin), end_(end), n_(call.n), size_(static_cast<int64_t>(call.n) * call.n) {
        C* const space = reinterpret_cast<C*>(memory);
        for (int k = 0; k < kMatrices; ++k) m_[k] = space + k * size_;
        w_ = reinterpret_cast<V*>(space + kMatrices * size_);
        f_ = w_ + n_;
        p_ = f_ + n_;
    }

    // out = A sym(X) A^H
    void congruence() {
        const Operand<T> a{in(0), call_.kind == 1};
        a.prepare(2 * size_, reals(0));
        for (int64_t first = begin_; first < end_; first += Simd<T>::W) {
            a.load(first, call_.batch, 2 * size_, reals(0));
            load_matrix(1, 1, first);
            hermitian_part<T>(m_[1], n_);
            times<T>(m_[0], m_[1], m_[2], n_);
            times_adjoint<T>(m_[2], m_[0], m_[1], n_, true);
            store_matrix(1, first);
        }
    }

    // out = K U diag(f) U^H K^H with rows U^H
    void rebuild() {
        const Operand<T> k{in(2), call_.kind == 1};
        k.prepare(2 * size_, reals(0));
        for (int64_t first = begin_; first < end_; first += Simd<T>::W) {
            k.load(first, call_.batch, 2 * size_, reals(0));
            load_matrix(1, 1, first);
            load<T>(in(0), first, call_.batch, n_, f_);
            if (k.data) times_adjoint<T>(m_[1], m_[0], m_[2], n_, false);
            const C* const basis = m_[k.data ? 2 : 1];
            scale_rows<T>(f_, basis, m_[3], n_);
            adjoint_times<T>(basis, m_[3], m_[4], n_, true);
            store_matrix(4, first);
        }
    }

    // The adjoint of the derivative of X -> K f(A X A^H) K^H: see `Adjoint` in spectral.hpp.
    void adjoint(T* colour) {
        const Operand<T> k{in(5), (call_.kind & mn::kEachK) != 0}, a{in(6), (call_.kind & mn::kEachA) != 0};
        k.prepare(2 * size_, reals(0));
        a.prepare(2 * size_, reals(1));
        C *const rows = m_[2], *const g = m_[3], *const half = m_[4], *const inner = m_[5], *const basis = m_[6];
        clear(7);
        for (int64_t first = begin_; first < end_; first += Simd<T>::W) {
            k.load(first, call_.batch, 2 * size_, reals(0));
            a.load(first, call_.batch, 2 * size_, reals(1));
            load<T>(in(0), first, call_.batch, n_, w_);
            load<T>(in(1), first, call_.batch, n_, f_);
            if (in(2)) load<T>(in(2), first, call_.batch, 1, p_);
            load_matrix(3, 2, first);
            load_matrix(4, 3, first);
            hermitian_part<T>(g, n_);
            if (k.data) times_adjoint<T>(rows, m_[0], basis, n_, false);
            const C* const coloured = k.data ? basis : rows;
            times<T>(coloured, g, half, n_);
            times_adjoint<T>(half, coloured, inner, n_, true);
            if (colour) {
                scale_rows<T>(f_, half, half, n_);
                adjoint_times<T>(half, rows, g, n_, false);
                add(3, first);
            }
            if (call_.out[1]) diagonal(inner, first);
            divide(inner);
            if (a.data) times<T>(rows, m_[1], basis, n_);
            const C* const white = a.data ? basis : rows;
            times<T>(inner, white, half, n_);
            adjoint_times<T>(white, half, g, n_, true);
            store_matrix(3, first);
        }
        if (colour) total<T>(reals(7), 2 * size_, T(2), colour);
    }

    // out = B (weight o (A sym(X) A^H)) B^H, all but X one matrix
    void sandwich() {
        repeat<T>(in(0), 2 * size_, reals(0));
        repeat<T>(in(1), size_, reals(1));
        repeat<T>(in(2), 2 * size_, reals(2));
        for (int64_t first = begin_; first < end_; first += Simd<T>::W) {
            load_matrix(3, 3, first);
            hermitian_part<T>(m_[3], n_);
            times<T>(m_[0], m_[3], m_[4], n_);
            times_adjoint<T>(m_[4], m_[0], m_[5], n_, true);
            weigh(m_[5], reals(1));
            times<T>(m_[2], m_[5], m_[4], n_);
            times_adjoint<T>(m_[4], m_[2], m_[3], n_, true);
            store_matrix(3, first);
        }
    }

    // The sum over the batch of U (D o (U^H S U)) U^H with rows U^H and real weights D, or the terms
    void sum_of_kernels(T* sum) {
        const Operand<T> s{in(0), call_.kind == 1};
        s.prepare(2 * size_, reals(0));
        clear(7);
        for (int64_t first = begin_; first < end_; first += Simd<T>::W) {
            s.load(first, call_.batch, 2 * size_, reals(0));
            load_matrix(1, 1, first);
            load<T>(in(2), first, call_.batch, size_, reals(2));
            times<T>(m_[1], m_[0], m_[3], n_);
            times_adjoint<T>(m_[3], m_[1], m_[4], n_, true);
            weigh(m_[4], reals(2));
            times<T>(m_[4], m_[1], m_[3], n_);
            adjoint_times<T>(m_[1], m_[3], m_[4], n_, true);
            if (call_.out[0])
                store_matrix(4, first);
            else
                add(4, first);
        }
        if (!call_.out[0]) total<T>(reals(7), 2 * size_, T(1), sum);
    }

  private:
    const T* in(int k) const { return static_cast<const T*>(call_.in[k]); }
    V* reals(int k) const { return reinterpret_cast<V*>(m_[k]); }

    void load_matrix(int operand, int k, int64_t first) const {
        load<T>(in(operand), first, call_.batch, 2 * size_, reals(k));
    }
    void store_matrix(int k, int64_t first) const {
        store<T>(reals(k), first, call_.batch, 2 * size_, static_cast<T*>(call_.out[0]));
    }
    void clear(int k) const {
        for (int64_t i = 0; i < 2 * size_; ++i) reals(k)[i] = V{};
    }
    void add(int k, int64_t first) const { add_lanes<T>(reals(k), 2 * size_, call_.batch - first, reals(7)); }

    void weigh(C* x, const V* weights) const {
        for (int64_t i = 0; i < size_; ++i) x[i] = {weights[i] * x[i].re, weights[i] * x[i].im};
    }

    void diagonal(const C* inner, int64_t first) const {
        V* const found = p_ + 1;
        for (int i = 0; i < n_; ++i) found[i] = inner[i * n_ + i].re;
        store<T>(found, first, call_.batch, n_, static_cast<T*>(call_.out[1]));
    }

    // Multiply by the divided differences of the function.
    void divide(C* inner) const {
        for (int i = 0; i < n_; ++i)
            for (int j = 0; j <= i; ++j) {
                const V d = divided<T>(call_.kind & mn::kFunction, w_[i], w_[j], f_[i], f_[j], in(2) ? p_[0] : V{});
                inner[i * n_ + j] = {d * inner[i * n_ + j].re, d * inner[i * n_ + j].im};
                inner[j * n_ + i] = conjugate<T>(inner[i * n_ + j]);
            }
    }

    const mn::Fused& call_;
    const int64_t begin_, end_;
    const int n_;
    const int64_t size_;
    C* m_[kMatrices];
    V *w_, *f_, *p_;
};

// Memory for one part: the matrices, three rows and a number per lane.
template <class T> static int64_t hermitian_memory(int n) {
    const int64_t vectors = 2 * HermitianPart<T>::kMatrices * static_cast<int64_t>(n) * n + 3 * n + 1;
    return vectors * static_cast<int64_t>(sizeof(typename Simd<T>::V));
}

// The operations that have a Hermitian form; dispatch.cpp lets no other through.
template <class T>
static void hermitian(const mn::Fused& call, int64_t begin, int64_t end, char* memory, void* partial) {
    HermitianPart<T> part(call, begin, end, memory);
    switch (call.operation) {
        case mn::kCongruence: return part.congruence();
        case mn::kRebuild: return part.rebuild();
        case mn::kAdjoint: return part.adjoint(static_cast<T*>(partial));
        case mn::kSandwich: return part.sandwich();
        case mn::kSumOfKernels: return part.sum_of_kernels(static_cast<T*>(partial));
    }
}

}  // namespace MN_ISA
