// Memory and small helpers for frames x (n x p, n = p + m). The formulas are those of _frames.py and principal.py: rows
// are transposed frames, "saved" are off, angles, sine, left and right of principal.py, S are the signs of the
// reflection in the origin.
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

// Sums over the samples, or over those of each of their groups, one behind the other.
class Sums {
  public:
    Sums(const int64_t* index, int64_t begin, double* sum, int64_t size)
        : index_(index), last_(begin), size_(size), sum_(sum) {
        if (sum != nullptr) memset(sum, 0, sizeof(double) * size);
    }
    double* of(int64_t k) {  // for k that do not fall
        if (index_ != nullptr && index_[k] != index_[last_]) memset(sum_ += size_, 0, sizeof(double) * size_);
        last_ = k;
        return sum_;
    }

  private:
    const int64_t* index_;
    int64_t last_, size_;
    double* sum_;
};

// Says when samples, one after the other, come to another group.
class Groups {
  public:
    explicit Groups(const mn::Grassmann& call) : call_(call) {}
    bool change(int64_t k) {
        const int64_t before = group;
        group = call_.group(k);
        return group != before;
    }
    int64_t group = -1;

  private:
    const mn::Grassmann& call_;
};

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

}  // namespace MN_ISA
