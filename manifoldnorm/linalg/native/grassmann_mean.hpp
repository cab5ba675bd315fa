// Means of frames: the chordal one by iteration, the logarithms at a mean and the Hessian there.
#pragma once

#include "grassmann_space.hpp"

namespace MN_ISA {

// in 0: x; sum: x x^T
static void chordal(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s, Sums& sums) {
    const int p = s.p, n = s.n, ld = padded(n);
    for (int64_t k = begin; k < end; ++k) {
        const double* const x = call.in[0] + call.place(k) * n * p;
        double* const sum = sums.of(k);
        transpose(s.a, x, p, n, p);
        for (int j = 0; j < n; j += kStep) {  // strips of the lower triangle
            const int width = n - j < kStep ? n - j : kStep;
            for (int i = j; i < n; i += 6) {
                double block[6 * kStep];
                const int rows = n - i < 6 ? n - i : 6;
                columns_of<kVectors>(block, kStep, x + i * p, p, s.a + j, ld, rows, p);
                for (int r = 0; r < rows; ++r)
                    for (int c = 0; c < width; ++c) sum[(i + r) * n + j + c] += block[r * kStep + c];
            }
        }
    }
}

// Gram-Schmidt on the rows
static void orthonormal_rows(double* q, int p, int n) {
    const int ld = padded(n);
    for (int k = 0; k < p; ++k) {
        double* const row = q + k * ld;
        for (int j = 0; j < k; ++j) {
            const Vd part = broadcast(dot(q + j * ld, row, ld));
            for (int i = 0; i < ld; i += Simd<double>::W) store(row + i, fnma(part, load(q + j * ld + i), load(row + i)));
        }
        const double size = sqrt(dot(row, row, ld)), inverse = size > 0 ? 1 / size : 0;
        for (int i = 0; i < ld; ++i) row[i] *= inverse;
    }
}

// in 0: symmetric matrix (n x n, of which the lower triangle counts), 1: a frame to start from, 2: a factor of the
// matrix; out 0: a frame of the space of the p largest eigenvalues, by orthogonal iteration, 1: memory. False if that takes
// too long or it cannot be told that they are the largest. With the factor 0 the frame is the one to start from.
static bool dominant(const mn::Grassmann& call, Space& s) {
    const int p = s.p, n = s.n, ld = padded(n), small = padded(p);
    if (call.in[2][0] == 0) return memcpy(call.out[0], call.in[1], sizeof(double) * n * p), true;
    double total = 0, *const matrix = call.out[1];
    memset(matrix, 0, sizeof(double) * n * ld);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) {
            const double x = call.in[0][i * n + j] * call.in[2][0];
            matrix[i * ld + j] = matrix[j * ld + i] = x;
            total += (i == j ? 1 : 2) * x * x;
        }
    const double rounding = 0x1p-50 * sqrt(static_cast<double>(n) * p);
    double *q = s.a, *image = s.b, before = 1, residual = 1, square = 0, ratio = 1;
    transpose(q, call.in[1], p, n, p);
    orthonormal_rows(q, p, n);
    for (int step = 0; step < 40; ++step) {
        mul(image, q, ld, matrix, n, p, n);
        transpose(s.tall, q, ld, p, n);
        mul(s.small[0], image, ld, s.tall, p, p, n);  // Rayleigh's quotient
        mul(s.c, s.small[0], small, q, n, p, p);
        residual = square = 0;
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < n; ++j) {
                const double gap = image[i * ld + j] - s.c[i * ld + j];
                residual += gap * gap;
            }
        for (int i = 0; i < p; ++i) square += dot(s.small[0] + i * small, s.small[0] + i * small, small);
        residual = sqrt(residual);
        ratio = residual < before ? residual / before : 1;
        before = residual;
        orthonormal_rows(image, p, n);
        double* const spare = q;
        q = image, image = spare;
        if (!(residual * ratio > 0x1p-54 && residual > rounding)) break;
        if (step >= 6 && ratio > 0.4) return false;  // a decomposition is faster
    }
    if (!(residual * ratio <= 0x1p-54 || residual <= rounding)) return false;
    orthonormal_rows(q, p, n);
    pack(s.gram, p, s.small[0], p, p);
    const mn::Eigen values{s.gram, s.squares, s.local.right, s.status, 1, p};
    if (eigen<double, double, 1>(values, 0, 1, s.eigen) != 0) return false;
    // all other eigenvalues together are below the smallest of these
    const double others = total - square;
    if (!(s.squares[0] > 0 && others < 0.9 * s.squares[0] * s.squares[0])) return false;
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < n; ++j) call.out[0][j * p + i] = q[i * ld + j];
    return true;
}

// in 0: x, 1: base of each group; out 1..: saved, p x n off the base; sum: the logarithms in rows
static bool tangents(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s, Sums& sums) {
    const int p = s.p, n = s.n, ld = padded(n), size = p * n;
    Groups groups(call);
    for (int64_t first = begin; first < end; first += kGroup) {
        const int count = static_cast<int>(end - first < kGroup ? end - first : kGroup);
        const Saved saved = saved_out(call, 1, first, n, s.local);
        for (int k = 0; k < count; ++k) {
            if (groups.change(first + k)) frame_of(s.first, call.in[1] + groups.group * size, 1, 1, p, n);
            transpose(s.a, call.in[0] + call.place(first + k) * size, p, n, p);
            mul(s.small[0], s.a, ld, s.first[0], p, p, n);
            mul(s.b, s.small[0], padded(p), s.first[1], n, p, p);
            subtract(s.a, s.b, p * ld);
            pack(s.along + k * p * p, p, s.small[0], p, p);
            pack(saved.off + k * size, n, s.a, p, n);
        }
        if (!decompose(s, saved, count, n)) return false;
        for (int k = 0; k < count; ++k) {
            shoot_one(s.packed, s, at(saved, k, p, n), n, nullptr);
            double* const sum = sums.of(first + k);
            for (int i = 0; i < size; ++i) sum[i] += s.packed[i];
        }
    }
    return true;
}

MN_INLINE Vd x_cot_x(Vd x) {  // for 0 <= x < pi, not 0 itself
    const Vd half = sine_of(x * broadcast(0.5));
    return x * (broadcast(1.0) - broadcast(2.0) * half * half) / sine_of(x);
}

// in 0: a tangent vector (n x p) at the base of each group, 1..: saved, p x n off the base; sum: what the Hessians of half the squared
// distances make of it, in rows, but for the product from the right with the sum of V (x cot x) V^T, which stands behind
static void hessian(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s, Sums& sums) {
    const int p = s.p, n = s.n, ld = padded(n), small = padded(p);
    double *const own = s.a, *const even = s.c, *const odd = s.first[1];
    Groups groups(call);
    for (int64_t k = begin; k < end; ++k) {
        if (groups.change(k)) unpack(s.first[0], call.in[0] + groups.group * n * p, p, n, p);
        double* const sum = sums.of(k);
        const Saved saved = saved_in(call, 1, k, n);
        double *right = s.small[0], *left = s.small[1], *turned = s.small[2], *weighed = s.small[3];
        unpack(right, saved.right, p, p, p);
        unpack(left, saved.left, p, p, p);
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < p; ++j) right[i * small + j] /= saved.sine[i];
        unpack(s.a, saved.off, n, p, n);
        mul(s.b, right, small, s.a, n, p, p);  // W^T
        mul(turned, s.b, ld, s.first[0], p, p, n);
        mul(weighed, turned, small, left, p, p, p);  // W^T Y V
        double* const angles = right;  // in vectors: one row, then the kernels
        memset(angles, 0, sizeof(double) * small);
        memcpy(angles, saved.angles, sizeof(double) * p);
        for (int j = 0; j < p; j += Simd<double>::W) store(own + j, x_cot_x(load(angles + j) + broadcast(0x1p-511)));
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < small; j += Simd<double>::W) {
                const Vd row = broadcast(angles[i]), column = load(angles + j), tiny = broadcast(0x1p-511);
                const Vd gap = row - column;
                store(even + i * small + j, x_cot_x((gap < Vd{} ? -gap : gap) + tiny));
                store(odd + i * small + j, x_cot_x(row + column + tiny));
            }
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < small; ++j) {
                const double same = even[i * small + j], turn = odd[i * small + j];
                turned[i * small + j] = j < p ? ((same + turn) / 2 - own[j]) * weighed[i * small + j] +
                                                    (same - turn) / 2 * weighed[j * small + i]
                                              : 0;
            }
        transpose(weighed, left, small, p, p);
        mul(right, turned, small, weighed, p, p, p);
        add_product(sum, right, s.b, 1, s);
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < small; ++j) weighed[i * small + j] *= j < p ? own[i] : 0;
        mul(turned, left, small, weighed, p, p, p);
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < p; ++j) sum[p * n + i * p + j] += turned[i * small + j];
    }
}

// in 0: the gradient in each logarithm of a group, in rows, 1..: saved, p x n off the base, 6: bases; out 0: gradients in x,
// added to
static void tangents_gradient(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s) {
    const int p = s.p, n = s.n, ld = padded(n), size = p * n;
    Groups groups(call);
    for (int64_t k = begin; k < end; ++k) {
        if (groups.change(k)) frame_of(s.first, call.in[6] + groups.group * size, 1, 1, p, n);
        mn::Angles back = one(saved_in(call, 1, k, n), p, n, nullptr, call.in[0] + groups.group * size);
        back.out[0] = s.along, back.out[1] = s.local.off;
        velocity_backward(back, 0, s.scratch);
        unpack(s.a, s.local.off, n, p, n);
        unpack(s.small[1], s.along, p, p, p);
        mul(s.small[0], s.a, ld, s.first[0], p, p, n);
        subtract(s.small[1], s.small[0], p * padded(p));
        mul(s.b, s.small[1], padded(p), s.first[1], n, p, p);
        double* const out = call.out[0] + call.place(k) * size;
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < n; ++j) out[j * p + i] += s.a[i * ld + j] + s.b[i * ld + j];
    }
}

}  // namespace MN_ISA
