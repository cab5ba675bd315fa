// The plain C interface: choice of the instruction set, memory and threads.
#include <new>

#include "kernels.hpp"
#include "scratch.hpp"
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

thread_local mn::Scratch scratch;

struct EigenJob {
    mn::Eigen call;
    const mn::Kernels* kernels;
    mn::Kind kind;
    int groups;
    std::atomic<int64_t> failed{0};

    static void run(void* context, int64_t task) {
        auto& job = *static_cast<EigenJob*>(context);
        const int lanes = job.kernels->lanes[job.kind];
        const int64_t first = task * lanes * job.groups, left = (job.call.batch - first + lanes - 1) / lanes;
        const int groups = left < job.groups ? static_cast<int>(left) : job.groups;
        const bool vectors = job.call.vectors != nullptr;
        char* const memory = scratch.reserve(job.kernels->eigen_memory[job.kind](job.call.n, vectors, groups));
        if (memory == nullptr) {
            const int64_t end = first + lanes * job.groups;
            for (int64_t k = first; k < end && k < job.call.batch; ++k) job.call.status[k] = 2, ++job.failed;
            return;
        }
        job.failed += job.kernels->eigen[job.kind](job.call, first, groups, memory);
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

thread_local mn::Scratch partials;
constexpr int kManyGroups = 64;  // up to this size more than two groups of matrices are iterated together

// Decompose a batch; returns how many failed.
int64_t run_eigen(const mn::Kernels* kernels, mn::Kind kind, const mn::Eigen& call, int threads) {
    const int n = call.n;
    const int64_t work = call.batch * n * n * (28 + n) * (kind < mn::kComplexDouble ? 16 : 40) / 100;  // nanoseconds
    const int useful = mn::useful_threads(call.vectors == nullptr ? work / 2 : work, threads);
    const int lanes = kernels->lanes[kind];
    const int64_t vectors_full = (call.batch + lanes - 1) / lanes;
    int groups = 1;  // large matrices in many groups would not stay in the second-level cache
    while (groups < (n > kManyGroups ? 2 : kernels->groups) && vectors_full >= 2 * groups * static_cast<int64_t>(useful))
        groups *= 2;
    EigenJob job{call, kernels, kind, groups};
    mn::parallel(EigenJob::run, &job, (vectors_full + groups - 1) / groups, useful);
    return job.failed;
}

// Run a fused operation; false if there is no memory for its sums.
bool run_fused(const mn::Kernels* kernels, int type, const mn::Fused& call, int threads) {
    const bool is_complex = type >= mn::kHermitianDouble;
    const int lanes = kernels->lanes[type % 2];
    const int64_t full = (call.batch + lanes - 1) / lanes, each = (full + kParts - 1) / kParts;
    const int64_t parts = (full + each - 1) / each, size = static_cast<int64_t>(call.n) * call.n;
    const bool terms = call.operation == mn::kBuresMeanAdjoint && call.kind == 1;
    const bool sums = call.out[2] != nullptr && mn::flags(call.operation) != 2 && !terms;
    char* const partial = sums ? partials.reserve(kParts * size * bytes(type)) : nullptr;
    if (sums && partial == nullptr) return false;
    FusedJob job{call, kernels, type, each * lanes, partial};
    const int64_t work = call.batch * size * call.n / (is_complex ? 1 : 4), numbers = is_complex ? 2 * size : size;
    mn::parallel(FusedJob::run, &job, parts, mn::useful_threads(work, threads));
    if (sums && type % 2 == 0) add_parts(partial, parts, numbers, static_cast<double*>(call.out[2]));
    if (sums && type % 2 == 1) add_parts(partial, parts, numbers, static_cast<float*>(call.out[2]));
    return true;
}

thread_local mn::Scratch statuses, between;

// Run one line of a program; false if it failed: nothing after it makes sense.
bool run_line(const mn::Kernels* kernels, int type, const mn::Instruction& line, char* const* buffers, int threads) {
    const auto at = [&](int64_t place) {
        return place < 0 ? nullptr : buffers[place >> 48] + (place & ((int64_t{1} << 48) - 1));
    };
    const auto* const index = reinterpret_cast<const int64_t*>(at(line.index));
    if (line.operation == mn::kEigen) {
        auto* const status = reinterpret_cast<uint8_t*>(statuses.reserve(line.batch));
        if (status == nullptr) return false;
        const mn::Eigen call{at(line.in[0]), at(line.out[0]), at(line.out[1]), status, line.batch, line.n};
        return run_eigen(kernels, type == 0 ? mn::kDouble : mn::kSingle, call, threads) == 0;
    }
    if (line.operation < mn::kOperations) {
        mn::Fused call{line.operation, line.kind, line.n, line.batch, {}, {}, line.number[0], index};
        for (int k = 0; k < mn::kInputs; ++k) call.in[k] = at(line.in[k]);
        for (int k = 0; k < mn::kOutputs; ++k) call.out[k] = at(line.out[k]);
        const int flags = mn::flags(line.operation);
        if (flags < 0) return run_fused(kernels, type, call, threads);
        auto* const failed = reinterpret_cast<uint8_t*>(statuses.reserve(line.batch));
        call.out[flags] = failed;
        if (failed == nullptr || !run_fused(kernels, type, call, threads)) return false;
        for (int64_t k = 0; k < line.batch; ++k)
            if (failed[k]) return false;
        return true;
    }
    mn::Step step{line.operation, line.kind, line.n, line.batch, line.width, {}, {}, {}, index, line.groups};
    step.number[0] = line.number[0], step.number[1] = line.number[1];
    for (int k = 0; k < mn::kInputs; ++k) step.in[k] = at(line.in[k]);
    for (int k = 0; k < mn::kOutputs; ++k) step.out[k] = at(line.out[k]);
    return kernels->step[type](step);
}

}  // namespace

#define MN_EXPORT extern "C" __attribute__((visibility("default")))

MN_EXPORT int mn_interface(void) { return 6; }  // changes with every change of the functions below

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
    return run_eigen(kernels, static_cast<mn::Kind>(kind), {matrices, values, vectors, status, batch, n}, threads);
}

// Run one fused operation on a batch of contiguous matrices, real in double (type 0) or single precision (1), or
// complex (2, 3). Returns -1 for an argument out of range.
MN_EXPORT int mn_fused(int isa, int type, const mn::Fused* call, int threads) {
    const mn::Kernels* const kernels = table(isa);
    if (kernels == nullptr || type < 0 || type >= mn::kTypes) return -1;
    if (call->operation < 0 || call->operation >= mn::kOperations) return -1;
    if (call->batch < 1 || call->n < 1) return -1;
    if (type >= mn::kHermitianDouble && !hermitian(call->operation)) return -1;
    return run_fused(kernels, type, *call, threads) ? 0 : -1;
}

// Run `count` lines of a program on the buffers that their operands name; returns how many lines ran before one failed
// (a matrix is not positive definite, a number not finite), or -1 for an argument out of range. With `scratch` > 0 the
// second buffer is so many bytes of the library's own, which the thread keeps.
MN_EXPORT int mn_program(int isa, int type, const mn::Instruction* lines, int count, char** buffers, int64_t scratch,
                         int threads) {
    const mn::Kernels* const kernels = table(isa);
    if (kernels == nullptr || type < 0 || type > 1) return -1;
    if (scratch > 0 && (buffers[1] = between.reserve(scratch)) == nullptr) return 0;
    for (int k = 0; k < count; ++k) {
        const mn::Instruction& line = lines[k];
        if (line.operation < 0 || line.operation >= mn::kStepOperations || line.batch < 1 || line.n < 1) return -1;
        if (!run_line(kernels, type, line, buffers, threads)) return k;
    }
    return count;
}
