// One vector register of W lanes, each lane a different matrix of the batch. The compiler's vector extensions give
// every operation; AVX-512, AVX2 and NEON replace those for which the extensions have no spelling (fused
// multiply-add, masks, reciprocal roots). Everything lives in the namespace MN_ISA, and nothing from the C++ library
// is used here: a function compiled for one instruction set must never be linked into another.
#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define MN_INLINE static inline __attribute__((always_inline))
#define MN_GROUPS _Pragma("GCC unroll 4") for (int g = 0; g < G; ++g)

namespace MN_ISA {

// What the number of registers, 32 or 16, allows: vectors in flight, columns of a strip, rows of a block, and groups of
// matrices that are iterated together (their recurrences wait for their own results).
#if defined(__AVX512F__)
constexpr int kBytes = 64, kCarried = 10, kWidest = 7, kBlock = 4, kGroups = 4;
#elif defined(__AVX2__)
constexpr int kBytes = 32, kCarried = 5, kWidest = 4, kBlock = 2, kGroups = 2;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kCarried = 10, kWidest = 7, kBlock = 4, kGroups = 4;
#else
constexpr int kBytes = 16, kCarried = 5, kWidest = 4, kBlock = 2, kGroups = 2;
#endif

#if defined(__FMA__) || defined(__aarch64__)
constexpr bool kFused = true;  // fma() rounds once
#else
constexpr bool kFused = false;
#endif

template <class T> struct Traits;
template <> struct Traits<double> {
    using Int = int64_t;
    static constexpr int kMantissa = 52, kBias = 1023, kMaxScale = 1000, kLift = 80;
    static constexpr double kEps = 0x1p-52;
    static constexpr double kTiny = 1e-150;     // its square is a normal number, and it vanishes beside eps
    static constexpr double kDrop = 0x1p-55;    // an off-diagonal entry below this part of the largest entry is zero
    static constexpr double kSteep = 0x1p-56;   // the least cosine of a rotation; vanishes beside eps
    static constexpr double kThin = 0x1p-300;   // a factor of a row below which it goes back into the row
    static constexpr Int kInfinity = 0x7ff0000000000000, kSign = INT64_MIN;
};
template <> struct Traits<float> {
    using Int = int32_t;
    static constexpr int kMantissa = 23, kBias = 127, kMaxScale = 120, kLift = 40;
    static constexpr float kEps = 0x1p-23f, kTiny = 1e-18f, kDrop = 0x1p-26f, kSteep = 0x1p-27f, kThin = 0x1p-20f;
    static constexpr Int kInfinity = 0x7f800000, kSign = INT32_MIN;
};

template <class T, int kSize = kBytes> struct Simd {
    typedef T V __attribute__((vector_size(kSize)));
    typedef typename Traits<T>::Int I __attribute__((vector_size(kSize)));
    static constexpr int W = kSize / sizeof(T);
};
using Vd = Simd<double>::V;
using Vf = Simd<float>::V;
using Id = Simd<double>::I;
using If = Simd<float>::I;

#if defined(__AVX512F__)

using Md = __mmask8;
using Mf = __mmask16;
MN_INLINE Vd fma(Vd a, Vd b, Vd c) { return _mm512_fmadd_pd(a, b, c); }
MN_INLINE Vf fma(Vf a, Vf b, Vf c) { return _mm512_fmadd_ps(a, b, c); }
MN_INLINE Vd fnma(Vd a, Vd b, Vd c) { return _mm512_fnmadd_pd(a, b, c); }
MN_INLINE Vf fnma(Vf a, Vf b, Vf c) { return _mm512_fnmadd_ps(a, b, c); }
MN_INLINE Md less(Vd a, Vd b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
MN_INLINE Mf less(Vf a, Vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
MN_INLINE Md less_equal(Vd a, Vd b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
MN_INLINE Mf less_equal(Vf a, Vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
MN_INLINE Md equal(Vd a, Vd b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
MN_INLINE Mf equal(Vf a, Vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
MN_INLINE Vd select(Md m, Vd a, Vd b) { return _mm512_mask_blend_pd(m, b, a); }
MN_INLINE Vf select(Mf m, Vf a, Vf b) { return _mm512_mask_blend_ps(m, b, a); }
MN_INLINE bool any(Md m) { return m != 0; }
MN_INLINE bool any(Mf m) { return m != 0; }
MN_INLINE Md both(Md a, Md b) { return static_cast<Md>(a & b); }
MN_INLINE Mf both(Mf a, Mf b) { return static_cast<Mf>(a & b); }
MN_INLINE Md without(Md a, Md b) { return static_cast<Md>(a & ~b); }
MN_INLINE Mf without(Mf a, Mf b) { return static_cast<Mf>(a & ~b); }
MN_INLINE Vd maximum(Vd a, Vd b) { return _mm512_max_pd(a, b); }
MN_INLINE Vf maximum(Vf a, Vf b) { return _mm512_max_ps(a, b); }
MN_INLINE Vd minimum(Vd a, Vd b) { return _mm512_min_pd(a, b); }
MN_INLINE Vf minimum(Vf a, Vf b) { return _mm512_min_ps(a, b); }

#else

using Md = Id;
using Mf = If;
#if defined(__FMA__)
MN_INLINE Vd fma(Vd a, Vd b, Vd c) { return _mm256_fmadd_pd(a, b, c); }
MN_INLINE Vf fma(Vf a, Vf b, Vf c) { return _mm256_fmadd_ps(a, b, c); }
MN_INLINE Vd fnma(Vd a, Vd b, Vd c) { return _mm256_fnmadd_pd(a, b, c); }
MN_INLINE Vf fnma(Vf a, Vf b, Vf c) { return _mm256_fnmadd_ps(a, b, c); }
#elif defined(__aarch64__)
MN_INLINE Vd fma(Vd a, Vd b, Vd c) { return (Vd)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
MN_INLINE Vf fma(Vf a, Vf b, Vf c) { return (Vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
MN_INLINE Vd fnma(Vd a, Vd b, Vd c) { return (Vd)vfmsq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
MN_INLINE Vf fnma(Vf a, Vf b, Vf c) { return (Vf)vfmsq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
template <class V> MN_INLINE V fma(V a, V b, V c) { return a * b + c; }
template <class V> MN_INLINE V fnma(V a, V b, V c) { return c - a * b; }
#endif
template <class V> MN_INLINE auto less(V a, V b) { return a < b; }
template <class V> MN_INLINE auto less_equal(V a, V b) { return a <= b; }
template <class V> MN_INLINE auto equal(V a, V b) { return a == b; }
MN_INLINE Vd select(Md m, Vd a, Vd b) { return m ? a : b; }
MN_INLINE Vf select(Mf m, Vf a, Vf b) { return m ? a : b; }
template <class M> MN_INLINE M both(M a, M b) { return a & b; }
template <class M> MN_INLINE M without(M a, M b) { return a & ~b; }
template <class V> MN_INLINE V maximum(V a, V b) { return a > b ? a : b; }
template <class V> MN_INLINE V minimum(V a, V b) { return a < b ? a : b; }
#if defined(__AVX2__)
MN_INLINE bool any(Md m) { return _mm256_movemask_pd((__m256d)m) != 0; }
MN_INLINE bool any(Mf m) { return _mm256_movemask_ps((__m256)m) != 0; }
#else
template <class M> MN_INLINE bool any(M m) {
    uint64_t words[2];
    memcpy(words, &m, sizeof words);
    return (words[0] | words[1]) != 0;
}
#endif

#endif

template <class T> MN_INLINE typename Simd<T>::V broadcast(T x) { return typename Simd<T>::V{} + x; }

template <class T, class V> MN_INLINE V magnitude(V a) {
    using I = typename Simd<T>::I;
    return (V)((I)a & ~(I{} + Traits<T>::kSign));
}

template <class T> MN_INLINE bool any_bit(typename Simd<T>::I mask) {
    bool found = false;
    for (int lane = 0; lane < Simd<T>::W; ++lane) found |= mask[lane] != 0;
    return found;
}

template <class T, class V> MN_INLINE V with_sign(V size, V sign) {  // of a size that is not negative
    using I = typename Simd<T>::I;
    return (V)((I)size | ((I)sign & (I{} + Traits<T>::kSign)));
}

// Reciprocal square root of a positive normal number, to within about one unit in the last place.
#if defined(__AVX512F__)
MN_INLINE Vd refine(Vd a, Vd y) {
    const Vd h = 0.5 * a * y;
    return fma(y, fnma(h, y, broadcast<double>(0.5)), y);
}
MN_INLINE Vf refine(Vf a, Vf y) {
    const Vf h = 0.5f * a * y;
    return fma(y, fnma(h, y, broadcast<float>(0.5f)), y);
}
MN_INLINE Vd rsqrt(Vd a) { return refine(a, refine(a, (Vd)_mm512_rsqrt14_pd(a))); }
MN_INLINE Vf rsqrt(Vf a) { return refine(a, (Vf)_mm512_rsqrt14_ps(a)); }
// The same to half the digits, for those who correct it themselves.
MN_INLINE Vd rough_rsqrt(Vd a) { return refine(a, (Vd)_mm512_rsqrt14_pd(a)); }
MN_INLINE Vf rough_rsqrt(Vf a) { return _mm512_rsqrt14_ps(a); }
MN_INLINE Vd reciprocal(Vd a) { return 1.0 / a; }
MN_INLINE Vf reciprocal(Vf a) { return 1.0f / a; }
#else
#if defined(__AVX2__)
MN_INLINE Vd root(Vd a) { return _mm256_sqrt_pd(a); }
MN_INLINE Vf root(Vf a) { return _mm256_sqrt_ps(a); }
#elif defined(__x86_64__)
MN_INLINE Vd root(Vd a) { return _mm_sqrt_pd(a); }
MN_INLINE Vf root(Vf a) { return _mm_sqrt_ps(a); }
#elif defined(__aarch64__)
MN_INLINE Vd root(Vd a) { return (Vd)vsqrtq_f64((float64x2_t)a); }
MN_INLINE Vf root(Vf a) { return (Vf)vsqrtq_f32((float32x4_t)a); }
#else
template <class V> MN_INLINE V root(V a) {
    for (unsigned k = 0; k < sizeof(V) / sizeof(a[0]); ++k) a[k] = __builtin_sqrt(a[k]);
    return a;
}
#endif
template <class V> MN_INLINE V reciprocal(V a) { return 1 / a; }
template <class V> MN_INLINE V rsqrt(V a) { return reciprocal(root(a)); }
template <class V> MN_INLINE V rough_rsqrt(V a) { return rsqrt(a); }
#endif

}  // namespace MN_ISA
