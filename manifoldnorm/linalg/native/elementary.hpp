// Divided differences of scalar functions, one pair of eigenvalues per lane, in forms that do not cancel: a >= b > 0.
#pragma once

#include "simd.hpp"

namespace MN_ISA {

template <class T> struct Series;
template <> struct Series<double> {
    static constexpr int kAtanh = 11, kExp = 14;
    static constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45, kLowest = -700;
    static constexpr double kRound = 0x1.8p52;
    static constexpr int64_t kRootHalf = 0x3fe6a09e667f3bcd;
};
template <> struct Series<float> {
    static constexpr int kAtanh = 5, kExp = 8;
    static constexpr float kLn2High = 0x1.62e400p-1f, kLn2Low = 0x1.7f7d1cp-20f, kLowest = -80;
    static constexpr float kRound = 0x1.8p23f;
    static constexpr int32_t kRootHalf = 0x3f3504f3;
};

// atanh(z) / z for |z| <= (sqrt 2 - 1) / (sqrt 2 + 1), as a function of z^2
template <class T> MN_INLINE typename Simd<T>::V atanh_ratio(typename Simd<T>::V square) {
    auto sum = broadcast<T>(T(1) / (2 * Series<T>::kAtanh + 1));
#pragma GCC unroll 16
    for (int k = Series<T>::kAtanh - 1; k >= 0; --k) sum = fma(sum, square, broadcast<T>(T(1) / (2 * k + 1)));
    return sum;
}

// (log a - log b) / (a - b), and log(a / b) in `gap`: near b the series of atanh leaves no difference to cancel.
template <class T>
MN_INLINE typename Simd<T>::V log_difference(typename Simd<T>::V a, typename Simd<T>::V b, typename Simd<T>::V* gap) {
    using V = typename Simd<T>::V;
    using I = typename Simd<T>::I;
    const V one = broadcast<T>(1), ratio = a / b, sum = a + b, difference = a - b;
    const I exponent = ((I)ratio - (I{} + Series<T>::kRootHalf)) >> Traits<T>::kMantissa;
    const V mantissa = (V)((I)ratio - (exponent << Traits<T>::kMantissa));
    const V count = __builtin_convertvector(exponent, V);
    const auto near = equal(count, V{});
    const V z = select(near, difference, mantissa - one) / select(near, sum, mantissa + one);
    const V series = atanh_ratio<T>(z * z);
    const V low = fma(count, broadcast<T>(Series<T>::kLn2Low), 2 * z * series);
    *gap = fma(count, broadcast<T>(Series<T>::kLn2High), low);
    return select(near, 2 * series, *gap) / select(near, sum, difference);
}

// (1 - e^-t) / t for t >= 0
template <class T> MN_INLINE typename Simd<T>::V decay(typename Simd<T>::V t) {
    using V = typename Simd<T>::V;
    using I = typename Simd<T>::I;
    const V one = broadcast<T>(1), lowest = broadcast<T>(Series<T>::kLowest);
    const V x = maximum(-t, lowest);
    const V magic = broadcast<T>(Series<T>::kRound);
    const V shifted = fma(x, broadcast<T>(T(1.442695040888963407)), magic), count = shifted - magic;
    const V rest = fnma(count, broadcast<T>(Series<T>::kLn2Low), fnma(count, broadcast<T>(Series<T>::kLn2High), x));
    // (e^r - 1) / r
    V sum = one;
#pragma GCC unroll 16
    for (int k = Series<T>::kExp; k >= 2; --k) sum = fma(sum, rest * broadcast<T>(T(1) / T(k)), one);
    const V power = (V)((__builtin_convertvector(count, I) + Traits<T>::kBias) << Traits<T>::kMantissa);
    const V far = (one - power) - power * (rest * sum);
    return select(equal(count, V{}), sum, far / t);
}

enum Kind : int { kLog = 0, kExp = 1, kSqrt = 2, kInvSqrt = 3, kPower = 4 };

// The divided difference f[a, b]. `fa` and `fb` are what the function needs of each eigenvalue: e^w for kExp, the root
// of w for kSqrt and kInvSqrt, w^p for kPower. kExp takes any a >= b.
template <class T>
MN_INLINE typename Simd<T>::V divided(int kind, typename Simd<T>::V a, typename Simd<T>::V b, typename Simd<T>::V fa,
                                      typename Simd<T>::V fb, typename Simd<T>::V p) {
    using V = typename Simd<T>::V;
    V gap;
    switch (kind) {
        case kLog: return log_difference<T>(a, b, &gap);
        case kExp: return fa * decay<T>(a - b);
        case kSqrt: return 1 / (fa + fb);
        case kInvSqrt: return -1 / (fa * fb * (fa + fb));
        default: {
            const V slope = log_difference<T>(a, b, &gap);
            return p * decay<T>(magnitude<T>(p) * gap) * slope * maximum(fa, fb);
        }
    }
}

}  // namespace MN_ISA
