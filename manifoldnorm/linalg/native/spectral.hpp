// Functions of decomposed matrices and their derivatives, with a congruence on either side, W matrices at a time.
#pragma once

#include "elementary.hpp"
#include "layout.hpp"
#include "products.hpp"

namespace MN_ISA {

// Pointers to the matrices (or rows of `size` numbers) first .. first + W - 1 of a batch; lanes beyond repeat the last.
template <class T> MN_INLINE void lanes_of(const T* data, int64_t first, int64_t batch, int64_t size, const T** lanes) {
    for (int lane = 0; lane < Simd<T>::W; ++lane) {
        const int64_t index = first + lane < batch ? first + lane : batch - 1;
        lanes[lane] = data + index * size;
    }
}

template <class T>
static void load(const T* data, int64_t first, int64_t batch, int64_t size, typename Simd<T>::V* out) {
    const T* lanes[Simd<T>::W];
    lanes_of(data, first, batch, size, lanes);
    gather<T, T>(lanes, size, out);
}

template <class T>
static void store(const typename Simd<T>::V* in, int64_t first, int64_t batch, int64_t size, T* data) {
    constexpr int W = Simd<T>::W;
    T* lanes[W];
    const int64_t left = batch - first;
    const int count = left < W ? static_cast<int>(left) : W;
    for (int lane = 0; lane < W; ++lane) lanes[lane] = data + (first + (lane < count ? lane : count - 1)) * size;
    scatter<T>(in, size, lanes, count);
}

template <class V> static void symmetrise(V* x, int n) {
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < i; ++j) x[i * n + j] = x[j * n + i] = (x[i * n + j] + x[j * n + i]) / 2;
}

// A matrix shared by the batch, once per lane.
template <class T> static void repeat(const T* matrix, int64_t size, typename Simd<T>::V* out) {
    for (int64_t k = 0; k < size; ++k) out[k] = broadcast<T>(matrix[k]);
}

// sum += x for the first `count` lanes.
template <class T>
static void add_lanes(typename Simd<T>::V* x, int64_t size, int64_t count, typename Simd<T>::V* sum) {
    for (int64_t i = 0; i < size; ++i) {
        for (int lane = count < Simd<T>::W ? static_cast<int>(count) : Simd<T>::W; lane < Simd<T>::W; ++lane)
            x[i][lane] = 0;
        sum[i] += x[i];
    }
}

template <class T> static void total(const typename Simd<T>::V* sum, int64_t size, T factor, T* out) {
    for (int64_t i = 0; i < size; ++i) {
        T all = 0;
        for (int lane = 0; lane < Simd<T>::W; ++lane) all += sum[i][lane];
        out[i] = factor * all;
    }
}

// A matrix operand of a batch: one for all, loaded once, or with `each` one for every matrix, which `index` may choose.
template <class T> struct Operand {
    const T* data;
    bool each;
    const int64_t* index = nullptr;

    void prepare(int64_t size, typename Simd<T>::V* out) const {
        if (data && !each) repeat<T>(data, size, out);
    }
    void load(int64_t first, int64_t batch, int64_t size, typename Simd<T>::V* out) const {
        if (!data || !each) return;
        if (index == nullptr) return MN_ISA::load<T>(data, first, batch, size, out);
        const T* lanes[Simd<T>::W];
        for (int lane = 0; lane < Simd<T>::W; ++lane)
            lanes[lane] = data + index[first + lane < batch ? first + lane : batch - 1] * size;
        gather<T, T>(lanes, size, out);
    }
};

// out = A sym(X) A^T
template <class T>
static void congruence(Operand<T> a, const T* x, T* out, int64_t begin, int64_t end, int64_t batch, int n,
                       typename Simd<T>::V* memory) {
    const int64_t size = static_cast<int64_t>(n) * n;
    auto *shared = memory, *from = memory + size, *half = from + size;
    a.prepare(size, shared);
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        a.load(first, batch, size, shared);
        load<T>(x, first, batch, size, from);
        symmetrise(from, n);
        product(plain(shared, n), plain(from, n), half, n);
        product(plain(half, n), transposed(shared, n), from, n, true);
        store<T>(from, first, batch, size, out);
    }
}

// out = K U diag(f) U^T K^T with rows U^T; without K it is the function itself.
template <class T>
static void rebuild(const T* f, const T* rows, Operand<T> k, T* out, int64_t begin, int64_t end, int64_t batch, int n,
                    typename Simd<T>::V* memory) {
    const int64_t size = static_cast<int64_t>(n) * n;
    auto *basis = memory, *scaled = basis + size, *result = scaled + size, *shared = result + size;
    auto* const values = shared + size;
    k.prepare(size, shared);
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        k.load(first, batch, size, shared);
        load<T>(rows, first, batch, size, k.data ? result : basis);
        load<T>(f, first, batch, n, values);
        if (k.data) product(plain(result, n), transposed(shared, n), basis, n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) scaled[i * n + j] = values[i] * basis[i * n + j];
        product(transposed(basis, n), plain(scaled, n), result, n, true);
        store<T>(result, first, batch, size, out);
    }
}

// The adjoint of the derivative of X -> K f(A X A^T) K^T applied to G, where A X A^T = U diag(w) U^T:
// out = A^T U (D o (U^T K^T sym(G) K U)) U^T A with the divided differences D. `diagonal`, if given, receives the
// diagonals of U^T K^T G K U; `colour` the sum over the batch of 2 sym(G) K U diag(f) U^T, the gradient in K.
template <class T> struct Adjoint {
    int kind;
    const T *w, *f, *p, *rows, *g;
    Operand<T> k, a;
    T *out, *diagonal;
};

template <class T>
static void adjoint(const Adjoint<T>& call, int64_t begin, int64_t end, int64_t batch, int n,
                    typename Simd<T>::V* memory, T* colour) {
    using V = typename Simd<T>::V;
    const int64_t size = static_cast<int64_t>(n) * n;
    V *rows = memory, *basis = rows + size, *g = basis + size, *half = g + size, *inner = half + size;
    V *k = inner + size, *a = k + size, *sum = a + size, *w = sum + size, *f = w + n, *p = f + n;
    call.k.prepare(size, k);
    call.a.prepare(size, a);
    if (colour)
        for (int64_t i = 0; i < size; ++i) sum[i] = V{};
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        call.k.load(first, batch, size, k);
        call.a.load(first, batch, size, a);
        load<T>(call.rows, first, batch, size, rows);
        load<T>(call.w, first, batch, n, w);
        load<T>(call.f, first, batch, n, f);
        if (call.p) load<T>(call.p, first, batch, 1, p);
        load<T>(call.g, first, batch, size, g);
        symmetrise(g, n);
        const V* coloured = rows;
        if (call.k.data) {
            product(plain(rows, n), transposed(k, n), basis, n);
            coloured = basis;
        }
        product(plain(coloured, n), plain(g, n), half, n);
        product(plain(half, n), transposed(coloured, n), inner, n, true);
        if (colour) {
            for (int i = 0; i < n; ++i)
                for (int j = 0; j < n; ++j) half[i * n + j] *= f[i];
            product(transposed(half, n), plain(rows, n), g, n);
            add_lanes<T>(g, size, batch - first, sum);
        }
        if (call.diagonal) {
            for (int i = 0; i < n; ++i) g[i] = inner[i * n + i];
            store<T>(g, first, batch, n, call.diagonal);
        }
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) {
                const V d = divided<T>(call.kind, w[i], w[j], f[i], f[j], call.p ? p[0] : V{}) * inner[i * n + j];
                inner[i * n + j] = inner[j * n + i] = d;
            }
        const V* white = rows;
        if (call.a.data) {
            product(plain(rows, n), plain(a, n), basis, n);
            white = basis;
        }
        product(plain(inner, n), plain(white, n), half, n);
        product(transposed(white, n), plain(half, n), g, n, true);
        store<T>(g, first, batch, size, call.out);
    }
    if (colour) total<T>(sum, size, T(2), colour);
}

// A B of symmetric A and of the symmetric part of B, each or their sum.
template <class T>
static void products(const T* a, const T* b, T* each, int64_t begin, int64_t end, int64_t batch, int n,
                     typename Simd<T>::V* memory, T* out) {
    const int64_t size = static_cast<int64_t>(n) * n;
    auto *left = memory, *right = left + size, *result = right + size, *sum = result + size;
    for (int64_t i = 0; i < size; ++i) sum[i] = typename Simd<T>::V{};
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        load<T>(a, first, batch, size, left);
        load<T>(b, first, batch, size, right);
        symmetrise(right, n);
        product(plain(left, n), plain(right, n), result, n);
        if (each)
            store<T>(result, first, batch, size, each);
        else
            add_lanes<T>(result, size, batch - first, sum);
    }
    if (!each) total<T>(sum, size, T(1), out);
}

// The weights d coth d, d half the difference of two numbers of a row of `logs`: the affine-invariant Hessian.
template <class T>
static void hyperbolic_weights(const T* logs, T* out, int64_t begin, int64_t end, int64_t batch, int n,
                               typename Simd<T>::V* memory) {
    const int64_t size = static_cast<int64_t>(n) * n;
    auto *result = memory, *log = memory + size;
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        load<T>(logs, first, batch, n, log);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) {
                const auto gap = magnitude<T>(log[i] - log[j]);
                result[i * n + j] = result[j * n + i] = reciprocal(decay<T>(gap)) - T(0.5) * gap;
            }
        store<T>(result, first, batch, size, out);
    }
}

// The sum over the batch of U diag(f) U^T with rows U^T.
template <class T>
static void sum_of_functions(const T* f, const T* rows, int64_t begin, int64_t end, int64_t batch, int n,
                             typename Simd<T>::V* memory, T* out) {
    const int64_t size = static_cast<int64_t>(n) * n;
    auto *basis = memory, *scaled = basis + size, *result = scaled + size, *sum = result + size, *values = sum + size;
    for (int64_t i = 0; i < size; ++i) sum[i] = typename Simd<T>::V{};
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        load<T>(rows, first, batch, size, basis);
        load<T>(f, first, batch, n, values);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) scaled[i * n + j] = values[i] * basis[i * n + j];
        product(transposed(basis, n), plain(scaled, n), result, n, true);
        add_lanes<T>(result, size, batch - first, sum);
    }
    total<T>(sum, size, T(1), out);
}

// The sum over the batch of U (D o (U^T S U)) U^T with rows U^T and symmetric weights D, for one symmetric S; with
// `each` one S for every matrix, and the terms instead of their sum.
template <class T>
static void sum_of_kernels(Operand<T> s, const T* rows, const T* weights, T* each, int64_t begin, int64_t end,
                           int64_t batch, int n, typename Simd<T>::V* memory, T* out) {
    using V = typename Simd<T>::V;
    const int64_t size = static_cast<int64_t>(n) * n;
    V *shared = memory, *basis = shared + size, *half = basis + size, *inner = half + size;
    V *weight = inner + size, *sum = weight + size;
    s.prepare(size, shared);
    for (int64_t i = 0; i < size; ++i) sum[i] = V{};
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        s.load(first, batch, size, shared);
        load<T>(rows, first, batch, size, basis);
        load<T>(weights, first, batch, size, weight);
        product(plain(basis, n), plain(shared, n), half, n);
        product(plain(half, n), transposed(basis, n), inner, n, true);
        for (int64_t i = 0; i < size; ++i) inner[i] *= weight[i];
        product(plain(inner, n), plain(basis, n), half, n);
        product(transposed(basis, n), plain(half, n), inner, n, true);
        if (each)
            store<T>(inner, first, batch, size, each);
        else
            add_lanes<T>(inner, size, batch - first, sum);
    }
    if (!each) total<T>(sum, size, T(1), out);
}

}  // namespace MN_ISA
