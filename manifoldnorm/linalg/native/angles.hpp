// Principal angles of frames in rows (p x p along a base, p x m off it): the parts of principal.py that are products of
// small matrices and kernels of pairs of angles, one sample after the other; included once by each of baseline.cpp,
// avx2.cpp and avx512.cpp. The formulas, and their names, are those of principal.py.
#pragma once

#include <math.h>
#include <string.h>

#include "angles_table.hpp"
#include "simd.hpp"

namespace MN_ISA {

constexpr int kStep = 8;  // columns are padded to multiples of this many numbers, with zeros

MN_INLINE int padded(int n) { return (n + kStep - 1) / kStep * kStep; }

MN_INLINE Vd load(const double* from) {
    Vd v;
    memcpy(&v, from, sizeof v);
    return v;
}

MN_INLINE void store(double* to, Vd v) { memcpy(to, &v, sizeof v); }

// sin(x) to about an ulp: the nearest multiple of pi off, then the series up to x^21 on (-pi/2, pi/2)
MN_INLINE Vd sine_of(Vd x) {
    const Vd shifted = x * broadcast(0x1.45f306dc9c883p-2) + broadcast(0x1.8p52), turns = shifted - broadcast(0x1.8p52);
    const Vd r = fnma(turns, broadcast(0x1.1a62633145c07p-53), fnma(turns, broadcast(0x1.921fb54442d18p+1), x));
    const Vd square = r * r;
    constexpr double kSeries[] = {1 / 51090942171709440000.0, -1 / 121645100408832000.0, 1 / 355687428096000.0,
                                  -1 / 1307674368000.0, 1 / 6227020800.0, -1 / 39916800.0, 1 / 362880.0,
                                  -1 / 5040.0, 1 / 120.0, -1 / 6.0};
    Vd sum = broadcast(kSeries[0]);
    for (int k = 1; k < 10; ++k) sum = fma(sum, square, broadcast(kSeries[k]));
    const Vd value = fma(sum * square, r, r);
    return (Vd)((Id)value ^ ((Id)shifted << 63));
}

// C = A B for R rows of A and N vectors of columns
template <int R, int N>
MN_INLINE void strip(double* c, int ldc, const double* a, int lda, const double* b, int ldb, int inner) {
    Vd sum[R][N] = {};
    for (int k = 0; k < inner; ++k) {
        Vd row[N];
        for (int v = 0; v < N; ++v) row[v] = load(b + k * ldb + v * Simd<double>::W);
        for (int r = 0; r < R; ++r) {
            const Vd x = broadcast(a[r * lda + k]);
            for (int v = 0; v < N; ++v) sum[r][v] = fma(x, row[v], sum[r][v]);
        }
    }
    for (int r = 0; r < R; ++r) memcpy(c + r * ldc, sum[r], sizeof sum[r]);
}

constexpr int kVectors = kStep / Simd<double>::W;
constexpr int kStripRows = kCarried >= 10 || kVectors <= 2 ? 6 : 3;  // so many that sums stay in registers

// C = A B for N vectors of columns: rows in parts of about the same size, for each is a chain of dependent sums
template <int N>
static void columns_of(double* c, int ldc, const double* a, int lda, const double* b, int ldb, int rows, int inner) {
    for (int parts = (rows + kStripRows - 1) / kStripRows; parts > 0; --parts) {
        const int size = (rows + parts - 1) / parts;
        switch (size) {
            case 1: strip<1, N>(c, ldc, a, lda, b, ldb, inner); break;
            case 2: strip<2, N>(c, ldc, a, lda, b, ldb, inner); break;
            case 3: strip<3, N>(c, ldc, a, lda, b, ldb, inner); break;
            case 4: strip<4, N>(c, ldc, a, lda, b, ldb, inner); break;
            case 5: strip<5, N>(c, ldc, a, lda, b, ldb, inner); break;
            default: strip<6, N>(c, ldc, a, lda, b, ldb, inner); break;
        }
        c += size * ldc, a += size * lda, rows -= size;
    }
}

// C = A B; the columns of B and C are padded, all leading dimensions are those of padded columns
static void mul(double* c, const double* a, int lda, const double* b, int columns, int rows, int inner) {
    const int ld = padded(columns);
    int j = 0;
    if (kVectors == 1)
        for (; j + 2 * kStep <= ld; j += 2 * kStep) columns_of<2>(c + j, ld, a, lda, b + j, ld, rows, inner);
    for (; j < ld; j += kStep) columns_of<kVectors>(c + j, ld, a, lda, b + j, ld, rows, inner);
}

static void transpose(double* out, const double* in, int ldi, int rows, int columns) {
    const int ld = padded(rows);
    memset(out, 0, sizeof(double) * ld * columns);
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j) out[j * ld + i] = in[i * ldi + j];
}

// A short row, without the call that a copy of unknown size costs
MN_INLINE void copy(double* out, const double* in, int count) {
    int i = 0;
    for (; i + 8 <= count; i += 8) memcpy(out + i, in + i, 64);
    if (count & 4) memcpy(out + i, in + i, 32), i += 4;
    if (count & 2) memcpy(out + i, in + i, 16), i += 2;
    if (count & 1) out[i] = in[i];
}

static void unpack(double* out, const double* in, int ldi, int rows, int columns) {
    const int ld = padded(columns), last = ld - kStep;
    for (int i = 0; i < rows; ++i) {
        for (int j = last; j < ld; j += Simd<double>::W) store(out + i * ld + j, Vd{});
        copy(out + i * ld, in + i * ldi, columns);
    }
}

static void copy_rows(double* out, int ldo, const double* in, int ldi, int rows, int columns) {
    for (int i = 0; i < rows; ++i) copy(out + i * ldo, in + i * ldi, columns);
}

static void pack(double* out, int ldo, const double* in, int rows, int columns) {
    copy_rows(out, ldo, in, padded(columns), rows, columns);
}

// Scratch memory: padded small matrices one after the other
class Room {
  public:
    Room(double* memory, int p, int m) : next_(memory), small_(p * padded(p)), wide_(p * padded(m)) {}
    double* small() { return take(small_); }
    double* wide() { return take(wide_); }
    double* tall(int p, int m) { return take(m * padded(p)); }

  private:
    double* take(int64_t size) {
        double* const found = next_;
        next_ += size;
        return found;
    }
    double* next_;
    int64_t small_, wide_;
};

static int64_t angles_memory(int p, int m) {
    return 24 * static_cast<int64_t>(p) * padded(p) + 6 * static_cast<int64_t>(p) * padded(m) + m * padded(p);
}

MN_INLINE double dot(const double* a, const double* b, int ld) {
    Vd sum = load(a) * load(b);
    for (int i = Simd<double>::W; i < ld; i += Simd<double>::W) sum = fma(load(a + i), load(b + i), sum);
    double lanes[Simd<double>::W];
    memcpy(lanes, &sum, sizeof sum);
    for (int half = Simd<double>::W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

// x -= 2 <h, x> h for a unit vector h, or 0
MN_INLINE void reflect(const double* h, double* x, int ld) {
    const Vd twice = broadcast(2 * dot(h, x, ld));
    for (int i = 0; i < ld; i += Simd<double>::W) {
        const Vd moved = fnma(twice, load(h + i), load(x + i));
        memcpy(x + i, &moved, sizeof moved);
    }
}

// Householder's factorisation of columns (a row of `q` each): they become the columns of the orthogonal factor, turned
// so that the diagonal, returned as `cosine`, is not negative. Each reflection meets all columns before the next one:
// what it does to them is independent.
static void orthonormal(double* q, double* reflectors, double* cosine, int p) {
    const int ld = padded(p);
    alignas(64) double signs[mn::kLargestAngles];
    memcpy(reflectors, q, sizeof(double) * p * ld);
    for (int k = 0; k < p; ++k) {
        double* const x = reflectors + k * ld;
        for (int i = 0; i < k; ++i) x[i] = 0;
        const double size = sqrt(dot(x, x, ld)), sign = x[k] < 0 ? -1.0 : 1.0;
        cosine[k] = size;
        x[k] += sign * size;  // the reflection maps the column to -sign size e_k
        const double norm = dot(x, x, ld), inverse = norm > 0 ? 1 / sqrt(norm) : 1;
        signs[k] = norm > 0 ? -sign : 1.0;
        for (int i = 0; i < ld; ++i) x[i] *= inverse;
        for (int j = k + 1; j < p; ++j) reflect(x, reflectors + j * ld, ld);
    }
    memset(q, 0, sizeof(double) * p * ld);
    for (int k = p - 1; k >= 0; --k) {
        q[k * ld + k] = signs[k];
        for (int j = k; j < p; ++j) reflect(reflectors + k * ld, q + j * ld, ld);
    }
}

// in: A (p x p), squared sines (p), Z^T (p x p); out: angles, sines, V
static void bases(const mn::Angles& call, int64_t k, double* memory) {
    const int p = call.p, ld = padded(p), area = p * p;
    Room room(memory, p, call.m);
    double *along = room.small(), *right = room.small(), *q = room.small(), *h = room.small(), *cosine = room.small();
    unpack(along, call.in[0] + k * area, p, p, p);
    unpack(right, call.in[2] + k * area, p, p, p);
    mul(q, right, ld, along, p, p, p);  // rows: the columns of A^T Z, for `along` in rows is A^T
    orthonormal(q, h, cosine, p);
    double *angles = call.out[0] + k * p, *sine = call.out[1] + k * p, *left = call.out[2] + k * area;
    for (int j = 0; j < p; ++j) {
        const double square = call.in[1][k * p + j];
        sine[j] = square == square ? sqrt(square > 0x1p-52 ? square : 0x1p-52) : square;
        angles[j] = atan2(sine[j], cosine[j]);
        for (int i = 0; i < p; ++i) left[i * p + j] = q[j * ld + i];
    }
}

struct Sample {
    const double *angles, *sine;
    double *left, *left_t, *right, *right_t, *wide, *row, *cosine;  // row: the angles, padded
};

// in: off (p x m), angles, sines (p), V, Z^T (p x p)
static Sample read(const mn::Angles& call, int64_t k, Room& room) {
    const int p = call.p, m = call.m, area = p * p;
    Sample s{call.in[1] + k * p, call.in[2] + k * p, room.small(), room.small(), room.small(),
             room.small(), room.wide(),  room.small(), room.small()};
    const double *left = call.in[3] + k * area, *right = call.in[4] + k * area;
    unpack(s.left, left, p, p, p);
    transpose(s.left_t, left, p, p, p);
    unpack(s.right, right, p, p, p);
    transpose(s.right_t, right, p, p, p);
    unpack(s.wide, call.in[0] + k * p * m, m, p, m);
    unpack(s.row, s.angles, p, 1, p);
    for (int i = 0; i < p; ++i) s.cosine[i] = cos(s.angles[i]);
    return s;
}

// V diag(d) N for N with padded columns
static void with_left(double* out, const Sample& s, const double* d, const double* n, double* spare, int columns, int p) {
    const int ld = padded(columns);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < ld; ++j) spare[i * ld + j] = d[i] * n[i * ld + j];
    mul(out, s.left, padded(p), spare, columns, p, p);
}

// in 5: t; out: frames (p x (p + m)); without t: velocities (p x m)
static void shoot(const mn::Angles& call, int64_t k, double* memory) {
    const int p = call.p, m = call.m;
    Room room(memory, p, m);
    const Sample s = read(call, k, room);
    double *spare = room.small(), *coefficients = room.small(), *top = room.small(), *bottom = room.wide();
    double *even = room.small(), *odd = room.small();
    const bool frame = call.in[5] != nullptr;
    for (int j = 0; j < p; ++j) {
        const double turned = frame ? call.in[5][k] * s.angles[j] : s.angles[j];
        even[j] = frame ? cos(turned) : 0, odd[j] = (frame ? sin(turned) : turned) / s.sine[j];
    }
    with_left(coefficients, s, odd, s.right, spare, p, p);
    mul(bottom, coefficients, padded(p), s.wide, m, p, p);
    double* const out = call.out[0] + k * p * (frame ? p + m : m);
    if (!frame) return pack(out, m, bottom, p, m);
    with_left(top, s, even, s.left_t, spare, p, p);
    pack(out, p + m, top, p, p);
    pack(out + p, p + m, bottom, p, m);
}

// From the movement N (`across`), its part along W (`inside`) and the lengths' `ratio` to the gradients of A and R.
static void pull(const mn::Angles& call, int64_t k, const Sample& s, const double* across, const double* inside,
                 const double* ratio, const double* source, Room& room) {
    const int p = call.p, m = call.m, ld = padded(p), wide = padded(m);
    double *first = room.small(), *second = room.small(), *third = room.small(), *sum = room.wide(), *more = room.wide();
    // -(Z (sine N)^T) V^T
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < ld; ++j) first[i * ld + j] = j < p ? -s.sine[j] * across[j * ld + i] : 0;
    mul(second, s.right_t, ld, first, p, p, p);
    mul(third, second, ld, s.left_t, p, p, p);
    pack(call.out[0] + k * p * p, p, third, p, p);
    // Z (cos N - inside ratio)^T / sine Z^T R + Z ratio V^T source
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < ld; ++j)
            first[i * ld + j] =
                j < p ? (s.cosine[j] * across[j * ld + i] - inside[j * ld + i] * ratio[i]) / s.sine[j] : 0;
    mul(second, s.right_t, ld, first, p, p, p);
    mul(third, second, ld, s.right, p, p, p);
    mul(sum, third, ld, s.wide, m, p, p);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < ld; ++j) first[i * ld + j] = ratio[i] * s.left_t[i * ld + j];
    mul(second, s.right_t, ld, first, p, p, p);
    mul(more, second, ld, source, m, p, p);
    double* const out = call.out[1] + k * p * m;
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < m; ++j) out[i * m + j] = sum[i * wide + j] + more[i * wide + j];
}

// The part along W of a gradient `source` (p x m): Z^T / sine (R source^T) V
static void along_out(double* inside, const mn::Angles& call, const Sample& s, const double* source, Room& room) {
    const int p = call.p, m = call.m, ld = padded(p);
    double *tall = room.tall(p, m), *product = room.small(), *scaled = room.small();
    transpose(tall, source, padded(m), p, m);
    mul(product, s.wide, padded(m), tall, p, p, m);
    mul(scaled, product, ld, s.left, p, p, p);
    mul(product, s.right, ld, scaled, p, p, p);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < ld; ++j) inside[i * ld + j] = product[i * ld + j] / s.sine[i];
}

// in 5: t, 6: gradient (p x (p + m)); out: gradients of A, R and t
static void dilate_backward(const mn::Angles& call, int64_t k, double* memory) {
    const int p = call.p, m = call.m, ld = padded(p);
    Room room(memory, p, m);
    const Sample s = read(call, k, room);
    const double t = call.in[5][k], *g = call.in[6] + k * p * (p + m);
    double *source = room.wide(), *inside = room.small(), *top = room.small(), *first = room.small();
    double *across = room.small(), *even = room.small(), *odd = room.small(), *ratio = room.small();
    alignas(64) double sine[mn::kLargestAngles] = {}, cosine[mn::kLargestAngles] = {};
    unpack(source, g + p, p + m, p, m);
    along_out(inside, call, s, source, room);
    transpose(first, g, p + m, p, p);
    mul(even, s.left_t, ld, first, p, p, p);
    mul(top, even, ld, s.left, p, p, p);
    double grad_t = 0;
    for (int j = 0; j < p; ++j) {
        sine[j] = sin(t * s.angles[j]), cosine[j] = cos(t * s.angles[j]);
        ratio[j] = sine[j] / s.sine[j];
        grad_t += s.angles[j] * (cosine[j] * inside[j * ld + j] - sine[j] * top[j * ld + j]);
    }
    const Vd time = broadcast(t);
    for (int i = 0; i < p; ++i) {
        const Vd angle = broadcast(s.angles[i]), sine_i = broadcast(sine[i]), cosine_i = broadcast(cosine[i]);
        for (int j = 0; j < p; j += Simd<double>::W) {
            const Vd in = load(inside + i * ld + j), up = load(top + i * ld + j);
            const Vd horizontal = cosine_i * in - sine_i * up, vertical = cosine_i * up + sine_i * in;
            const Vd minus = angle - load(s.row + j) + broadcast(0x1p-511), plus = angle + load(s.row + j);
            const Vd gap = sine_of(time * minus), total = sine_of(time * plus);
            const Vd product = cosine_i * load(cosine + j), other = sine_i * load(sine + j);
            const Vd turn = gap / (1 + product + other), back = total / (1 + product - other);
            store(even + i * ld + j, gap / sine_of(minus) * (horizontal + turn * vertical));
            store(odd + i * ld + j, total / sine_of(plus) * (horizontal + back * vertical));
        }
    }
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < p; ++j)
            across[i * ld + j] =
                (even[i * ld + j] + even[j * ld + i] + odd[i * ld + j] - odd[j * ld + i]) / 2;
    pull(call, k, s, across, inside, ratio, source, room);
    call.out[2][k] = grad_t;
}

// in 6: gradient (p x m); out: gradients of A and R
static void velocity_backward(const mn::Angles& call, int64_t k, double* memory) {
    const int p = call.p, m = call.m, ld = padded(p);
    Room room(memory, p, m);
    const Sample s = read(call, k, room);
    double *source = room.wide(), *inside = room.small(), *across = room.small(), *ratio = room.small();
    double *even = room.small(), *odd = room.small();
    unpack(source, call.in[6] + k * p * m, m, p, m);
    along_out(inside, call, s, source, room);
    for (int i = 0; i < p; ++i) {
        ratio[i] = s.angles[i] / s.sine[i];
        for (int j = 0; j < p; j += Simd<double>::W) {
            const Vd angle = broadcast(s.angles[i]), other = load(s.row + j);
            const Vd minus = angle - other + broadcast(0x1p-511), plus = angle + other;
            store(even + i * ld + j, minus / sine_of(minus) * broadcast(0.5));
            store(odd + i * ld + j, plus / sine_of(plus) * broadcast(0.5));
        }
        for (int j = 0; j < p; ++j) {
            const double same = even[i * ld + j], turned = odd[i * ld + j];
            across[i * ld + j] = (same + turned) * inside[i * ld + j] + (same - turned) * inside[j * ld + i];
        }
    }
    pull(call, k, s, across, inside, ratio, source, room);
}

// in 6: gradient (); out: gradients of A and R
static void square_backward(const mn::Angles& call, int64_t k, double* memory) {
    const int p = call.p, m = call.m, ld = padded(p);
    Room room(memory, p, m);
    const Sample s = read(call, k, room);
    double *first = room.small(), *second = room.small(), *wide = room.wide();
    const double g = call.in[6][k];
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < ld; ++j) first[i * ld + j] = -2 * g * s.angles[i] * s.sine[i] * s.left_t[i * ld + j];
    mul(second, s.right_t, ld, first, p, p, p);
    pack(call.out[0] + k * p * p, p, second, p, p);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < ld; ++j)
            first[i * ld + j] = 2 * g * s.angles[i] / s.sine[i] * s.cosine[i] * s.right[i * ld + j];
    mul(second, s.right_t, ld, first, p, p, p);
    mul(wide, second, ld, s.wide, m, p, p);
    pack(call.out[1] + k * p * m, m, wide, p, m);
}

static void angles(const mn::Angles& call, int64_t begin, int64_t end, double* memory) {
    void (*const operations[])(const mn::Angles&, int64_t, double*) = {bases, shoot, dilate_backward,
                                                                        velocity_backward, square_backward};
    for (int64_t k = begin; k < end; ++k) operations[call.operation](call, k, memory);
}

extern const mn::AngleKernels angle_kernels;
const mn::AngleKernels angle_kernels = {angles_memory, angles};

}  // namespace MN_ISA
