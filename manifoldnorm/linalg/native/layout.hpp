// Between one matrix after another in memory (what torch has) and one matrix per lane (what the kernels want).
#pragma once

#include "simd.hpp"

namespace MN_ISA {

#if defined(__clang__)
#define MN_SHUFFLE(a, b, ...) (V) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MN_SHUFFLE(a, b, ...) (V) __builtin_shuffle(a, b, (I){__VA_ARGS__})
#endif

// a0 b0 a1 b1 ... from the lower halves
template <class V, class I, int W> MN_INLINE V low(V a, V b) {
    if constexpr (W == 2) return MN_SHUFFLE(a, b, 0, 2);
    if constexpr (W == 4) return MN_SHUFFLE(a, b, 0, 4, 1, 5);
    if constexpr (W == 8) return MN_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    if constexpr (W == 16) return MN_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

// the same from the upper halves
template <class V, class I, int W> MN_INLINE V high(V a, V b) {
    if constexpr (W == 2) return MN_SHUFFLE(a, b, 1, 3);
    if constexpr (W == 4) return MN_SHUFFLE(a, b, 2, 6, 3, 7);
    if constexpr (W == 8) return MN_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    if constexpr (W == 16) return MN_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// Transpose W vectors of W lanes: log2(W) perfect shuffles.
template <class T, int W> MN_INLINE void transpose(typename Simd<T, W * sizeof(T)>::V* rows) {
    using V = typename Simd<T, W * sizeof(T)>::V;
    using I = typename Simd<T, W * sizeof(T)>::I;
#pragma GCC unroll 4
    for (int round = 1; round < W; round *= 2) {
        V mixed[W];
#pragma GCC unroll 8
        for (int r = 0; r < W / 2; ++r) {
            mixed[2 * r] = low<V, I, W>(rows[r], rows[r + W / 2]);
            mixed[2 * r + 1] = high<V, I, W>(rows[r], rows[r + W / 2]);
        }
#pragma GCC unroll 16
        for (int r = 0; r < W; ++r) rows[r] = mixed[r];
    }
}

// Element k of the W arrays, each of `count` elements, becomes the vector out[k].
template <class From, class T>
static void gather(const From* const* arrays, int64_t count, typename Simd<T>::V* out) {
    constexpr int W = Simd<T>::W;
    using Source = typename Simd<From, W * sizeof(From)>::V;
    if (count < W) {
        for (int64_t k = 0; k < count; ++k)
            for (int lane = 0; lane < W; ++lane) out[k][lane] = static_cast<T>(arrays[lane][k]);
        return;
    }
    for (int64_t k = 0; k < count; k += W) {
        const int64_t start = k + W <= count ? k : count - W;  // the last chunk overlaps the one before
        Source rows[W];
#pragma GCC unroll 16
        for (int lane = 0; lane < W; ++lane) memcpy(&rows[lane], arrays[lane] + start, sizeof(Source));
        transpose<From, W>(rows);
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) out[start + j] = __builtin_convertvector(rows[j], typename Simd<T>::V);
    }
}

// The vectors in[0..count) become one array of `count` elements for each of the first `lanes` lanes.
template <class T>
static void scatter(const typename Simd<T>::V* in, int64_t count, T* const* arrays, int lanes) {
    using V = typename Simd<T>::V;
    constexpr int W = Simd<T>::W;
    if (count < W) {
        for (int64_t k = 0; k < count; ++k)
            for (int lane = 0; lane < lanes; ++lane) arrays[lane][k] = in[k][lane];
        return;
    }
    for (int64_t k = 0; k < count; k += W) {
        const int64_t start = k + W <= count ? k : count - W;
        V rows[W];
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) rows[j] = in[start + j];
        transpose<T, W>(rows);
        if (lanes == W) {
#pragma GCC unroll 16
            for (int lane = 0; lane < W; ++lane) memcpy(arrays[lane] + start, &rows[lane], sizeof(V));
        } else {
            for (int lane = 0; lane < lanes; ++lane) memcpy(arrays[lane] + start, &rows[lane], sizeof(V));
        }
    }
}

}  // namespace MN_ISA
