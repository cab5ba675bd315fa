// The steps of a batch norm on frames x (n x p, n = p + m), one sample after the other without leaving the cache, the
// decompositions some samples at a time; included once by each of baseline.cpp, avx2.cpp and avx512.cpp after
// angles.hpp and table.hpp. The formulas are those of _frames.py and principal.py: rows are transposed frames, "saved"
// are off, angles, sine, left and right of principal.py, S are the signs of the reflection in the origin.
#pragma once

#include "angles.hpp"
#include "grassmann_table.hpp"
#include "table.hpp"

namespace MN_ISA {

constexpr int kGroup = 2 * Simd<double>::W;  // samples that are decomposed together

// Memory of one thread, handed out from the front.
class Bump {
  public:
    explicit Bump(char* memory) : next_(memory), start_(memory) {}
    double* take(int64_t count) { return reinterpret_cast<double*>(bytes(count * 8)); }
    double* rows(int p, int n) { return take(static_cast<int64_t>(p) * padded(n)); }
    char* bytes(int64_t count) {
        char* const found = next_;
        next_ += (count + 63) / 64 * 64;
        return found;
    }
    int64_t used() const { return next_ - start_; }

  private:
    char *next_, *start_;
};

// The principal angles of some samples: where their parts stand, in this thread's memory or in the caller's.
struct Saved {
    double *off, *angles, *sine, *left, *right;
};

MN_INLINE Saved at(const Saved& all, int64_t k, int p, int m) {
    return {all.off + k * p * m, all.angles + k * p, all.sine + k * p, all.left + k * p * p, all.right + k * p * p};
}

struct Space {
    int p, m, n;
    double *scratch, *along, *gram, *squares, *a, *b, *c, *d, *small[4], *tall, *packed, *first[2], *second[2];
    Saved local;
    char* eigen;
    uint8_t* status;
    int64_t used;

    Space(char* memory, int p_, int m_) : p(p_), m(m_), n(p_ + m_) {
        Bump bump(memory);
        scratch = bump.take(angles_memory(p, n));
        along = bump.take(kGroup * p * p);
        gram = bump.take(kGroup * p * p);
        squares = bump.take(kGroup * p);
        local = {bump.take(kGroup * p * n), bump.take(kGroup * p), bump.take(kGroup * p), bump.take(kGroup * p * p),
                 bump.take(kGroup * p * p)};
        a = bump.rows(p, n), b = bump.rows(p, n), c = bump.rows(p, n), d = bump.rows(p, n);
        for (double*& place : small) place = bump.rows(p, p);
        tall = bump.rows(n, p);
        packed = bump.take(p * (p + n));
        first[0] = bump.rows(n, p), first[1] = bump.rows(p, n);
        second[0] = bump.rows(n, p), second[1] = bump.rows(p, n);
        eigen = bump.bytes(Workspace<double, 2>().carve(nullptr, p, true));
        status = reinterpret_cast<uint8_t*>(bump.bytes(kGroup));
        used = bump.used();
    }

    Space(const Space&) = delete;
};

static int64_t grassmann_memory(int p, int m) { return Space(nullptr, p, m).used; }

static int64_t grassmann_sum(int operation, int p, int m) {
    const int64_t n = p + m;
    if (operation == mn::kChordal) return n * n;
    if (operation == mn::kHessian) return n * p + p * p;
    return operation == mn::kTangents || operation == mn::kGradient || operation == mn::kPull ? n * p : 0;
}

// A frame (n x p), and its rows times a number, but with the sign of the reflection
static void frame_of(double* const frame[2], const double* x, double times, double reflected, int p, int n) {
    unpack(frame[0], x, p, n, p);
    transpose(frame[1], x, p, n, p);
    const int ld = padded(n);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < n; ++j) frame[1][i * ld + j] *= j < p ? times : reflected;
}

// rows S
static void reflect_rows(double* rows, int p, int n) {
    const int ld = padded(n);
    for (int i = 0; i < p; ++i)
        for (int j = p; j < n; ++j) rows[i * ld + j] = -rows[i * ld + j];
}

// rows (p x (p + m), their distance ld) of the parts
static void join(double* out, int ld, const double* along, const double* off, int p, int m) {
    copy_rows(out, ld, along, p, p, p);
    copy_rows(out + p, ld, off, m, p, m);
}

static void subtract(double* out, const double* other, int count) {
    for (int i = 0; i < count; ++i) out[i] -= other[i];
}

// Principal angles of `count` samples from along (A^T) and off, whose Gram matrices are formed here.
static bool decompose(Space& s, const Saved& saved, int count, int m) {
    const int p = s.p;
    for (int k = 0; k < count; ++k) {
        double* const off = saved.off + static_cast<int64_t>(k) * p * m;
        transpose(s.tall, off, m, p, m);
        mul(s.small[0], off, m, s.tall, p, p, m);
        pack(s.gram + k * p * p, p, s.small[0], p, p);
    }
    const mn::Eigen call{s.gram, s.squares, saved.right, s.status, count, p};
    if (eigen<double, double, 1>(call, 0, count > Simd<double>::W ? 2 : 1, s.eigen) != 0) return false;
    const mn::Angles all{mn::kBases, p, m, count, {s.along, s.squares, saved.right},
                         {saved.angles, saved.sine, saved.left}};
    for (int k = 0; k < count; ++k) bases(all, k, s.scratch);
    return true;
}

static mn::Angles one(const Saved& saved, int p, int m, const double* t, const double* g) {
    return {0, p, m, 1, {saved.off, saved.angles, saved.sine, saved.left, saved.right, t, g}, {}};
}

// The frame in rows (packed) at t times the way, or without t the velocity
static void shoot_one(double* out, Space& s, const Saved& saved, int m, const double* t) {
    mn::Angles call = one(saved, s.p, m, t, nullptr);
    call.out[0] = out;
    shoot(call, 0, s.scratch);
}

static Saved saved_in(const mn::Grassmann& call, int first, int64_t k, int m) {
    double* parts[5];
    for (int i = 0; i < 5; ++i) parts[i] = const_cast<double*>(call.in[first + i]);
    return at({parts[0], parts[1], parts[2], parts[3], parts[4]}, k, call.p, m);
}

static Saved saved_out(const mn::Grassmann& call, int first, int64_t k, int m, const Saved& local) {
    if (call.out[first] == nullptr) return local;
    return at({call.out[first], call.out[first + 1], call.out[first + 2], call.out[first + 3], call.out[first + 4]}, k,
              call.p, m);
}

// in 0: x; sum: x x^T
static void chordal(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s, double* sum) {
    const int p = s.p, n = s.n, ld = padded(n);
    for (int64_t k = begin; k < end; ++k) {
        const double* const x = call.in[0] + k * n * p;
        transpose(s.a, x, p, n, p);
        for (int j = 0; j < n; j += kStep) {  // strips of the lower triangle
            const int width = n - j < kStep ? n - j : kStep;
            for (int i = j; i < n; i += 6) {
                double block[6 * kStep];
                const int rows = n - i < 6 ? n - i : 6;
                columns_of<kVectors>(block, kStep, x + i * p, p, s.a + j, ld, rows, p);
                for (int r = 0; r < rows; ++r)
                    for (int c = 0; c < width; ++c) sum[(i + r) * n + j + c] += block[r * kStep + c];
            }
        }
    }
}

// Gram-Schmidt on the rows
static void orthonormal_rows(double* q, int p, int n) {
    const int ld = padded(n);
    for (int k = 0; k < p; ++k) {
        double* const row = q + k * ld;
        for (int j = 0; j < k; ++j) {
            const Vd part = broadcast(dot(q + j * ld, row, ld));
            for (int i = 0; i < ld; i += Simd<double>::W) store(row + i, fnma(part, load(q + j * ld + i), load(row + i)));
        }
        const double size = sqrt(dot(row, row, ld)), inverse = size > 0 ? 1 / size : 0;
        for (int i = 0; i < ld; ++i) row[i] *= inverse;
    }
}

// in 0: symmetric matrix (n x n, of which the lower triangle counts), 1: a frame to start from; number: a factor of the
// matrix; out 0: a frame of the space of the p largest eigenvalues, by orthogonal iteration. False if that takes too long
// or it cannot be told that they are the largest.
static bool dominant(const mn::Grassmann& call, Space& s, double* matrix) {
    const int p = s.p, n = s.n, ld = padded(n), small = padded(p);
    double total = 0;
    memset(matrix, 0, sizeof(double) * n * ld);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) {
            const double x = call.in[0][i * n + j] * call.number;
            matrix[i * ld + j] = matrix[j * ld + i] = x;
            total += (i == j ? 1 : 2) * x * x;
        }
    const double rounding = 0x1p-50 * sqrt(static_cast<double>(n) * p);
    double *q = s.a, *image = s.b, before = 1, residual = 1, square = 0, ratio = 1;
    transpose(q, call.in[1], p, n, p);
    orthonormal_rows(q, p, n);
    for (int step = 0; step < 40; ++step) {
        mul(image, q, ld, matrix, n, p, n);
        transpose(s.tall, q, ld, p, n);
        mul(s.small[0], image, ld, s.tall, p, p, n);  // Rayleigh's quotient
        mul(s.c, s.small[0], small, q, n, p, p);
        residual = square = 0;
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < n; ++j) {
                const double gap = image[i * ld + j] - s.c[i * ld + j];
                residual += gap * gap;
            }
        for (int i = 0; i < p; ++i) square += dot(s.small[0] + i * small, s.small[0] + i * small, small);
        residual = sqrt(residual);
        ratio = residual < before ? residual / before : 1;
        before = residual;
        orthonormal_rows(image, p, n);
        double* const spare = q;
        q = image, image = spare;
        if (!(residual * ratio > 0x1p-54 && residual > rounding)) break;
        if (step >= 6 && ratio > 0.4) return false;  // a decomposition is faster
    }
    if (!(residual * ratio <= 0x1p-54 || residual <= rounding)) return false;
    orthonormal_rows(q, p, n);
    pack(s.gram, p, s.small[0], p, p);
    const mn::Eigen values{s.gram, s.squares, s.local.right, s.status, 1, p};
    if (eigen<double, double, 1>(values, 0, 1, s.eigen) != 0) return false;
    // all other eigenvalues together are below the smallest of these
    const double others = total - square;
    if (!(s.squares[0] > 0 && others < 0.9 * s.squares[0] * s.squares[0])) return false;
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < n; ++j) call.out[0][j * p + i] = q[i * ld + j];
    return true;
}

// in 0: x, 1: base; out 1..: saved, p x n off the base; sum: the logarithms in rows
static bool tangents(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s, double* sum) {
    const int p = s.p, n = s.n, ld = padded(n), size = p * n;
    frame_of(s.first, call.in[1], 1, 1, p, n);
    for (int64_t first = begin; first < end; first += kGroup) {
        const int count = static_cast<int>(end - first < kGroup ? end - first : kGroup);
        const Saved saved = saved_out(call, 1, first, n, s.local);
        for (int k = 0; k < count; ++k) {
            transpose(s.a, call.in[0] + (first + k) * size, p, n, p);
            mul(s.small[0], s.a, ld, s.first[0], p, p, n);
            mul(s.b, s.small[0], padded(p), s.first[1], n, p, p);
            subtract(s.a, s.b, p * ld);
            pack(s.along + k * p * p, p, s.small[0], p, p);
            pack(saved.off + k * size, n, s.a, p, n);
        }
        if (!decompose(s, saved, count, n)) return false;
        for (int k = 0; k < count; ++k) {
            shoot_one(s.packed, s, at(saved, k, p, n), n, nullptr);
            for (int i = 0; i < size; ++i) sum[i] += s.packed[i];
        }
    }
    return true;
}

// in 0: x, 1: half the way to the mean; out 0..: saved, 5: squared lengths
static bool centre(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s) {
    const int p = s.p, m = s.m, n = s.n, ld = padded(n);
    frame_of(s.first, call.in[1], 2, -2, p, n);
    for (int64_t first = begin; first < end; first += kGroup) {
        const int count = static_cast<int>(end - first < kGroup ? end - first : kGroup);
        const Saved saved = saved_out(call, 0, first, m, s.local);
        for (int k = 0; k < count; ++k) {
            transpose(s.a, call.in[0] + (first + k) * n * p, p, n, p);
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

// in 0..: saved, 5: half the way to the bias or null; number: t; out 0: frames
static void finish(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s) {
    const int p = s.p, m = s.m, n = s.n, ld = padded(n);
    const bool biased = call.in[5] != nullptr;
    if (biased) frame_of(s.first, call.in[5], 2, 2, p, n);
    for (int64_t k = begin; k < end; ++k) {
        shoot_one(s.packed, s, saved_in(call, 0, k, m), m, &call.number);
        unpack(s.a, s.packed, n, p, n);
        if (biased) {
            reflect_rows(s.a, p, n);
            mul(s.small[0], s.a, ld, s.first[0], p, p, n);
            mul(s.b, s.small[0], padded(p), s.first[1], n, p, p);
            subtract(s.b, s.a, p * ld);
        }
        write_rows(call.out[0] + k * n * p, biased ? s.b : s.a, p, n);
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

// in 0: gradient in the frames, 1..: saved, 6: half the way to the bias or null, 7: to the mean or null; number: t;
// out 1: gradients in x, or without 7 in the centred samples in rows, 2: gradients in t; sum: in half the bias, in rows
static void gradient(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s, double* sum) {
    const int p = s.p, m = s.m, n = s.n, ld = padded(n), size = p * n;
    const bool biased = call.in[6] != nullptr, undo = call.in[7] != nullptr;
    if (biased) frame_of(s.first, call.in[6], 1, 1, p, n);
    if (undo) frame_of(s.second, call.in[7], 1, 1, p, n);
    for (int64_t k = begin; k < end; ++k) {
        const double* const given = call.in[0] + k * size;
        const Saved saved = saved_in(call, 1, k, m);
        transpose(s.a, given, p, n, p);
        if (biased) {  // y = z S h (2 h^T) - z S
            shoot_one(s.packed, s, saved, m, &call.number);
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
        mn::Angles back = one(saved, p, m, &call.number, s.packed);
        back.out[0] = s.along, back.out[1] = s.local.off, back.out[2] = call.out[2] + k;
        dilate_backward(back, 0, s.scratch);
        double* const out = call.out[1] + k * size;
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

// in 0: x, 1..: saved, 6: gradients in the centred samples in rows, 7: half the way to the mean; number: gradient in
// every squared length; out 1: gradients in x; sum: in half the mean, in rows
static void pull_back(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s, double* sum) {
    const int p = s.p, m = s.m, n = s.n, ld = padded(n), size = p * n;
    frame_of(s.second, call.in[7], 1, 1, p, n);
    for (int64_t k = begin; k < end; ++k) {
        const double* const x = call.in[0] + k * size;
        mn::Angles back = one(saved_in(call, 1, k, m), p, m, nullptr, &call.number);
        back.out[0] = s.along, back.out[1] = s.local.off;
        square_backward(back, 0, s.scratch);
        join(s.packed, n, s.along, s.local.off, p, m);
        const double* const given = call.in[6] + k * size;
        for (int i = 0; i < size; ++i) s.packed[i] += given[i];
        unpack(s.a, s.packed, n, p, n);
        undo_gradient(s.b, s.a, s);
        write_rows(call.out[1] + k * size, s.b, p, n);
        transpose(s.c, x, p, n, p);
        add_product(sum, s.small[0], s.c, 1, s);
        mul(s.small[1], s.c, ld, s.second[0], p, p, n);  // across
        add_product(sum, s.small[1], s.a, 2, s);
    }
}

MN_INLINE Vd x_cot_x(Vd x) {  // for 0 <= x < pi, not 0 itself
    const Vd half = sine_of(x * broadcast(0.5));
    return x * (broadcast(1.0) - broadcast(2.0) * half * half) / sine_of(x);
}

// in 0: a tangent vector (n x p) at the base, 1..: saved, p x n off the base; sum: what the Hessians of half the squared
// distances make of it, in rows, but for the product from the right with the sum of V (x cot x) V^T, which stands behind
static void hessian(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s, double* sum) {
    const int p = s.p, n = s.n, ld = padded(n), small = padded(p);
    double *const own = s.a, *const even = s.c, *const odd = s.first[1];
    unpack(s.first[0], call.in[0], p, n, p);
    for (int64_t k = begin; k < end; ++k) {
        const Saved saved = saved_in(call, 1, k, n);
        double *right = s.small[0], *left = s.small[1], *turned = s.small[2], *weighed = s.small[3];
        unpack(right, saved.right, p, p, p);
        unpack(left, saved.left, p, p, p);
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < p; ++j) right[i * small + j] /= saved.sine[i];
        unpack(s.a, saved.off, n, p, n);
        mul(s.b, right, small, s.a, n, p, p);  // W^T
        mul(turned, s.b, ld, s.first[0], p, p, n);
        mul(weighed, turned, small, left, p, p, p);  // W^T Y V
        double* const angles = right;  // in vectors: one row, then the kernels
        memset(angles, 0, sizeof(double) * small);
        memcpy(angles, saved.angles, sizeof(double) * p);
        for (int j = 0; j < p; j += Simd<double>::W) store(own + j, x_cot_x(load(angles + j) + broadcast(0x1p-511)));
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < small; j += Simd<double>::W) {
                const Vd row = broadcast(angles[i]), column = load(angles + j), tiny = broadcast(0x1p-511);
                const Vd gap = row - column;
                store(even + i * small + j, x_cot_x((gap < Vd{} ? -gap : gap) + tiny));
                store(odd + i * small + j, x_cot_x(row + column + tiny));
            }
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < small; ++j) {
                const double same = even[i * small + j], turn = odd[i * small + j];
                turned[i * small + j] = j < p ? ((same + turn) / 2 - own[j]) * weighed[i * small + j] +
                                                    (same - turn) / 2 * weighed[j * small + i]
                                              : 0;
            }
        transpose(weighed, left, small, p, p);
        mul(right, turned, small, weighed, p, p, p);
        add_product(sum, right, s.b, 1, s);
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < small; ++j) weighed[i * small + j] *= j < p ? own[i] : 0;
        mul(turned, left, small, weighed, p, p, p);
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < p; ++j) sum[p * n + i * p + j] += turned[i * small + j];
    }
}

// in 0: the gradient in each logarithm, in rows, 1..: saved, p x n off the base, 6: base; out 0: gradients in x, added to
static void tangents_gradient(const mn::Grassmann& call, int64_t begin, int64_t end, Space& s) {
    const int p = s.p, n = s.n, ld = padded(n), size = p * n;
    frame_of(s.first, call.in[6], 1, 1, p, n);
    for (int64_t k = begin; k < end; ++k) {
        mn::Angles back = one(saved_in(call, 1, k, n), p, n, nullptr, call.in[0]);
        back.out[0] = s.along, back.out[1] = s.local.off;
        velocity_backward(back, 0, s.scratch);
        unpack(s.a, s.local.off, n, p, n);
        unpack(s.small[1], s.along, p, p, p);
        mul(s.small[0], s.a, ld, s.first[0], p, p, n);
        subtract(s.small[1], s.small[0], p * padded(p));
        mul(s.b, s.small[1], padded(p), s.first[1], n, p, p);
        double* const out = call.out[0] + k * size;
        for (int i = 0; i < p; ++i)
            for (int j = 0; j < n; ++j) out[j * p + i] += s.a[i * ld + j] + s.b[i * ld + j];
    }
}

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

// in 0: frames, 1: other frames; number: t; out 0: the frames at t times the way to the others
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
    shoot_one(s.packed, s, s.local, n, &call.number);
    mul(s.b, s.packed, p + n, s.first[1], n, p, p);
    for (int i = 0; i < p; ++i)
        for (int j = 0; j < n; ++j) s.b[i * ld + j] += s.packed[i * (p + n) + p + j];
    write_rows(call.out[0] + k * size, s.b, p, n);
    return true;
}

static bool grassmann(const mn::Grassmann& call, int64_t begin, int64_t end, char* memory, double* partial) {
    Space s(memory, call.p, call.m);
    if (partial != nullptr) memset(partial, 0, sizeof(double) * grassmann_sum(call.operation, call.p, call.m));
    switch (call.operation) {
        case mn::kChordal: return chordal(call, begin, end, s, partial), true;
        case mn::kDominant: return dominant(call, s, call.out[1]);
        case mn::kTangents: return tangents(call, begin, end, s, partial);
        case mn::kShot: return shot(call, s);
        case mn::kCentre: return centre(call, begin, end, s);
        case mn::kFinish: return finish(call, begin, end, s), true;
        case mn::kGradient: return gradient(call, begin, end, s, partial), true;
        case mn::kPull: return pull_back(call, begin, end, s, partial), true;
        case mn::kHessian: return hessian(call, begin, end, s, partial), true;
        case mn::kTangentsGradient: return tangents_gradient(call, begin, end, s), true;
        case mn::kShotGradient: return shot_gradient(call, s), true;
    }
    for (int64_t k = begin; k < end; ++k)
        if (!move(call, k, s)) return false;
    return true;
}

extern const mn::GrassmannKernels grassmann_kernels;
const mn::GrassmannKernels grassmann_kernels = {grassmann_memory, grassmann_sum, grassmann};

}  // namespace MN_ISA
