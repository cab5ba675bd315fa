// Single geodesics: half the way to a point or along a tangent vector, and its gradient.
#pragma once

#include "grassmann_space.hpp"

namespace MN_ISA {

// Z diag(d) Z^T into `out` (padded) for Z^T (packed)
static void function_of(double* out, const double* d, const double* rows, Space& s) {
    const int p = s.p, ld = padded(p);
    transpose(s.small[0], rows, p, p, p);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < ld; ++j) s.small[1][i * ld + j] = j < p ? d[i] * rows[i * p + j] : 0;
    mul(out, s.small[0], ld, s.small[1], p, p, p);
}

MN_INLINE double sinc(double x) { return x == 0 ? 1 : sin(x) / x; }

// in 0: direction (n x p) or null, 1: base or null for the origin (then the direction's lower block counts), without 0
// the point itself; out 0: half the way from the origin to the exponential, 1: the whole, in the frame nearest to the
// origin, or null, 2..: saved for that way, 7 values more behind the angles of 3: the direction's angles and Z^T
static bool shot(const mn::Grassmann& call, Space& s) {
    const int p = s.p, m = s.m, n = s.n, ld = padded(n);
    const bool based = call.in[1] != nullptr, moves = call.in[0] != nullptr;
    if (based) transpose(s.b, call.in[1], p, n, p);
    if (moves) {
        transpose(s.a, call.in[0], p, n, p);
        if (!based)
            for (int i = 0; i < p; ++i)
                for (int j = 0; j < p; ++j) s.a[i * ld + j] = 0;
        unpack(s.tall, call.in[0], p, n, p);
        if (!based) memset(s.tall, 0, sizeof(double) * p * padded(p));
        mul(s.small[0], s.a, ld, s.tall, p, p, n);
        pack(s.gram, p, s.small[0], p, p);
        double *angles = call.out[3] + p, *rows = call.out[3] + 2 * p;
        const mn::Eigen values{s.gram, angles, rows, s.status, 1, p};
        if (eigen<double, double, 1>(values, 0, 1, s.eigen) != 0) return false;
        for (int i = 0; i < p; ++i) {
            angles[i] = angles[i] <= 0 ? 0 : sqrt(angles[i]);
            s.squares[i] = cos(angles[i]), s.squares[p + i] = sinc(angles[i]);
        }
        function_of(s.small[2], s.squares, rows, s);
        function_of(s.small[3], s.squares + p, rows, s);
        mul(s.c, s.small[3], padded(p), s.a, n, p, p);
        if (based) {
            mul(s.a, s.small[2], padded(p), s.b, n, p, p);
            for (int i = 0; i < p * ld; ++i) s.b[i] = s.a[i] + s.c[i];
        } else {
            for (int i = 0; i < p; ++i)
                for (int j = 0; j < ld; ++j) s.b[i * ld + j] = j < p ? s.small[2][i * padded(p) + j] : s.c[i * ld + j];
        }
    }
    const Saved saved = saved_out(call, 2, 0, m, s.local);
    copy_rows(s.along, p, s.b, ld, p, p);
    copy_rows(saved.off, m, s.b + p, ld, p, m);
    if (!decompose(s, saved, 1, m)) return false;
    const double times[] = {0.5, 1.0};
    for (int k = 0; k < 2; ++k) {
        if (call.out[k] == nullptr) continue;
        shoot_one(s.packed, s, saved, m, times + k);
        unpack(s.a, s.packed, n, p, n);
        write_rows(call.out[k], s.a, p, n);
    }
    return true;
}

// in 0: gradient in the half in rows, 1..: saved by `shot`, 6: direction or null, 7: base or null; out 0: the gradient in the
// direction, or without one in the point
static void shot_gradient(const mn::Grassmann& call, Space& s) {
    const int p = s.p, m = s.m, n = s.n, ld = padded(n), small = padded(p);
    const double half = 0.5;
    double unused;
    mn::Angles back = one(saved_in(call, 1, 0, m), p, m, &half, call.in[0]);
    back.out[0] = s.along, back.out[1] = s.local.off, back.out[2] = &unused;
    dilate_backward(back, 0, s.scratch);
    join(s.packed, n, s.along, s.local.off, p, m);
    unpack(s.a, s.packed, n, p, n);
    if (call.in[6] == nullptr) return write_rows(call.out[0], s.a, p, n);
    const bool based = call.in[7] != nullptr;
    const double *angles = call.in[2] + p, *rows = call.in[2] + 2 * p;  // V^T in rows
    unpack(s.small[0], rows, p, p, p);
    mul(s.b, s.small[0], small, s.a, n, p, p);  // g' = V^T g
    transpose(s.c, call.in[6], p, n, p);
    if (!based)
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < p; ++j) s.c[i * ld + j] = 0;
    mul(s.d, s.small[0], small, s.c, n, p, p);
    for (int i = 0; i < p; ++i)  // W^T; nothing depends on it where an angle vanishes
        for (int j = 0; j < ld; ++j) s.d[i * ld + j] /= angles[i] > 0x1p-26 ? angles[i] : 0x1p-26;
    double *base = s.c, *inside = s.small[1], *along = s.small[2];
    if (based) {
        transpose(s.a, call.in[7], p, n, p);
        mul(base, s.small[0], small, s.a, n, p, p);
    } else {
        memset(base, 0, sizeof(double) * p * ld);
        for (int i = 0; i < p; ++i) memcpy(base + i * ld, rows + i * p, sizeof(double) * p);
    }
    transpose(s.tall, s.d, ld, p, n);
    mul(inside, s.b, ld, s.tall, p, p, n);
    transpose(s.tall, base, ld, p, n);
    mul(along, s.b, ld, s.tall, p, p, n);
    // horizontal movements t = -sin b + cos w: the symmetric part sees differences of angles, the other one sums
    double* const turned = s.small[3];
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < small; ++j)
            turned[i * small + j] =
                j < p ? cos(angles[j]) * inside[i * small + j] - sin(angles[j]) * along[i * small + j] : 0;
    double* const sum = s.small[0];
    memset(sum, 0, sizeof(double) * p * small);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < p; ++j) {
            const double even = sinc(angles[i] - angles[j]) / 2, odd = sinc(angles[i] + angles[j]) / 2;
            sum[i * small + j] = (even + odd) * turned[i * small + j] + (even - odd) * turned[j * small + i] -
                                 sinc(angles[i]) * inside[i * small + j];
        }
    mul(s.a, sum, small, s.d, n, p, p);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < small; ++j) along[i * small + j] *= sinc(angles[i]);
    mul(s.d, along, small, base, n, p, p);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < n; ++j) s.a[i * ld + j] += sinc(angles[i]) * s.b[i * ld + j] - s.d[i * ld + j];
    transpose(s.small[0], rows, p, p, p);
    mul(s.b, s.small[0], small, s.a, n, p, p);
    if (!based)
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < p; ++j) s.b[i * ld + j] = 0;
    write_rows(call.out[0], s.b, p, n);
}

// in 0: frames, 1: other frames, 2: t of each; out 0: the frames at t times the way to the others
static bool move(const mn::Grassmann& call, int64_t k, Space& s) {
    const int p = s.p, n = s.n, ld = padded(n), size = p * n;
    const double *from = call.in[0] + k * size, *to = call.in[1] + k * size;
    frame_of(s.first, from, 1, 1, p, n);
    transpose(s.a, to, p, n, p);
    subtract(s.a, s.first[1], p * ld);
    mul(s.small[0], s.a, ld, s.first[0], p, p, n);
    mul(s.b, s.small[0], padded(p), s.first[1], n, p, p);
    subtract(s.a, s.b, p * ld);
    pack(s.along, p, s.small[0], p, p);
    for (int i = 0; i < p; ++i) s.along[i * p + i] += 1;
    pack(s.local.off, n, s.a, p, n);
    if (!decompose(s, s.local, 1, n)) return false;
    shoot_one(s.packed, s, s.local, n, call.in[2] + k);
    mul(s.b, s.packed, p + n, s.first[1], n, p, p);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < n; ++j) s.b[i * ld + j] += s.packed[i * (p + n) + p + j];
    write_rows(call.out[0] + k * size, s.b, p, n);
    return true;
}

}  // namespace MN_ISA
