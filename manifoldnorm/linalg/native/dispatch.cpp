// The plain C interface: choice of the instruction set, memory and threads.
#include <stdlib.h>

#include <new>

#include "kernels.hpp"
#include "threads.hpp"

namespace {

enum Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

const mn::Kernels* table(int isa) {
#if defined(__x86_64__)
    if (isa == kAvx512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return &mn_avx512::kernels;
    if (isa == kAvx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &mn_avx2::kernels;
#endif
    return isa == kBaseline ? &mn_baseline::kernels : nullptr;
}

// Memory that a thread keeps from call to call: fresh pages cost more than the arithmetic on them.
class Scratch {
  public:
    ~Scratch() { free(memory_); }

    char* reserve(int64_t bytes) {
        if (bytes <= size_) return memory_;
        free(memory_);
        void* fresh = nullptr;
        size_ = posix_memalign(&fresh, 64, static_cast<size_t>(bytes)) == 0 ? bytes : 0;
        memory_ = size_ ? static_cast<char*>(fresh) : nullptr;
        return memory_;
    }

  private:
    char* memory_ = nullptr;
    int64_t size_ = 0;
};

thread_local Scratch scratch;

struct EigenJob {
    mn::Eigen call;
    const mn::Kernels* kernels;
    mn::Kind kind;
    int groups;
    std::atomic<int64_t> failed{0};

    static void run(void* context, int64_t task) {
        auto& job = *static_cast<EigenJob*>(context);
        const int64_t first = task * job.kernels->lanes[job.kind] * job.groups;
        const bool vectors = job.call.vectors != nullptr;
        char* const memory = scratch.reserve(job.kernels->eigen_memory[job.kind](job.call.n, vectors, job.groups));
        if (memory == nullptr) {
            const int64_t end = first + job.kernels->lanes[job.kind] * job.groups;
            for (int64_t k = first; k < end && k < job.call.batch; ++k) job.call.status[k] = 2, ++job.failed;
            return;
        }
        job.failed += job.kernels->eigen[job.kind](job.call, first, job.groups, memory);
    }
};

// The batch is cut into parts that depend on its size alone, so that sums over it do not depend on the threads.
constexpr int64_t kParts = 16;

int bytes(int type) { return (type % 2 == 0 ? 8 : 4) * (type < mn::kHermitianDouble ? 1 : 2); }

// Whether an operation has a Hermitian form.
bool hermitian(int operation) {
    return operation <= mn::kAdjoint || operation == mn::kSandwich || operation == mn::kSumOfKernels;
}

struct FusedJob {
    const mn::Fused& call;
    const mn::Kernels* kernels;
    int type;
    int64_t part;
    char* partial;  // a matrix per part, or null

    static void run(void* context, int64_t task) {
        auto& job = *static_cast<FusedJob*>(context);
        const int64_t begin = task * job.part, end = begin + job.part;
        const int64_t size = static_cast<int64_t>(job.call.n) * job.call.n * bytes(job.type);
        char* const memory = scratch.reserve(job.kernels->fused_memory[job.type](job.call.n));
        if (memory == nullptr) abort();  // a few hundred kilobytes
        job.kernels->fused[job.type](job.call, begin, end < job.call.batch ? end : job.call.batch, memory,
                                     job.partial == nullptr ? nullptr : job.partial + task * size);
    }
};

template <class T> void add_parts(const char* partial, int64_t parts, int64_t size, T* sum) {
    for (int64_t k = 0; k < size; ++k) {
        sum[k] = 0;
        for (int64_t p = 0; p < parts; ++p) sum[k] += reinterpret_cast<const T*>(partial)[p * size + k];
    }
}

thread_local Scratch partials;

// A further thread pays from about 150 microseconds of work on.
int useful_threads(int64_t nanoseconds, int threads) {
    const int64_t useful = 1 + nanoseconds / 150000;
    return useful < threads ? static_cast<int>(useful) : threads;
}

}  // namespace

#define MN_EXPORT extern "C" __attribute__((visibility("default")))

MN_EXPORT int mn_interface(void) { return 3; }  // changes with every change of the functions below

// The best instruction set of this processor: 0 baseline, 1 AVX2, 2 AVX-512.
MN_EXPORT int mn_best(void) {
    for (int isa = kAvx512; isa > kBaseline; --isa)
        if (table(isa) != nullptr) return isa;
    return kBaseline;
}

// Decompose `batch` contiguous n x n matrices, Hermitian ones for the complex kinds. Writes ascending eigenvalues
// (batch, n), if `vectors` is not null the eigenvectors, conjugated, as rows (batch, n, n), and a status per matrix:
// 0, 1 (not finite: the result is NaN), 2 (failed).
// Returns how many failed, or -1 for an argument out of range.
MN_EXPORT int64_t mn_eigen(int isa, int kind, const void* matrices, void* values, void* vectors, uint8_t* status,
                           int64_t batch, int n, int threads) {
    const mn::Kernels* const kernels = table(isa);
    if (kernels == nullptr || kind < 0 || kind >= mn::kKinds || batch < 0 || n < 0) return -1;
    if (batch == 0 || n == 0) return 0;
    const int64_t work = batch * n * n * (28 + n) * (kind < mn::kComplexDouble ? 16 : 40) / 100;  // nanoseconds
    const int useful = useful_threads(vectors == nullptr ? work / 2 : work, threads);
    const int lanes = kernels->lanes[kind];
    const int64_t vectors_full = (batch + lanes - 1) / lanes;
    const int groups = vectors_full >= 2 * static_cast<int64_t>(useful) && vectors_full > 1 ? 2 : 1;
    EigenJob job{{matrices, values, vectors, status, batch, n}, kernels, static_cast<mn::Kind>(kind), groups};
    mn::parallel(EigenJob::run, &job, (vectors_full + groups - 1) / groups, useful);
    return job.failed;
}

// Run one fused operation on a batch of contiguous matrices, real in double (type 0) or single precision (1), or
// complex (2, 3). Returns -1 for an argument out of range.
MN_EXPORT int mn_fused(int isa, int type, const mn::Fused* call, int threads) {
    const mn::Kernels* const kernels = table(isa);
    if (kernels == nullptr || type < 0 || type >= mn::kTypes) return -1;
    if (call->operation < 0 || call->operation >= mn::kOperations) return -1;
    if (call->batch < 1 || call->n < 1) return -1;
    const bool is_complex = type >= mn::kHermitianDouble;
    if (is_complex && !hermitian(call->operation)) return -1;
    const int lanes = kernels->lanes[type % 2];
    const int64_t full = (call->batch + lanes - 1) / lanes, each = (full + kParts - 1) / kParts;
    const int64_t parts = (full + each - 1) / each, size = static_cast<int64_t>(call->n) * call->n;
    const bool sums = call->out[2] != nullptr && call->operation != mn::kCholesky;
    char* const partial = sums ? partials.reserve(kParts * size * bytes(type)) : nullptr;
    if (sums && partial == nullptr) return -1;
    FusedJob job{*call, kernels, type, each * lanes, partial};
    const int64_t work = call->batch * size * call->n / (is_complex ? 1 : 4), numbers = is_complex ? 2 * size : size;
    mn::parallel(FusedJob::run, &job, parts, useful_threads(work, threads));
    if (sums && type % 2 == 0) add_parts(partial, parts, numbers, static_cast<double*>(call->out[2]));
    if (sums && type % 2 == 1) add_parts(partial, parts, numbers, static_cast<float*>(call->out[2]));
    return 0;
}
