// Frames moved by their mean, dilated and moved to the bias, and the way back.
#pragma once

#include "grassmann_space.hpp"

namespace MN_ISA {

// in 0: x, 1: half the way to the mean of each group; out 0..: saved, 5: squared lengths
static bool centre(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s) {
    const int p = s.p, m = s.m, n = s.n, ld = padded(n);
    Groups groups(call);
    for (int64_t first = begin; first < end; first += kGroup) {
        const int count = static_cast<int>(end - first < kGroup ? end - first : kGroup);
        const Saved saved = saved_out(call, 0, first, m, s.local);
        for (int k = 0; k < count; ++k) {
            if (groups.change(first + k)) frame_of(s.first, call.in[1] + groups.group * n * p, 2, -2, p, n);
            transpose(s.a, call.in[0] + call.place(first + k) * n * p, p, n, p);
            mul(s.small[0], s.a, ld, s.first[0], p, p, n);
            mul(s.b, s.small[0], padded(p), s.first[1], n, p, p);
            reflect_rows(s.a, p, n);
            subtract(s.b, s.a, p * ld);
            copy_rows(s.along + k * p * p, p, s.b, ld, p, p);
            copy_rows(saved.off + k * p * m, m, s.b + p, ld, p, m);
        }
        if (!decompose(s, saved, count, m)) return false;
        for (int k = 0; k < count; ++k) {
            double square = 0;
            for (int i = k * p; i < (k + 1) * p; ++i)  // what of an angle is only the floor of its sine does not count
                square += saved.sine[i] <= 0x1p-26 ? 0 * saved.sine[i] : saved.angles[i] * saved.angles[i];
            call.out[5][first + k] = square;
        }
    }
    return true;
}

static void write_rows(double* out, const double* rows, int p, int n) {
    const int ld = padded(n);
    for (int j = 0; j < n; ++j)
        for (int i = 0; i < p; ++i) out[j * p + i] = rows[i * ld + j];
}

// in 0..: saved, 5: half the way to the bias or null, 6: t of each group; out 0: frames
static void finish(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s) {
    const int p = s.p, m = s.m, n = s.n, ld = padded(n);
    const bool biased = call.in[5] != nullptr;
    if (biased) frame_of(s.first, call.in[5], 2, 2, p, n);
    for (int64_t k = begin; k < end; ++k) {
        shoot_one(s.packed, s, saved_in(call, 0, k, m), m, call.in[6] + call.group(k));
        unpack(s.a, s.packed, n, p, n);
        if (biased) {
            reflect_rows(s.a, p, n);
            mul(s.small[0], s.a, ld, s.first[0], p, p, n);
            mul(s.b, s.small[0], padded(p), s.first[1], n, p, p);
            subtract(s.b, s.a, p * ld);
        }
        write_rows(call.out[0] + call.place(k) * n * p, biased ? s.b : s.a, p, n);
    }
}

// sum += times A^T B for A (p x p) and rows B (p x n)
static void add_product(double* sum, const double* a, const double* rows, double times, Space& s) {
    const int p = s.p, n = s.n, ld = padded(n), small = padded(p);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < p; ++j) s.small[2][i * small + j] = times * a[j * small + i];
    mul(s.d, s.small[2], small, rows, n, p, p);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < n; ++j) sum[i * n + j] += s.d[i * ld + j];
}

// The gradient in x of y = x H (2 S H^T) - S x, from the one in y, both in rows: g (2 S H) H^T - S g; `second` is H with
// rows 2 S H^T. Leaves g (2 S H) in small[0]; overwrites g by S g.
static void undo_gradient(double* out, double* g, Space& s) {
    const int p = s.p, n = s.n, ld = padded(n);
    reflect_rows(g, p, n);
    mul(s.small[0], g, ld, s.second[0], p, p, n);
    for (int i = 0; i < p * padded(p); ++i) s.small[0][i] *= 2;
    mul(out, s.small[0], padded(p), s.second[1], n, p, p);
    subtract(out, g, p * ld);
}

// in 0: gradient in the frames, 1..: saved, 6: half the way to the bias or null, 7: to the means or null, 8: t of each group;
// out 1: gradients in x, or without 7 in the centred samples in rows, 2: gradients in t; sum: in half the bias, in rows
static void gradient(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s, double* sum) {
    const int p = s.p, m = s.m, n = s.n, ld = padded(n), size = p * n;
    const bool biased = call.in[6] != nullptr, undo = call.in[7] != nullptr;
    if (biased) frame_of(s.first, call.in[6], 1, 1, p, n);
    Groups groups(call);
    for (int64_t k = begin; k < end; ++k) {
        if (groups.change(k) && undo) frame_of(s.second, call.in[7] + groups.group * size, 1, 1, p, n);
        const double* const t = call.in[8] + groups.group;
        const double* const given = call.in[0] + call.place(k) * size;
        const Saved saved = saved_in(call, 1, k, m);
        transpose(s.a, given, p, n, p);
        if (biased) {  // y = z S h (2 h^T) - z S
            shoot_one(s.packed, s, saved, m, t);
            unpack(s.b, s.packed, n, p, n);
            reflect_rows(s.b, p, n);
            mul(s.small[0], s.b, ld, s.first[0], p, p, n);  // across
            mul(s.small[1], s.a, ld, s.first[0], p, p, n);
            for (int i = 0; i < p * padded(p); ++i) s.small[1][i] *= 2;  // its gradient
            add_product(sum, s.small[0], s.a, 2, s);
            add_product(sum, s.small[1], s.b, 1, s);
            mul(s.b, s.small[1], padded(p), s.first[1], n, p, p);
            subtract(s.b, s.a, p * ld);
            reflect_rows(s.b, p, n);
        }
        pack(s.packed, n, biased ? s.b : s.a, p, n);
        mn::Angles back = one(saved, p, m, t, s.packed);
        back.out[0] = s.along, back.out[1] = s.local.off, back.out[2] = call.out[2] + k;
        dilate_backward(back, 0, s.scratch);
        double* const out = call.out[1] + (undo ? call.place(k) : k) * size;
        if (!undo) {
            join(out, n, s.along, s.local.off, p, m);
            continue;
        }
        join(s.packed, n, s.along, s.local.off, p, m);
        unpack(s.a, s.packed, n, p, n);
        undo_gradient(s.b, s.a, s);
        write_rows(out, s.b, p, n);
    }
}

// in 0: x, 1..: saved, 6: gradients in the centred samples in rows, 7: half the way to the means, 8: gradient in every
// squared length of a group; out 1: gradients in x; sum: in half the mean, in rows
static void pull_back(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s, Sums& sums) {
    const int p = s.p, m = s.m, n = s.n, ld = padded(n), size = p * n;
    Groups groups(call);
    for (int64_t k = begin; k < end; ++k) {
        if (groups.change(k)) frame_of(s.second, call.in[7] + groups.group * size, 1, 1, p, n);
        double* const sum = sums.of(k);
        const double* const x = call.in[0] + call.place(k) * size;
        mn::Angles back = one(saved_in(call, 1, k, m), p, m, nullptr, call.in[8] + groups.group);
        back.out[0] = s.along, back.out[1] = s.local.off;
        square_backward(back, 0, s.scratch);
        join(s.packed, n, s.along, s.local.off, p, m);
        const double* const given = call.in[6] + k * size;
        for (int i = 0; i < size; ++i) s.packed[i] += given[i];
        unpack(s.a, s.packed, n, p, n);
        undo_gradient(s.b, s.a, s);
        write_rows(call.out[1] + call.place(k) * size, s.b, p, n);
        transpose(s.c, x, p, n, p);
        add_product(sum, s.small[0], s.c, 1, s);
        mul(s.small[1], s.c, ld, s.second[0], p, p, n);  // across
        add_product(sum, s.small[1], s.a, 2, s);
    }
}

}  // namespace MN_ISA
