// Application of plane rotations to the rows of eigenvectors.
#pragma once

#include "simd.hpp"

namespace MN_ISA {

// Rotate P pairs of entries, each in two fused operations, which is all that is left when the rows are kept without their
// common factors: with lower = a x and upper = b y, the rotation is (x + gain y, y - loss x) with factors (c a, c b),
// gain = s b / (c a) and loss = s a / (c b). The factors go into `scale` (`sweep`) and back into the rows (`rescale`).
template <class V, int P> MN_INLINE void rotate_pairs(V* lower, V* upper, V gain, V loss) {
#pragma GCC unroll 10
    for (int k = 0; k < P; ++k) {
        const V before = lower[k];
        lower[k] = fma(gain, upper[k], before);
        upper[k] = fnma(loss, before, upper[k]);
    }
}

template <class V, int P> MN_INLINE void copy(V* to, const V* from) {
#pragma GCC unroll 10
    for (int k = 0; k < P; ++k) to[k] = from[k];
}

// Apply the rotations i = n-2..lowest of one sweep to rows i and i+1 of a strip of P columns.
template <class V, int P>
MN_INLINE void rotate_once(V* rows, int stride, const V* rotation, int lowest, int n) {
    V lower[P], upper[P];
    V* row = rows + (n - 1) * stride;
    copy<V, P>(lower, row);
    for (int i = n - 2; i >= lowest; --i) {
        copy<V, P>(upper, row - stride);
        rotate_pairs<V, P>(lower, upper, rotation[2 * i], rotation[2 * i + 1]);
        copy<V, P>(row, lower);
        copy<V, P>(lower, upper);
        row -= stride;
    }
    copy<V, P>(row, lower);
}

// Apply two sweeps in one pass over the rows, the second a row behind the first.
template <class V, int P>
MN_INLINE void rotate_twice(V* rows, int stride, const V* first, const V* second, int lowest, int n) {
    V carried[P], middle[P], upper[P];
    V* row = rows + (n - 1) * stride;
    int i = n - 2;
    copy<V, P>(middle, row);
    copy<V, P>(carried, row - stride);
    rotate_pairs<V, P>(middle, carried, first[2 * i], first[2 * i + 1]);
    for (--i; i >= lowest; --i) {
        copy<V, P>(upper, row - 2 * stride);
        rotate_pairs<V, P>(carried, upper, first[2 * i], first[2 * i + 1]);
        rotate_pairs<V, P>(middle, carried, second[2 * i + 2], second[2 * i + 3]);
        copy<V, P>(row, middle);
        copy<V, P>(middle, carried);
        copy<V, P>(carried, upper);
        row -= stride;
    }
    rotate_pairs<V, P>(middle, carried, second[2 * lowest], second[2 * lowest + 1]);
    copy<V, P>(row, middle);
    copy<V, P>(row - stride, carried);
}

// Sweeps whose rotations wait to be applied: those of sweep k begin at 2 n k, and sweep k ends at row lowest[k].
constexpr int kWaiting = 16;
template <class V> struct Waiting {
    V* rotations;
    int lowest[kWaiting], count = 0;
};

template <class V, int P> static void rotate_strip(V* rows, int stride, const Waiting<V>& waiting, int n) {
    int k = 0;
    for (; k + 2 <= waiting.count; k += 2) {
        const V* const first = waiting.rotations + 2 * n * k;
        rotate_twice<V, P>(rows, stride, first, first + 2 * n, waiting.lowest[k], n);
    }
    if (k < waiting.count) rotate_once<V, P>(rows, stride, waiting.rotations + 2 * n * k, waiting.lowest[k], n);
}

// Apply all waiting sweeps to one strip of columns after the other, so that a strip stays in the first-level cache.
template <class V> static void rotate_strips(V* rows, int stride, Waiting<V>& waiting, int n, int columns) {
    if (waiting.count == 0) return;
    for (int k = 0; k + 1 < waiting.count; k += 2)  // the second sweep of a pair goes as far as the first
        for (int i = waiting.lowest[k]; i < waiting.lowest[k + 1]; ++i)
            waiting.rotations[2 * (n * (k + 1) + i)] = waiting.rotations[2 * (n * (k + 1) + i) + 1] = V{};
    const int fitting = 16 * 1024 / (n * kBytes);
    const int widest = fitting < 3 ? 3 : fitting > kWidest ? kWidest : fitting;
    const int strips = (columns + widest - 1) / widest;
    for (int s = 0, start = 0; s < strips; ++s) {
        const int width = (columns - start) / (strips - s);
        V* const strip = rows + start;
        switch (width) {
            case 1: rotate_strip<V, 1>(strip, stride, waiting, n); break;
            case 2: rotate_strip<V, 2>(strip, stride, waiting, n); break;
            case 3: rotate_strip<V, 3>(strip, stride, waiting, n); break;
            case 4: rotate_strip<V, 4>(strip, stride, waiting, n); break;
            case 5: rotate_strip<V, 5>(strip, stride, waiting, n); break;
            case 6: rotate_strip<V, 6>(strip, stride, waiting, n); break;
            case 7: rotate_strip<V, 7>(strip, stride, waiting, n); break;
            default: rotate_strip<V, 8>(strip, stride, waiting, n); break;
        }
        start += width;
    }
    waiting.count = 0;
}

}  // namespace MN_ISA
