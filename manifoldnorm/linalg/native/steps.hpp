// The steps of a program between its decompositions and products: a few numbers, or one pass over a batch of rows.
#pragma once

#include <cmath>
#include <limits>

#include "bures_steps.hpp"
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

// out_group = number sum_b in_b over the group's rows; times the group's share, if given
template <class T> static void sum_rows(const mn::Step& s, const T* in, const T* share, T* out) {
    for (int64_t k = 0; k < s.groups * s.width; ++k) out[k] = 0;
    for (int64_t b = 0; b < s.batch; ++b) {
        T* const to = out + (s.index == nullptr ? 0 : s.index[b]) * s.width;
        for (int64_t k = 0; k < s.width; ++k) to[k] += in[b * s.width + k];
    }
    for (int64_t d = 0; d < s.groups; ++d)
        for (int64_t k = 0; k < s.width; ++k)
            out[d * s.width + k] *= static_cast<T>(s.number[0]) * (share == nullptr ? T(1) : share[d]);
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

// out = f(in), of `number[0]` times in for kScale, kExp, kRatio (by the third operand) and kFill, and of the entry of
// the row's group in the second operand.
template <class T> static void map(const mn::Step& s, const T* in, const T* factor, const T* under, T* out) {
    for (int64_t b = 0; b < s.batch; ++b) {
        const T by = static_cast<T>(s.number[0]) * (factor == nullptr ? T(1) : factor[s.entry(b)]);
        const int64_t begin = b * s.width, end = begin + s.width;
        switch (s.kind) {
            case mn::kScale:
                for (int64_t k = begin; k < end; ++k) out[k] = by * in[k];
                break;
            case mn::kExp:
                for (int64_t k = begin; k < end; ++k) out[k] = std::exp(by * in[k]);
                break;
            case mn::kRoot:
                for (int64_t k = begin; k < end; ++k) out[k] = std::sqrt(in[k]);
                break;
            case mn::kInverseRoot:
                for (int64_t k = begin; k < end; ++k) out[k] = 1 / std::sqrt(in[k]);
                break;
            case mn::kFill:
                for (int64_t k = begin; k < end; ++k) out[k] = by;
                break;
            case mn::kRatio:
                for (int64_t k = begin; k < end; ++k) out[k] = by * in[k] / under[k];
                break;
        }
    }
}

// out_b = factor (in_b - centre) + number added, any of the three absent; the first two of the row's group, the last
// one row for all or with `kind` 1 one for each.
template <class T>
static void shift(const mn::Step& s, const T* in, const T* centres, const T* factors, const T* added, T* out) {
    const T weight = static_cast<T>(s.number[0]);
    for (int64_t b = 0; b < s.batch; ++b) {
        const T* const row = in + b * s.width;
        const T by = factors == nullptr ? T(1) : factors[s.entry(b)];
        const T* const centre = centres == nullptr ? nullptr : centres + s.entry(b) * s.width;
        const T* const more = added == nullptr || s.kind == 0 ? added : added + b * s.width;
        T* const to = out + b * s.width;
        if (centre != nullptr && more != nullptr)
            for (int64_t k = 0; k < s.width; ++k) to[k] = by * (row[k] - centre[k]) + weight * more[k];
        else if (centre != nullptr)
            for (int64_t k = 0; k < s.width; ++k) to[k] = by * (row[k] - centre[k]);
        else if (more != nullptr)
            for (int64_t k = 0; k < s.width; ++k) to[k] = by * row[k] + weight * more[k];
        else
            for (int64_t k = 0; k < s.width; ++k) to[k] = by * row[k];
    }
}

// out_group = number sum a (b - centre) c over the group's rows; c or the centre may be absent
template <class T>
static void dot(const mn::Step& s, const T* a, const T* b, const T* centres, const T* c, T* out) {
    for (int64_t d = 0; d < s.groups; ++d) out[d] = 0;
    for (int64_t r = 0; r < s.batch; ++r) {
        const T *x = a + r * s.width, *y = b + r * s.width, *z = c == nullptr ? nullptr : c + r * s.width;
        const T* const centre = centres == nullptr ? nullptr : centres + s.entry(r) * s.width;
        T& sum = out[s.entry(r)];
        if (centre != nullptr)
            sum += strands<T>(s.width, [&](int64_t k) { return x[k] * (y[k] - centre[k]); });
        else if (z != nullptr)
            sum += strands<T>(s.width, [&](int64_t k) { return x[k] * y[k] * z[k]; });
        else
            sum += strands<T>(s.width, [&](int64_t k) { return x[k] * y[k]; });
    }
    for (int64_t d = 0; d < s.groups; ++d) out[d] *= static_cast<T>(s.number[0]);
}

// out_group = number sum (in_b - centre)^2 over the group's rows; times the group's share, if given
template <class T> static void squares(const mn::Step& s, const T* in, const T* centres, const T* share, T* out) {
    for (int64_t d = 0; d < s.groups; ++d) out[d] = 0;
    for (int64_t r = 0; r < s.batch; ++r) {
        const T* const x = in + r * s.width;
        const T* const centre = centres == nullptr ? nullptr : centres + s.entry(r) * s.width;
        out[s.entry(r)] += strands<T>(s.width, [&](int64_t k) {
            const T y = centre == nullptr ? x[k] : x[k] - centre[k];
            return y * y;
        });
    }
    for (int64_t d = 0; d < s.groups; ++d)
        out[d] *= static_cast<T>(s.number[0]) * (share == nullptr ? T(1) : share[d]);
}

// The share of each row in the statistics of its group, and whether the group has at least `number[0]` rows.
template <class T> static void counts(const mn::Step& s, T* share, T* enough) {
    for (int64_t d = 0; d < s.groups; ++d) share[d] = 0;
    for (int64_t b = 0; b < s.batch; ++b) share[s.index[b]] += 1;
    for (int64_t d = 0; d < s.groups; ++d) {
        enough[d] = share[d] >= static_cast<T>(s.number[0]) ? T(1) : T(0);
        share[d] = share[d] > 0 ? 1 / share[d] : T(0);
    }
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
                    case mn::kAsItIs: value = here; break;
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

// out_b = A_b B_b of n x n matrices, or A^T B; A may be one for all
template <class T> static void multiply(const mn::Step& s, int n, const T* a, const T* b, T* out) {
    const int64_t size = static_cast<int64_t>(n) * n;
    for (int64_t m = 0; m < s.batch; ++m, out += size) {
        const T* const left = s.kind & mn::kOneA ? a : a + m * size;
        const T* const right = b + m * size;
        for (int i = 0; i < n; ++i) {
            T* const row = out + i * n;
            for (int j = 0; j < n; ++j) row[j] = 0;
            for (int k = 0; k < n; ++k) {
                const T factor = s.kind & mn::kTransposeA ? left[k * n + i] : left[i * n + k];
                for (int j = 0; j < n; ++j) row[j] += factor * right[k * n + j];
            }
        }
    }
}

template <class T> static bool finite(const mn::Step& s, const T* in) {
    return std::isfinite(strands<T>(s.batch * s.width, [&](int64_t k) { return 0 * in[k]; }));
}

// One step; false if it failed, and with it the program.
template <class T> static bool step(const mn::Step& s) {
    const auto in = [&](int k) { return static_cast<const T*>(s.in[k]); };
    const auto out = [&](int k) { return static_cast<T*>(s.out[k]); };
    switch (s.operation) {
        case mn::kSumRows: sum_rows<T>(s, in(0), in(1), out(0)); break;
        case mn::kFloorLog: return floor_log<T>(s, in(0), out(0), out(1));
        case mn::kMap: map<T>(s, in(0), in(1), in(2), out(0)); break;
        case mn::kShift: shift<T>(s, in(0), in(1), in(2), in(3), out(0)); break;
        case mn::kDot: dot<T>(s, in(0), in(1), in(2), in(3), out(0)); break;
        case mn::kSquares: squares<T>(s, in(0), in(1), in(2), out(0)); break;
        case mn::kFactor:  // e^in1 / sqrt(in0 + number)
            for (int64_t k = 0; k < s.batch * s.width; ++k) {
                const T scale = in(1) == nullptr ? T(1) : std::exp(in(1)[0]);
                out(0)[k] = scale / std::sqrt(in(0)[k] + static_cast<T>(s.number[0]));
                if (!std::isfinite(out(0)[k])) return false;
            }
            break;
        case mn::kSlope:  // number[0] in0 / (in1 + number[1])
            for (int64_t k = 0; k < s.batch * s.width; ++k)
                out(0)[k] = static_cast<T>(s.number[0]) * in(0)[k] / (in(1)[k] + static_cast<T>(s.number[1]));
            break;
        case mn::kLerp:
            for (int64_t b = 0; b < s.batch; ++b)
                for (int64_t k = b * s.width; k < (b + 1) * s.width; ++k)
                    out(0)[k] = in(0)[k] + in(2)[s.entry(b)] * (in(1)[k] - in(0)[k]);
            break;
        case mn::kCounts: counts<T>(s, out(0), out(1)); break;
        case mn::kIdentities:
            for (int64_t k = 0; k < s.batch * s.width; ++k) out(0)[k] = k % s.width % (s.n + 1) == 0;
            break;
        case mn::kSelect:  // in0 where in2 is not 0, else in1
            for (int64_t b = 0; b < s.batch; ++b)
                for (int64_t k = b * s.width; k < (b + 1) * s.width; ++k)
                    out(0)[k] = in(2)[b] != 0 ? in(0)[k] : in(1)[k];
            break;
        case mn::kGather:  // number times the entries of the rows' groups, times those of in1
            for (int64_t b = 0; b < s.batch; ++b) {
                const T by = in(1) == nullptr ? T(1) : in(1)[s.entry(b)];
                for (int64_t k = 0; k < s.width; ++k)
                    out(0)[b * s.width + k] = static_cast<T>(s.number[0]) * by * in(0)[s.entry(b) * s.width + k];
            }
            break;
        case mn::kRearrange: rearrange<T>(s, s.n, in(0), out(0)); break;
        case mn::kDiagonalExp:
            for (int64_t b = 0; b < s.batch; ++b)
                for (int i = 0; i < s.n; ++i) out(0)[b * s.n + i] = std::exp(in(0)[b * s.width + i * (s.n + 1)]);
            break;
        case mn::kInvertLower: invert_lower<T>(s, s.n, in(0), out(0)); break;
        case mn::kMultiply: multiply<T>(s, s.n, in(0), in(1), out(0)); break;
        case mn::kRidges:  // pairs of number[0] times the trace, and number[1]
            for (int64_t b = 0; b < s.batch; ++b) {
                T trace = 0;
                for (int i = 0; i < s.n; ++i) trace += in(0)[b * s.width + i * (s.n + 1)];
                out(0)[2 * b] = static_cast<T>(s.number[0]) * trace;
                out(0)[2 * b + 1] = static_cast<T>(s.number[1]);
            }
            break;
        case mn::kBuresWeights:
            bures_weights<T>(s, s.n, in(0), in(1), in(2), out(0), out(1), out(2));
            break;
        case mn::kBuresGradient:
            bures_gradient<T>(s, s.n, in(0), in(1), in(2), in(3), out(1), out(0));
            break;
        case mn::kFinite: return finite<T>(s, in(0));
    }
    return true;
}

}  // namespace MN_ISA
