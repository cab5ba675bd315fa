// The Bures-Wasserstein norm between its decompositions, W matrices at a time; _fused_bures.py says what it is.
#pragma once

#include <cmath>

#include "cholesky.hpp"

namespace MN_ISA {

// What comes of the means: spectra g (n), weights (n, n) of their bases, changes C from these to the basis of the bias
// point, scales; of one mean, or with `each` of several from which `index` chooses.
template <class T> struct Means {
    const T *spectrum, *weight, *change, *scale;
    bool each;
    const int64_t* index;

    Operand<T> of(const T* data) const { return {data, each, index}; }
};

// What comes of the bias point: its basis as rows, its spectrum t (n), and the kernel of the step (n, n).
template <class T> struct Target {
    const T *basis, *spectrum, *kernel;
};

// moved = C (weight o (U diag(root) U^T - diag(g))) C^T with rows U^T.
template <class T>
static void bures_move(const Means<T>& m, const T* root, const T* rows, T* moved, int64_t begin, int64_t end,
                       int64_t batch, int n, typename Simd<T>::V* memory) {
    const int64_t size = static_cast<int64_t>(n) * n;
    auto *change = memory, *basis = change + size, *scaled = basis + size, *result = scaled + size;
    auto *weight = result + size, *values = weight + size, *spectrum = values + n;
    const auto changes = m.of(m.change), weights = m.of(m.weight), spectra = m.of(m.spectrum);
    changes.prepare(size, change);
    weights.prepare(size, weight);
    spectra.prepare(n, spectrum);
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        changes.load(first, batch, size, change);
        weights.load(first, batch, size, weight);
        spectra.load(first, batch, n, spectrum);
        load<T>(rows, first, batch, size, basis);
        load<T>(root, first, batch, n, values);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) scaled[i * n + j] = values[i] * basis[i * n + j];
        product(transposed(basis, n), plain(scaled, n), result, n, true);
        for (int i = 0; i < n; ++i) result[i * n + i] -= spectrum[i];
        for (int64_t i = 0; i < size; ++i) result[i] *= weight[i];
        product(plain(change, n), plain(result, n), scaled, n);
        product(plain(scaled, n), transposed(change, n), result, n, true);
        store<T>(result, first, batch, size, moved);
    }
}

// S = scale kernel o moved + one I
template <class T>
static void bures_shift(const Target<T>& t, const typename Simd<T>::V* moved, typename Simd<T>::V scale, int n, T one,
                        typename Simd<T>::V* step) {
    for (int i = 0; i < n * n; ++i) step[i] = (scale * t.kernel[i]) * moved[i];
    for (int i = 0; i < n; ++i) step[i * n + i] += one;
}

// out = T^T S diag(t) S T; `failed` where S - margin is not positive definite.
template <class T>
static void bures_step(const Means<T>& m, const Target<T>& t, T margin, const T* moved, T* out, uint8_t* failed,
                       int64_t begin, int64_t end, int64_t batch, int n, typename Simd<T>::V* memory) {
    const int64_t size = static_cast<int64_t>(n) * n;
    auto *basis = memory, *given = basis + size, *step = given + size, *half = step + size, *scale = half + size;
    const auto scales = m.of(m.scale);
    repeat<T>(t.basis, size, basis);
    scales.prepare(1, scale);
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        scales.load(first, batch, 1, scale);
        load<T>(moved, first, batch, size, given);
        bures_shift<T>(t, given, scale[0], n, 1 - margin, step);
        const auto bad = factorise<T>(step, n);
        for (int lane = 0; lane < Simd<T>::W && first + lane < batch; ++lane) failed[first + lane] = bad[lane] != 0;
        bures_shift<T>(t, given, scale[0], n, 1, step);
        product(plain(step, n), plain(basis, n), half, n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) step[i * n + j] = t.spectrum[i] * half[i * n + j];
        product(transposed(half, n), plain(step, n), given, n, true);
        store<T>(given, first, batch, size, out);
    }
}

// With P = (T sym(G) T^T) S and Q = P diag(t) + its transpose, the gradient in S: writes
// weight o (C^T (scale kernel o Q) C), Q itself and the sums of scale kernel o Q o moved if wanted, and the sum over
// the batch of S P.
template <class T>
static void bures_adjoint(const Means<T>& m, const Target<T>& t, const T* g, const T* moved, T* grad_root, T* grad_step,
                          T* grad_scale, int64_t begin, int64_t end, int64_t batch, int n, typename Simd<T>::V* memory,
                          T* sums) {
    using V = typename Simd<T>::V;
    const int64_t size = static_cast<int64_t>(n) * n;
    V *basis = memory, *change = basis + size, *given = change + size, *step = given + size, *turned = step + size;
    V *half = turned + size, *sum = half + size, *weight = sum + size, *scale = weight + size, *inner = scale + 1;
    const auto changes = m.of(m.change), weights = m.of(m.weight), scales = m.of(m.scale);
    repeat<T>(t.basis, size, basis);
    changes.prepare(size, change);
    weights.prepare(size, weight);
    scales.prepare(1, scale);
    for (int64_t i = 0; i < size; ++i) sum[i] = V{};
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        changes.load(first, batch, size, change);
        weights.load(first, batch, size, weight);
        scales.load(first, batch, 1, scale);
        load<T>(g, first, batch, size, given);
        symmetrise(given, n);
        product(plain(basis, n), plain(given, n), half, n);
        product(plain(half, n), transposed(basis, n), turned, n, true);
        load<T>(moved, first, batch, size, given);
        bures_shift<T>(t, given, scale[0], n, 1, step);
        product(plain(turned, n), plain(step, n), half, n);
        product(plain(step, n), plain(half, n), turned, n, true);
        add_lanes<T>(turned, size, batch - first, sum);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j)
                turned[i * n + j] = t.spectrum[j] * half[i * n + j] + t.spectrum[i] * half[j * n + i];
        if (grad_step) store<T>(turned, first, batch, size, grad_step);
        inner[0] = V{};
        for (int64_t i = 0; i < size; ++i) {
            step[i] = (scale[0] * t.kernel[i]) * turned[i];
            inner[0] += step[i] * given[i];
        }
        store<T>(inner, first, batch, 1, grad_scale);
        product(transposed(change, n), plain(step, n), half, n);
        product(plain(half, n), plain(change, n), step, n, true);
        for (int64_t i = 0; i < size; ++i) step[i] *= weight[i];
        store<T>(step, first, batch, size, grad_root);
    }
    total<T>(sum, size, T(1), sums);
}

// What the statistics add. With U = weight o (C - diag(g)), C = R^T diag(c) R with rows R, the gradient in C grows by
// slope weight o U. With G the gradient in U, H = h o G with h^2 = 2 / (g_i + g_j), P = diag(g)^1/2 and T = P^-1 C P^-1,
// a sample adds T H + H T - 2 H - P^-1 C Z C P^-1 to that of its mean, where C Z + Z C is the gradient in C: writes the
// sum, or of several means the `terms`. Writes G and the logarithms U / h for what the kernel h adds to that.
template <class T>
static void bures_mean_adjoint(const Means<T>& m, const T* c, const T* rows, T* grad_root, T* moved, T* terms, T* log,
                               int64_t begin, int64_t end, int64_t batch, int n, typename Simd<T>::V* memory, T* sums) {
    using V = typename Simd<T>::V;
    const int64_t size = static_cast<int64_t>(n) * n;
    V *basis = memory, *root = basis + size, *g = root + size, *half = g + size, *inner = half + size;
    V *sum = inner + size, *scaled = sum + size, *weight = scaled + size, *inverse = weight + size;
    V *slope = inverse + size, *values = slope + 1, *spectrum = values + n, *lengths = spectrum + n, *inverses = lengths + n;
    const auto spectra = m.of(m.spectrum), weights = m.of(m.weight), slopes = m.of(m.scale);
    const V one = broadcast<T>(1);
    // P^-1 and P, 1 / weight; 1 / h = weight o P 1 P / 2
    const auto derive = [&] {
        for (int i = 0; i < n; ++i) inverses[i] = rsqrt(spectrum[i]), lengths[i] = spectrum[i] * inverses[i];
        for (int64_t k = 0; k < size; ++k) inverse[k] = one / weight[k];
    };
    spectra.prepare(n, spectrum);
    weights.prepare(size, weight);
    slopes.prepare(1, slope);
    if (!m.each) derive();
    for (int64_t i = 0; i < size; ++i) sum[i] = V{};
    for (int64_t first = begin; first < end; first += Simd<T>::W) {
        spectra.load(first, batch, n, spectrum);
        weights.load(first, batch, size, weight);
        slopes.load(first, batch, 1, slope);
        if (m.each) derive();
        load<T>(rows, first, batch, size, basis);
        load<T>(c, first, batch, n, values);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) scaled[i * n + j] = values[i] * basis[i * n + j];
        product(transposed(basis, n), plain(scaled, n), root, n, true);
        load<T>(grad_root, first, batch, size, g);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                const int k = i * n + j;
                half[k] = weight[k] * (i == j ? root[k] - spectrum[i] : root[k]);
                g[k] += (slope[0] * weight[k]) * half[k];
                half[k] *= static_cast<T>(0.5) * weight[k] * (lengths[i] * lengths[j]);
            }
        store<T>(half, first, batch, size, log);
        store<T>(g, first, batch, size, grad_root);
        for (int64_t k = 0; k < size; ++k) half[k] = g[k] * inverse[k];
        store<T>(half, first, batch, size, moved);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                const V both = inverses[i] * inverses[j];
                half[i * n + j] *= 2 * inverse[i * n + j] * both;
                root[i * n + j] *= both;
            }
        product(plain(root, n), plain(half, n), inner, n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) scaled[i * n + j] = inner[i * n + j] + inner[j * n + i] - 2 * half[i * n + j];
        product(plain(basis, n), plain(g, n), half, n);
        product(plain(half, n), transposed(basis, n), inner, n, true);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) inner[i * n + j] *= values[i] * values[j] / (values[i] + values[j]);  // roots of positive numbers
        product(plain(inner, n), plain(basis, n), half, n);
        product(transposed(basis, n), plain(half, n), root, n, true);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) scaled[i * n + j] -= root[i * n + j] * (inverses[i] * inverses[j]);
        if (m.each)
            store<T>(scaled, first, batch, size, terms);
        else
            add_lanes<T>(scaled, size, batch - first, sum);
    }
    if (!m.each) total<T>(sum, size, T(1), sums);
}

}  // namespace MN_ISA
