// The plain C interface of the kernels of principal angles: threads and memory.
#include <stdlib.h>

#include "angles_table.hpp"
#include "threads.hpp"

namespace {

struct AngleJob {
    const mn::Angles& call;
    const mn::AngleKernels& kernels;
    int64_t part;
    std::atomic<int> failed{0};

    static void run(void* context, int64_t task) {
        auto& job = *static_cast<AngleJob*>(context);
        const int64_t begin = task * job.part, end = begin + job.part;
        void* memory = nullptr;
        const int64_t bytes = job.kernels.memory(job.call.p, job.call.m) * static_cast<int64_t>(sizeof(double));
        if (posix_memalign(&memory, 64, static_cast<size_t>(bytes)) != 0) {
            job.failed = 1;
            return;
        }
        job.kernels.run(job.call, begin, end < job.call.batch ? end : job.call.batch, static_cast<double*>(memory));
        free(memory);
    }
};

const mn::AngleKernels& table(int isa) {
#if defined(__x86_64__)
    if (isa == 2) return mn_avx512::angle_kernels;
    if (isa == 1) return mn_avx2::angle_kernels;
#endif
    return mn_baseline::angle_kernels;
}

}  // namespace

// Run one operation on contiguous operands; `isa` is one that mn_best() says this processor has. Returns -1 for an
// argument out of range, 1 without memory.
extern "C" __attribute__((visibility("default"))) int mn_angles(int isa, const mn::Angles* call, int threads) {
    if (call->operation < 0 || call->operation >= mn::kAngleOperations) return -1;
    if (call->batch < 0 || call->p < 1 || call->p > mn::kLargestAngles || call->m < 1 || isa < 0 || isa > 2) return -1;
    if (call->batch == 0) return 0;
    // a further thread pays from some dozens of samples on
    const int64_t work = static_cast<int64_t>(call->p) * call->p * (call->p + call->m);
    const int64_t least = 1 + 200000 / work, parts = threads < 1 ? 1 : threads;
    int64_t part = (call->batch + parts - 1) / parts;
    part = part < least ? least : part;
    AngleJob job{*call, table(isa), part};
    mn::parallel(AngleJob::run, &job, (call->batch + part - 1) / part, threads);
    return job.failed;
}
