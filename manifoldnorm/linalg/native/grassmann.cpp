// The plain C interface of the kernels of batches of frames: threads, memory, and sums over the batch.
#include "grassmann_table.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace {

constexpr int kLargest = 96;
// The batch is cut into parts that depend on its size alone, so that sums over it do not depend on the threads; each
// holds as many samples as are decomposed together.
constexpr int64_t kParts = 16, kTogether = 16;

thread_local mn::Scratch scratch, partials;

struct GrassmannJob {
    const mn::Grassmann& call;
    const mn::GrassmannKernels& kernels;
    int64_t part, size;
    double* partial;  // a sum per part, or one for each of its groups, or null
    int64_t apart;    // from one part's sums to the next
    std::atomic<int> failed{0};

    static void run(void* context, int64_t task) {
        auto& job = *static_cast<GrassmannJob*>(context);
        const int64_t begin = task * job.part, end = begin + job.part;
        char* const memory = scratch.reserve(job.kernels.memory(job.call.p, job.call.m));
        double* const sum = job.partial == nullptr ? nullptr : job.partial + task * job.apart;
        if (memory == nullptr ||
            !job.kernels.run(job.call, begin, end < job.call.batch ? end : job.call.batch, memory, sum))
            job.failed = 1;
    }
};

const mn::GrassmannKernels& table(int isa) {
#if defined(__x86_64__)
    if (isa == 2) return mn_avx512::grassmann_kernels;
    if (isa == 1) return mn_avx2::grassmann_kernels;
#endif
    return mn_baseline::grassmann_kernels;
}

// Add what the parts have to the groups' sums; `partial` has those of a part's groups one behind the other.
void add_groups(const mn::Grassmann& call, const double* partial, int64_t part, int64_t apart, int64_t size) {
    for (int64_t k = 0; k < call.groups * size; ++k) call.out[0][k] = 0;
    for (int64_t begin = 0; begin < call.batch; begin += part, partial += apart) {
        const double* sum = partial;
        for (int64_t b = begin; b < call.batch && b < begin + part; ++b) {
            if (b > begin && call.index[b] == call.index[b - 1]) continue;
            double* const out = call.out[0] + call.index[b] * size;
            for (int64_t k = 0; k < size; ++k) out[k] += sum[k];
            sum += size;
        }
    }
}

}  // namespace

// Run one operation on contiguous operands; `isa` is one that mn_best() says this processor has. Returns -1 for an
// argument out of range, 1 if an iteration did not end or without memory.
extern "C" __attribute__((visibility("default"))) int mn_grassmann(int isa, const mn::Grassmann* call, int threads) {
    if (call->operation < 0 || call->operation >= mn::kGrassmannOperations || isa < 0 || isa > 2) return -1;
    if (call->batch < 1 || call->p < 1 || call->p > kLargest || call->m < 1) return -1;
    const mn::GrassmannKernels& kernels = table(isa);
    const int64_t each = (call->batch + kParts - 1) / kParts, part = (each + kTogether - 1) / kTogether * kTogether;
    const int64_t parts = (call->batch + part - 1) / part, size = kernels.sum(call->operation, call->p, call->m);
    const bool grouped = mn::sums_by_group(*call);
    const int64_t apart = grouped ? size * (call->groups < part ? call->groups : part) : size;
    double* const partial = size ? reinterpret_cast<double*>(partials.reserve(parts * apart * 8)) : nullptr;
    if (size && partial == nullptr) return 1;
    GrassmannJob job{*call, kernels, part, size, partial, apart};
    const int64_t work = call->batch * call->p * call->p * (call->p + call->m);
    mn::parallel(GrassmannJob::run, &job, parts, mn::useful_threads(2 * work, threads));
    if (grouped && size) add_groups(*call, partial, part, apart, size);
    for (int64_t k = 0; k < size && !grouped; ++k) {
        double sum = 0;
        for (int64_t i = 0; i < parts; ++i) sum += partial[i * size + k];
        call->out[0][k] = sum;
    }
    return job.failed;
}
