// Memory and the number of threads of one call.
#pragma once

#include <stdint.h>
#include <stdlib.h>

namespace mn {

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

// A further thread pays from about 150 microseconds of work on.
inline int useful_threads(int64_t nanoseconds, int threads) {
    const int64_t useful = 1 + nanoseconds / 150000;
    return useful < threads ? static_cast<int>(useful) : threads;
}

}  // namespace mn
