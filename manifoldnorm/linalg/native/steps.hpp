// The steps of a program between its decompositions and products: a few numbers, or one pass over a batch of rows.
#pragma once

#include <cmath>
#include <limits>

#include "kernels.hpp"

namespace MN_ISA {

// Sums in eight strands: the order of the additions does not depend on the instruction set.
template <class T, class F> static T strands(int64_t count, F term) {
    T sum[8] = {};
    int64_t k = 0;
    for (; k + 8 <= count; k += 8)
        for (int s = 0; s < 8; ++s) sum[s] += term(k + s);
    for (; k < count; ++k) sum[k % 8] += term(k);
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

// out = number sum_b in_b
template <class T> static void sum_rows(const mn::Step& s, const T* in, T* out) {
    for (int64_t k = 0; k < s.width; ++k) out[k] = in[k];
    for (int64_t b = 1; b < s.batch; ++b)
        for (int64_t k = 0; k < s.width; ++k) out[k] += in[b * s.width + k];
    for (int64_t k = 0; k < s.width; ++k) out[k] *= static_cast<T>(s.number[0]);
}

// Ascending spectra raised to `number[0]` times their largest value, and their logarithms; false for a matrix that is
// indefinite by more than `number[1]` (kStrict: that is not positive definite), or has a NaN.
template <class T> static bool floor_log(const mn::Step& s, const T* w, T* floored, T* log) {
    for (int64_t b = 0; b < s.batch; ++b) {
        const T *row = w + b * s.width, top = row[s.width - 1];
        const T least = s.kind == mn::kStrict ? std::numeric_limits<T>::denorm_min() : -static_cast<T>(s.number[1]) * top;
        if (!(top >= 0 && row[0] >= least)) return false;
        const T lowest = std::fmax(top * static_cast<T>(s.number[0]), std::numeric_limits<T>::min());
        for (int64_t k = 0; k < s.width; ++k) {
            floored[b * s.width + k] = std::fmax(row[k], lowest);
            if (log != nullptr) log[b * s.width + k] = std::log(floored[b * s.width + k]);
        }
    }
    return true;
}

// out = f(in), of `number[0]` times in for kScale and kExp; with a factor in the second operand also of that.
template <class T> static void map(const mn::Step& s, const T* in, const T* factor, T* out) {
    const int64_t count = s.batch * s.width;
    const T by = static_cast<T>(s.number[0]) * (factor == nullptr ? T(1) : factor[0]);
    switch (s.kind) {
        case mn::kScale:
            for (int64_t k = 0; k < count; ++k) out[k] = by * in[k];
            return;
        case mn::kExp:
            for (int64_t k = 0; k < count; ++k) out[k] = std::exp(by * in[k]);
            return;
        case mn::kRoot:
            for (int64_t k = 0; k < count; ++k) out[k] = std::sqrt(in[k]);
            return;
        case mn::kInverseRoot:
            for (int64_t k = 0; k < count; ++k) out[k] = 1 / std::sqrt(in[k]);
            return;
        case mn::kFill:
            for (int64_t k = 0; k < count; ++k) out[k] = by;
            return;
    }
}

// out_b = factor (in_b - centre) + shift, any of the three absent; with `slope` also + slope rest_b.
template <class T>
static void shift(const mn::Step& s, const T* in, const T* centre, const T* factor, const T* added, T* out) {
    const T by = factor == nullptr ? T(1) : factor[0], weight = static_cast<T>(s.number[0]);
    for (int64_t b = 0; b < s.batch; ++b) {
        const T* const row = in + b * s.width;
        T* const to = out + b * s.width;
        if (centre != nullptr && added != nullptr)
            for (int64_t k = 0; k < s.width; ++k) to[k] = by * (row[k] - centre[k]) + weight * added[k];
        else if (centre != nullptr)
            for (int64_t k = 0; k < s.width; ++k) to[k] = by * (row[k] - centre[k]);
        else if (added != nullptr)
            for (int64_t k = 0; k < s.width; ++k) to[k] = by * row[k] + weight * added[k];
        else
            for (int64_t k = 0; k < s.width; ++k) to[k] = by * row[k];
    }
}

// number sum a (b - centre) c over all rows; c or the centre may be absent
template <class T> static T dot(const mn::Step& s, const T* a, const T* b, const T* centre, const T* c) {
    T sum = 0;
    for (int64_t r = 0; r < s.batch; ++r) {
        const T *x = a + r * s.width, *y = b + r * s.width, *z = c == nullptr ? nullptr : c + r * s.width;
        if (centre != nullptr)
            sum += strands<T>(s.width, [&](int64_t k) { return x[k] * (y[k] - centre[k]); });
        else if (z != nullptr)
            sum += strands<T>(s.width, [&](int64_t k) { return x[k] * y[k] * z[k]; });
        else
            sum += strands<T>(s.width, [&](int64_t k) { return x[k] * y[k]; });
    }
    return static_cast<T>(s.number[0]) * sum;
}

// number sum (in_b - centre)^2 over all rows
template <class T> static T squares(const mn::Step& s, const T* in, const T* centre) {
    T sum = 0;
    for (int64_t r = 0; r < s.batch; ++r) {
        const T* const x = in + r * s.width;
        sum += strands<T>(s.width, [&](int64_t k) {
            const T y = centre == nullptr ? x[k] : x[k] - centre[k];
            return y * y;
        });
    }
    return static_cast<T>(s.number[0]) * sum;
}

// Maps of n x n matrices onto their symmetric parts, lower halves (the diagonal halved) and transposes.
template <class T> static void rearrange(const mn::Step& s, int n, const T* in, T* out) {
    for (int64_t b = 0; b < s.batch; ++b, in += s.width, out += s.width)
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                const T here = in[i * n + j], there = in[j * n + i];
                T value = 0;
                switch (s.kind) {
                    case mn::kSymmetric: value = (here + there) / 2; break;
                    case mn::kHalfLower: value = i < j ? 0 : (here + there) / (i == j ? 4 : 2); break;
                    case mn::kOfHalfLower: value = (i < j ? there : here) / 2; break;
                    case mn::kTransposed: value = there; break;
                }
                out[i * n + j] = static_cast<T>(s.number[0]) * value;
            }
}

// The inverses of lower-triangular matrices.
template <class T> static void invert_lower(const mn::Step& s, int n, const T* in, T* out) {
    for (int64_t b = 0; b < s.batch; ++b, in += s.width, out += s.width)
        for (int i = 0; i < n; ++i) {
            T* const row = out + i * n;
            for (int j = 0; j < n; ++j) row[j] = 0;
            for (int k = 0; k < i; ++k)
                for (int j = 0; j <= k; ++j) row[j] -= in[i * n + k] * out[k * n + j];
            for (int j = 0; j < i; ++j) row[j] /= in[i * n + i];
            row[i] = 1 / in[i * n + i];
        }
}

// out = A B of single n x n matrices, or A^T B
template <class T> static void multiply(int n, bool transposed, const T* a, const T* b, T* out) {
    for (int i = 0; i < n; ++i) {
        T* const row = out + i * n;
        for (int j = 0; j < n; ++j) row[j] = 0;
        for (int k = 0; k < n; ++k) {
            const T factor = transposed ? a[k * n + i] : a[i * n + k];
            for (int j = 0; j < n; ++j) row[j] += factor * b[k * n + j];
        }
    }
}

template <class T> static bool finite(const mn::Step& s, const T* in) {
    return std::isfinite(strands<T>(s.batch * s.width, [&](int64_t k) { return 0 * in[k]; }));
}

// The weights sqrt(2 (g_i + g_j) / (g_i g_j)) and g^1/2 V^T of a decomposed mean, V^T its rows; for the bias point's
// spectrum t the kernel 1 / sqrt(2 (t_i + t_j)).
template <class T>
static void bures_weights(int n, const T* g, const T* rows, const T* target, T* weight, T* factor, T* kernel) {
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) {
            weight[i * n + j] = std::sqrt(2 * (g[i] + g[j])) / (std::sqrt(g[i]) * std::sqrt(g[j]));
            factor[i * n + j] = std::sqrt(g[i]) * rows[i * n + j];
            kernel[i * n + j] = 1 / std::sqrt(2 * (target[i] + target[j]));
        }
}

// sum += the outer products of `count` pairs of rows, `stride` apart
template <int count, class T>
static void add_outer(int n, int64_t stride, const T* left, const T* right, T* __restrict sum) {
    for (int i = 0; i < n; ++i) {
        T factor[count];
        for (int c = 0; c < count; ++c) factor[c] = left[c * stride + i];
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
        for (; b + 4 <= s.batch; b += 4) add_outer<4>(n, s.width, g + b * s.width + j * n, v + b * s.width + j * n, sum);
        for (; b < s.batch; ++b) add_outer<1>(n, s.width, g + b * s.width + j * n, v + b * s.width + j * n, sum);
        for (int i = 0; i < n; ++i)
            for (int l = 0; l < n; ++l) {
                const T x = std::sqrt(target[i] + target[j]), y = std::sqrt(target[l] + target[j]);
                const T m = scale[0] * sum[i * n + l] * static_cast<T>(-0.70710678118654752440) / (x * y * (x + y));
                out[i * n + l] += m;
                out[l * n + i] += m;
            }
    }
}

// One step; false if it failed, and with it the program.
template <class T> static bool step(const mn::Step& s) {
    const auto in = [&](int k) { return static_cast<const T*>(s.in[k]); };
    const auto out = [&](int k) { return static_cast<T*>(s.out[k]); };
    switch (s.operation) {
        case mn::kSumRows: sum_rows<T>(s, in(0), out(0)); break;
        case mn::kFloorLog: return floor_log<T>(s, in(0), out(0), out(1));
        case mn::kMap: map<T>(s, in(0), in(1), out(0)); break;
        case mn::kShift: shift<T>(s, in(0), in(1), in(2), in(3), out(0)); break;
        case mn::kDot: out(0)[0] = dot<T>(s, in(0), in(1), in(2), in(3)); break;
        case mn::kSquares: out(0)[0] = squares<T>(s, in(0), in(1)); break;
        case mn::kFactor:  // e^in1 / sqrt(in0 + number)
            out(0)[0] = (in(1) == nullptr ? 1 : std::exp(in(1)[0])) / std::sqrt(in(0)[0] + static_cast<T>(s.number[0]));
            return std::isfinite(out(0)[0]);
        case mn::kSlope:  // number[0] in0 / (in1 + number[1])
            out(0)[0] = static_cast<T>(s.number[0]) * in(0)[0] / (in(1)[0] + static_cast<T>(s.number[1]));
            break;
        case mn::kLerp:
            for (int64_t k = 0; k < s.batch * s.width; ++k) out(0)[k] = in(0)[k] + in(2)[0] * (in(1)[k] - in(0)[k]);
            break;
        case mn::kRearrange: rearrange<T>(s, s.n, in(0), out(0)); break;
        case mn::kDiagonalExp:
            for (int64_t b = 0; b < s.batch; ++b)
                for (int i = 0; i < s.n; ++i) out(0)[b * s.n + i] = std::exp(in(0)[b * s.width + i * (s.n + 1)]);
            break;
        case mn::kInvertLower: invert_lower<T>(s, s.n, in(0), out(0)); break;
        case mn::kMultiply: multiply<T>(s.n, s.kind != 0, in(0), in(1), out(0)); break;
        case mn::kRidges:  // pairs of number[0] times the trace, and number[1]
            for (int64_t b = 0; b < s.batch; ++b) {
                T trace = 0;
                for (int i = 0; i < s.n; ++i) trace += in(0)[b * s.width + i * (s.n + 1)];
                out(0)[2 * b] = static_cast<T>(s.number[0]) * trace;
                out(0)[2 * b + 1] = static_cast<T>(s.number[1]);
            }
            break;
        case mn::kBuresWeights:
            bures_weights<T>(s.n, in(0), in(1), in(2), out(0), out(1), out(2));
            break;
        case mn::kBuresGradient:
            bures_gradient<T>(s, s.n, in(0), in(1), in(2), in(3), out(1), out(0));
            break;
        case mn::kFinite: return finite<T>(s, in(0));
    }
    return true;
}

}  // namespace MN_ISA
