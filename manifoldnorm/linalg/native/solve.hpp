// From matrices in memory to eigenvalues and eigenvectors in memory, W * G matrices at a time.
#pragma once

#include "hermitian.hpp"
#include "iterate.hpp"
#include "layout.hpp"
#include "tridiagonal.hpp"

namespace MN_ISA {

enum Status : uint8_t { kFine = 0, kNotFinite = 1, kNotConverged = 2 };
constexpr int kGraded = 1024;  // ratio of the first to the last diagonal entry from which a matrix is reversed

// Distance of rows of n entries, odd so that they spread over the cache, and not near a multiple of a page: the
// processor would mistake a load from one row for the store to the next.
MN_INLINE int spaced(int n) {
    constexpr int kPage = 4096 / kBytes, kMargin = 6;
    const int stride = n | 1, apart = stride % kPage;
    if (stride > kPage / 2 && apart > kPage - kMargin) return stride + kPage - apart + kMargin + 1;
    if (stride > kPage / 2 && apart < kMargin) return stride - apart + kMargin + 1;
    return stride;
}

// The arrays of one call, carved from one block of memory; `bytes` is known after `carve(nullptr)`.
// kParts is 2 for Hermitian matrices, whose entries are two numbers.
template <class T, int G, int kParts = 1> struct Workspace {
    using V = typename Simd<T>::V;
    int stride;
    V *packed_a, *rows[G], *rotations[G], *d, *e, *e2, *scale, *tau, *phases, *work;

    int64_t carve(char* memory, int n, bool vectors) {
        int64_t used = 0;
        auto take = [&](int64_t count) {
            V* const start = reinterpret_cast<V*>(memory + used);
            used += count * static_cast<int64_t>(sizeof(V));
            return start;
        };
        stride = spaced(kParts * n);
        packed_a = take(kParts * packed(n));
        for (int g = 0; g < G; ++g) {
            rows[g] = take(static_cast<int64_t>(n) * stride);
            rotations[g] = take(vectors ? 2 * n * kWaiting : 0);
        }
        d = take(n * G);
        e = take(n * G);
        e2 = take(n * G);
        scale = take(vectors ? n * G : 0);
        tau = take(n);
        phases = take(kParts == 2 ? 2 * n : 0);
        work = take((2 + 2 * kParts) * n);
        return used;
    }
};

// What was found out about the matrices in the lanes of a vector; the masks are all ones or zero.
template <class T> struct Found {
    typename Simd<T>::V half_scale, undo, undo_lift;  // half the scale, and the factors that undo it
    typename Simd<T>::I bad, reversed;    // not finite; rows and columns in reverse order
    bool any_reversed;
};

// Read W matrices of `size` numbers, find those that are not finite and half the power of two that brings the largest
// entry to about one. A matrix graded from large to small is to be reversed: its small eigenvalues need that.
template <class From, class T>
static Found<T> read(const From* const* matrices, typename Simd<T>::V* all, int size, int parts) {
    using V = typename Simd<T>::V;
    using I = typename Simd<T>::I;
    using Bits = Traits<T>;
    gather<From, T>(matrices, size, all);
    I largest{};
    for (int k = 0; k < size; ++k) {
        const I bits = (I)magnitude<T>(all[k]);
        largest = bits > largest ? bits : largest;
    }
    Found<T> found;
    found.bad = largest >= (I{} + Bits::kInfinity);
    found.undo_lift = broadcast<T>(1);
    const I low = largest < ((I{} + (Bits::kBias - Bits::kMaxScale)) << Bits::kMantissa);
    if (any_bit<T>(low)) {  // a first step for what one power of two does not bring to order one
        const V lift = (V)((I{} + (Bits::kBias + Bits::kLift)) << Bits::kMantissa), one = broadcast<T>(1);
        const V factor = low ? lift : one;
        largest = I{};
        for (int k = 0; k < size; ++k) {
            all[k] *= factor;
            const I bits = (I)magnitude<T>(all[k]);
            largest = bits > largest ? bits : largest;
        }
        found.undo_lift = one / factor;
    }
    const I limit = I{} + Bits::kMaxScale;
    I exponent = (largest >> Bits::kMantissa) - Bits::kBias;
    exponent = exponent > limit ? limit : exponent;
    exponent = exponent < -limit ? -limit : exponent;
    found.half_scale = (V)((Bits::kBias - 1 - exponent) << Bits::kMantissa);
    found.undo = (V)((Bits::kBias + exponent) << Bits::kMantissa);
    found.reversed = (magnitude<T>(all[0]) > magnitude<T>(all[size - parts]) * kGraded) & ~found.bad;
    found.any_reversed = any_bit<T>(found.reversed);
    return found;
}

// Pack the symmetric parts of matrices that were read; those that are not finite become zero.
template <class T>
static void pack(const typename Simd<T>::V* all, const Found<T>& found, typename Simd<T>::V* lower, int n) {
    using V = typename Simd<T>::V;
    const V half_scale = found.half_scale;
    const bool any_bad = any_bit<T>(found.bad);
    const int size = n * n;
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j <= i; ++j) {
            const int here = i * n + j, mirrored = j * n + i;
            V sum = half_scale * all[here] + half_scale * all[mirrored];
            if (found.any_reversed) {
                const V other = half_scale * all[size - 1 - here] + half_scale * all[size - 1 - mirrored];
                sum = found.reversed ? other : sum;
            }
            if (any_bad) sum = found.bad ? V{} : sum;
            lower[packed(i) + j] = sum;
        }
    }
}

// The same for the Hermitian parts. What is packed are the entries of the lower triangle, which `tridiagonalise` takes
// for those of the upper one: so the conjugate is decomposed, and its eigenvectors are the rows that are asked for.
template <class T>
static void pack(const Complex<T>* all, const Found<T>& found, Complex<T>* lower, int n) {
    using V = typename Simd<T>::V;
    const V half_scale = found.half_scale;
    const bool any_bad = any_bit<T>(found.bad);
    const int size = n * n;
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j <= i; ++j) {
            const int here = i * n + j, mirrored = j * n + i;
            Complex<T> sum{half_scale * all[here].re + half_scale * all[mirrored].re,
                           half_scale * all[here].im - half_scale * all[mirrored].im};
            if (found.any_reversed) {
                const Complex<T>&one = all[size - 1 - here], &two = all[size - 1 - mirrored];
                const V re = half_scale * one.re + half_scale * two.re, im = half_scale * one.im - half_scale * two.im;
                sum = {found.reversed ? re : sum.re, found.reversed ? im : sum.im};
            }
            if (any_bad) sum = {found.bad ? V{} : sum.re, found.bad ? V{} : sum.im};
            lower[packed(i) + j] = sum;
        }
    }
}

// The place of each of n numbers per lane in ascending order; equal numbers keep their order.
template <class T> static void rank(const typename Simd<T>::V* d, int step, typename Simd<T>::V* place, int n) {
    using V = typename Simd<T>::V;
    const V zero{}, one = broadcast<T>(1);
    for (int i = 0; i < n; ++i) place[i] = zero;
    for (int i = 1; i < n; ++i) {
        const V mine = d[i * step];
        V before = zero;
        for (int j = 0; j < i; ++j) {
            const auto later = less(mine, d[j * step]);
            place[j] += select(later, one, zero);
            before += select(later, zero, one);
        }
        place[i] = before;
    }
}

// Put the components of every eigenvector back in order where the matrix was reversed.
template <class T, int kParts>
static void restore(typename Simd<T>::V* rows, int stride, const Found<T>& found, int n) {
    for (int j = 0; j < n; ++j) {
        auto* const row = rows + j * stride;
        for (int r = 0; r < n / 2 * kParts; ++r) {
            const int opposite = (n - 1 - r / kParts) * kParts + r % kParts;
            const auto front = row[r], back = row[opposite];
            row[r] = found.reversed ? back : front;
            row[opposite] = found.reversed ? front : back;
        }
    }
}

// Give every eigenvector its factor back and divide it by its length, which the rotations have moved a few eps away from
// one. Meanwhile the memory at `out`, where W matrices of eigenvectors are to go, is brought near.
template <class T>
static void normalise(typename Simd<T>::V* rows, int stride, const typename Simd<T>::V* scale, int step, const T* out,
                      int n, int columns) {
    using V = typename Simd<T>::V;
    const V one = broadcast<T>(1), half = broadcast<T>(0.5);
    for (int j = 0; j < n; ++j) {
        V *const row = rows + j * stride, factor = scale[j * step], even{}, odd{};
        int r = 0;
        for (; r < columns; ++r) row[r] *= factor;
        for (r = 0; r + 2 <= columns; r += 2) {
            even = fma(row[r], row[r], even);
            odd = fma(row[r + 1], row[r + 1], odd);
        }
        if (r < columns) even = fma(row[r], row[r], even);
        const V excess = half * ((even - one) + odd);
        for (r = 0; r < columns; ++r, out += Simd<T>::W) {
            row[r] = fnma(excess, row[r], row[r]);
            __builtin_prefetch(out, 1);
        }
    }
}

// Hand out W decompositions in ascending order of the eigenvalues, row by row.
template <class T>
static void write(const typename Simd<T>::V* d, int step, const typename Simd<T>::V* rows, int stride,
                  const Found<T>& found, typename Simd<T>::V* place, int n, int columns, int lanes, T* values,
                  T* vectors) {
    constexpr int W = Simd<T>::W;
    rank<T>(d, step, place, n);
    const int64_t size = static_cast<int64_t>(n) * columns;
    for (int j = 0; j < n; ++j) {
        const auto value = d[j * step] * found.undo * found.undo_lift, to = place[j];
        T* row[W];
        for (int lane = 0; lane < W; ++lane) {
            const int where = static_cast<int>(to[lane]);
            if (lane < lanes) values[lane * n + where] = value[lane];
            row[lane] = vectors + lane * size + static_cast<int64_t>(where) * columns;
        }
        if (vectors) scatter<T>(rows + j * stride, columns, row, lanes);
    }
}

// Decompose the matrices first .. first + G W - 1 (as far as there are so many) and return for how many the iteration
// did not end. `vectors` may be null.
template <class From, class T, int G, int kParts>
static int64_t solve(const From* a, T* values, T* vectors, uint8_t* status, int64_t first, int64_t batch, int n,
                  Workspace<T, G, kParts>& space) {
    using V = typename Simd<T>::V;
    constexpr int W = Simd<T>::W;
    const int columns = kParts * n;
    const int64_t size = static_cast<int64_t>(n) * columns;
    Found<T> found[G];
    int lanes[G];
    for (int g = 0; g < G; ++g) {
        const int64_t base = first + static_cast<int64_t>(g) * W, left = batch - base;
        lanes[g] = left > W ? W : left < 0 ? 0 : static_cast<int>(left);
        V *d = space.work, *e = space.work + n;
        if (lanes[g] == 0) {
            for (int i = 0; i < n; ++i) space.d[i * G + g] = space.e[i * G + g] = space.e2[i * G + g] = V{};
            continue;
        }
        const From* matrices[W];
        for (int lane = 0; lane < W; ++lane)  // lanes without a matrix repeat the last one
            matrices[lane] = a + size * (lane < lanes[g] ? base + lane : batch - 1);
        found[g] = read<From, T>(matrices, space.rows[g], n * columns, kParts);
        if constexpr (kParts == 1) {
            pack<T>(space.rows[g], found[g], space.packed_a, n);
            tridiagonalise<T>(space.packed_a, d, e, space.tau, space.work + 2 * n, n);
            if (vectors) form_basis<T>(space.packed_a, space.tau, space.rows[g], space.stride, n);
        } else {
            const auto as_complex = [](V* start) { return reinterpret_cast<Complex<T>*>(start); };
            auto *const a = as_complex(space.packed_a), *const phases = as_complex(space.phases);
            pack<T>(as_complex(space.rows[g]), found[g], a, n);
            tridiagonalise<T>(a, d, e, space.tau, phases, as_complex(space.work + 2 * n), n);
            if (vectors) form_basis<T>(a, space.tau, phases, space.rows[g], space.stride, n);
        }
        for (int i = 0; i < n; ++i) {
            space.d[i * G + g] = d[i];
            space.e[i * G + g] = e[i];
        }
    }
    for (int i = 0; i < n * G; ++i) space.e2[i] = i < (n - 1) * G ? space.e[i] * space.e[i] : V{};
    Top<T> top[G], guessed[G];
    if (vectors) {
        for (int i = 0; i < n * G; ++i) space.work[i] = space.d[i];
        eigenvalues<T, G>(space.work, space.e2, guessed, n);
        eigenvectors<T, G>(space.d, space.e, space.work, space.rows, space.stride, space.scale, space.rotations, top, n,
                           columns);
    } else {
        eigenvalues<T, G>(space.d, space.e2, top, n);
    }
    const T nan = static_cast<T>(__builtin_nan(""));
    int64_t failed = 0;
    for (int g = 0; g < G; ++g) {
        if (lanes[g] == 0) continue;
        const int64_t base = first + static_cast<int64_t>(g) * W;
        T* const out = vectors ? vectors + base * size : nullptr;
        if (vectors) normalise<T>(space.rows[g], space.stride, space.scale + g, G, out, n, columns);
        if (vectors && found[g].any_reversed) restore<T, kParts>(space.rows[g], space.stride, found[g], n);
        T* const places = values + base * n;
        write<T>(space.d + g, G, space.rows[g], space.stride, found[g], space.work, n, columns, lanes[g], places, out);
        for (int lane = 0; lane < lanes[g]; ++lane) {
            const bool converged = top[g].row[lane] >= n - 1;
            status[base + lane] = found[g].bad[lane] ? kNotFinite : converged ? kFine : kNotConverged;
            failed += status[base + lane] == kNotConverged;
            if (!found[g].bad[lane]) continue;
            for (int k = 0; k < n; ++k) values[(base + lane) * n + k] = nan;
            for (int64_t k = 0; vectors && k < size; ++k) out[lane * size + k] = nan;
        }
    }
    return failed;
}

}  // namespace MN_ISA
