// QL iterations on tridiagonal matrices, one per lane, G vectors of lanes at a time: the recurrences wait for their own
// results, so independent ones share the machine.
//
// Every lane deflates at its own top row `top` and every sweep runs from the bottom row up, the same for all lanes. The
// explicit QL recurrence restarts by itself where an off-diagonal entry vanishes and leaves rows above `top` alone,
// because the entry that couples them is an exact zero; so no lane influences another, and none needs a bottom.
#pragma once

#include "rotate.hpp"

namespace MN_ISA {

// The top of each lane: rows above are finished. `tries` counts the sweeps since the top moved.
template <class T> struct Top {
    using V = typename Simd<T>::V;
    V row{}, tries = V{} - 1, shift{};
    int lowest = 0;  // of all lanes
};

// Move `top` past negligible off-diagonal entries and choose the next shift: the guessed eigenvalue for two sweeps,
// Wilkinson's shift afterwards.
template <class T, bool kSquared>
static void advance(Top<T>& top, const typename Simd<T>::V* d, typename Simd<T>::V* e, int step,
                    const typename Simd<T>::V* guess, int n) {
    using V = typename Simd<T>::V;
    const V zero{}, one = broadcast<T>(1), drop = broadcast<T>(Traits<T>::kDrop);
    V row = top.row, tries = top.tries + one, d0 = zero, d1 = zero, e0 = zero, near = zero;
    auto waiting = less(row, broadcast<T>(n - 1));
    int first = n - 1;
    for (int i = top.lowest; i < n - 1 && any(waiting); ++i) {
        const V index = broadcast<T>(i), entry = e[i * step];
        const auto here = both(waiting, equal(row, index));
        const V scale = magnitude<T>(d[i * step]) + magnitude<T>(d[(i + 1) * step]);
        const V bound = fma(broadcast<T>(Traits<T>::kEps), scale, drop);
        const auto small = less_equal(kSquared ? entry : magnitude<T>(entry), kSquared ? bound * bound : bound);
        const auto negligible = both(here, small), stays = without(here, small);
        row = select(negligible, row + one, row);
        tries = select(negligible, zero, tries);
        e[i * step] = select(negligible, zero, entry);
        d0 = select(stays, d[i * step], d0);
        d1 = select(stays, d[(i + 1) * step], d1);
        e0 = select(stays, entry, e0);
        if (guess) near = select(stays, guess[i * step], near);
        waiting = without(waiting, stays);
        if (any(stays) && i < first) first = i;
    }
    top.row = row;
    top.tries = tries;
    top.lowest = first;
    top.shift = zero;  // leaves finished lanes as they are, should the other group go on
    if (first == n - 1) return;
    const V square = kSquared ? e0 : e0 * e0, half = static_cast<T>(0.5) * (d1 - d0);
    const V radius_squared = maximum(fma(half, half, square), broadcast<T>(Traits<T>::kTiny * Traits<T>::kTiny));
    const V radius = radius_squared * rsqrt(radius_squared);
    const V wilkinson = d0 - square * reciprocal(with_sign<T>(radius + magnitude<T>(half), half));
    top.shift = guess ? select(less(tries, broadcast<T>(2)), near, wilkinson) : wilkinson;
}

// Sweeps for n eigenvalues after which a matrix counts as failed; two for each are usual.
MN_INLINE constexpr int most_sweeps(int n) { return 30 * n; }

// Eigenvalues only: the square-root-free iteration of Pal, Walker and Kahan on d and the squares of e. A lane whose
// top stays above the last row has failed.
template <class T, int G>
static void eigenvalues(typename Simd<T>::V* d, typename Simd<T>::V* e2, Top<T>* top, int n) {
    using V = typename Simd<T>::V;
    const V zero{}, one = broadcast<T>(1), floor = broadcast<T>(Traits<T>::kTiny * Traits<T>::kTiny);
    for (int sweep = 0; sweep < most_sweeps(n); ++sweep) {
        int lowest = n - 1;
        for (int g = 0; g < G; ++g) {
            advance<T, true>(top[g], d + g, e2 + g, G, nullptr, n);
            lowest = top[g].lowest < lowest ? top[g].lowest : lowest;
        }
        if (lowest == n - 1) return;
        V cosine[G], sine[G], gamma[G], p[G], shift[G], above[G];
        MN_GROUPS {
            shift[g] = top[g].shift;
            above[g] = top[g].row;
            cosine[g] = one;
            sine[g] = zero;
            gamma[g] = d[(n - 1) * G + g] - shift[g];
            p[g] = fma(gamma[g], gamma[g], floor);
        }
        for (int i = n - 2; i >= lowest; --i) {
            const V index = broadcast<T>(i + 1);
            MN_GROUPS {
                const V square = e2[i * G + g], r = p[g] + square, inverse = reciprocal(r), ratio = r / p[g];
                e2[(i + 1) * G + g] = sine[g] * r;
                cosine[g] = p[g] * inverse;
                sine[g] = square * inverse;
                const V old = gamma[g], alpha = d[i * G + g];
                gamma[g] = fnma(sine[g], old, cosine[g] * (alpha - shift[g]));
                V* const below = d + (i + 1) * G + g;
                const V change = select(equal(above[g], index), shift[g], alpha - gamma[g]);
                *below = select(less_equal(above[g], index), old + change, *below);
                p[g] = fma(gamma[g], gamma[g], floor) * ratio;
            }
        }
        MN_GROUPS {
            V* const last = d + lowest * G + g;
            e2[lowest * G + g] = sine[g] * p[g];
            *last = select(less_equal(above[g], broadcast<T>(lowest)), gamma[g] + shift[g], *last);
        }
    }
}

// One sweep of a full iteration on d and e; the rotation of rows i and i+1 goes to out[g][2 i], out[g][2 i + 1] as the
// gain and loss of `rotate_pairs`, and the factors of the rows are updated. Returns whether one of them became thin.
// Entries of e that are mere rounding do not rotate: between repeated eigenvalues they would by any angle, and a
// thousand such rotations cost accuracy.
template <class T, int G>
static bool sweep(typename Simd<T>::V* d, typename Simd<T>::V* e, typename Simd<T>::V* scale, const Top<T>* top,
                  typename Simd<T>::V* const* out, int lowest, int n) {
    using V = typename Simd<T>::V;
    const V zero{}, one = broadcast<T>(1), half = broadcast<T>(0.5), tiny = broadcast<T>(Traits<T>::kTiny);
    const V noise = broadcast<T>(2 * Traits<T>::kEps);  // of entries of order one
    const V steep = broadcast<T>(Traits<T>::kSteep);
    V cosine[G], sine[G], p[G], gamma[G], shift[G], above[G], carried[G], thinnest = one;
    MN_GROUPS {
        shift[g] = top[g].shift;
        above[g] = top[g].row;
        cosine[g] = one;
        sine[g] = zero;
        carried[g] = scale[(n - 1) * G + g];
        p[g] = gamma[g] = d[(n - 1) * G + g] - shift[g];
    }
    for (int i = n - 2; i >= lowest; --i) {
        const V index = broadcast<T>(i + 1);
        MN_GROUPS {
            const V diagonal = d[i * G + g] - shift[g];
            V entry = e[i * G + g];
            const auto still = less_equal(magnitude<T>(entry), noise);
            entry = select(still, zero, entry);
            const V coupling = cosine[g] * entry;
            const V size = maximum(maximum(magnitude<T>(p[g]), tiny), steep * magnitude<T>(entry));
            const V root = rough_rsqrt(fma(size, size, entry * entry));
            const V c = size * root, s = entry * with_sign<T>(root, p[g]);
            const V defect = fnma(half * s, s, fnma(half * c, c, half));  // of c^2 + s^2 = 1, halved
            const V previous = sine[g];
            cosine[g] = fma(c, defect, c);
            sine[g] = fma(s, defect, s);
            if (!kFused) cosine[g] = select(still, one, cosine[g]);  // else it is
            e[(i + 1) * G + g] = previous * fma(cosine[g], p[g], sine[g] * entry);
            p[g] = fnma(sine[g], coupling, cosine[g] * diagonal);
            const V old = gamma[g] + shift[g];
            gamma[g] = cosine[g] * p[g];
            V* const below = d + (i + 1) * G + g;
            *below = select(less_equal(above[g], index), old + (diagonal - gamma[g]), *below);
            const V met = scale[i * G + g], part = sine[g] * reciprocal(cosine[g] * met * carried[g]);
            out[g][2 * i] = part * (met * met);
            out[g][2 * i + 1] = part * (carried[g] * carried[g]);
            const V left = cosine[g] * carried[g];
            scale[(i + 1) * G + g] = left;
            thinnest = minimum(thinnest, left);
            carried[g] = cosine[g] * met;
        }
    }
    MN_GROUPS {
        V* const last = d + lowest * G + g;
        e[lowest * G + g] = sine[g] * p[g];
        *last = select(less_equal(above[g], broadcast<T>(lowest)), gamma[g] + shift[g], *last);
        scale[lowest * G + g] = carried[g];
        thinnest = minimum(thinnest, carried[g]);
    }
    return any(less(thinnest, broadcast<T>(Traits<T>::kThin)));
}

// Multiply the rows by the powers of two in their factors: exactly, so that no lane sees when another one needs it.
template <class T>
static void rescale(typename Simd<T>::V* rows, int stride, typename Simd<T>::V* scale, int step, int n, int columns) {
    using V = typename Simd<T>::V;
    using I = typename Simd<T>::I;
    for (int j = 0; j < n; ++j) {
        const V power = (V)((I)scale[j * step] & (I{} + Traits<T>::kInfinity));
        for (int r = 0; r < columns; ++r) rows[j * stride + r] *= power;
        scale[j * step] *= reciprocal(power);
    }
}

// Eigenvalues and vectors: d becomes the eigenvalues, the rows of rows[g], of `columns` entries, are rotated along, up
// to the factors `scale` (see `rotate_pairs`).
// `guess` holds eigenvalues that `eigenvalues` has found, in the order in which they deflate: with them as shifts little
// more than one sweep is needed for each, where Wilkinson's shifts take two, and a sweep that moves vectors costs
// several that do not.
template <class T, int G>
static void eigenvectors(typename Simd<T>::V* d, typename Simd<T>::V* e, const typename Simd<T>::V* guess,
                         typename Simd<T>::V* const* rows, int stride, typename Simd<T>::V* scale,
                         typename Simd<T>::V* const* rotations, Top<T>* top, int n, int columns) {
    using V = typename Simd<T>::V;
    Waiting<V> waiting[G];
    MN_GROUPS { waiting[g].rotations = rotations[g]; }
    for (int i = 0; i < n * G; ++i) scale[i] = broadcast<T>(1);
    for (int count = 0; count < most_sweeps(n); ++count) {
        int lowest = n - 1;
        for (int g = 0; g < G; ++g) {
            advance<T, false>(top[g], d + g, e + g, G, guess + g, n);
            lowest = top[g].lowest < lowest ? top[g].lowest : lowest;
        }
        if (lowest == n - 1) break;
        V* out[G];
        MN_GROUPS { out[g] = rotations[g] + waiting[g].count * 2 * n; }
        const bool thin = sweep<T, G>(d, e, scale, top, out, lowest, n);
        for (int g = 0; g < G; ++g) {
            if (top[g].lowest < n - 1) waiting[g].lowest[waiting[g].count++] = top[g].lowest;
            if (thin || waiting[g].count == kWaiting) rotate_strips(rows[g], stride, waiting[g], n, columns);
            if (thin) rescale<T>(rows[g], stride, scale + g, G, n, columns);
        }
    }
    for (int g = 0; g < G; ++g) rotate_strips(rows[g], stride, waiting[g], n, columns);
}

}  // namespace MN_ISA
