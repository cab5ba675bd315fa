// Threads that wait for work between calls. One call at a time uses them; a second one at the same moment runs on its
// own thread alone. After a fork the child starts with a new pool: the parent's threads do not exist there.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

namespace mn {

struct Job {
    void (*run)(void* context, int64_t task);
    void* context;
    int64_t tasks;
    std::atomic<int64_t> next{0};

    void work() {
        for (int64_t task = next++; task < tasks; task = next++) run(context, task);
    }
};

class Pool {
  public:
    explicit Pool(pid_t process) : process_(process) {}

    pid_t process() const { return process_; }

    // Run the job on this thread and up to `helpers` others; false if the pool serves another call.
    bool run(Job& job, int helpers) {
        if (busy_.exchange(true)) return false;
        std::unique_lock<std::mutex> lock(mutex_);
        for (; threads_ < helpers; ++threads_) {
            try {
                std::thread(&Pool::wait_for_work, this).detach();
            } catch (const std::system_error&) {
                break;  // the system has no more threads: those that exist do the work
            }
        }
        job_ = &job;
        open_ = helpers < threads_ ? helpers : threads_;
        lock.unlock();
        wake_.notify_all();
        job.work();
        lock.lock();
        open_ = 0;  // whoever has not begun need not
        lock.unlock();
        const auto patience = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
        while (running_ != 0 && std::chrono::steady_clock::now() < patience) continue;  // to sleep costs as much
        lock.lock();
        idle_.wait(lock, [this] { return running_ == 0; });
        job_ = nullptr;
        lock.unlock();
        busy_ = false;
        return true;
    }

  private:
    void wait_for_work() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return open_ > 0; });
            --open_;
            ++running_;
            Job* const job = job_;
            lock.unlock();
            job->work();
            lock.lock();
            if (--running_ == 0) idle_.notify_one();
        }
    }

    const pid_t process_;
    std::atomic<bool> busy_{false};
    std::mutex mutex_;
    std::condition_variable wake_, idle_;
    Job* job_ = nullptr;
    int threads_ = 0, open_ = 0;
    std::atomic<int> running_{0};
};

// The pool of this process. Pools are never destroyed: their threads wait until the process ends.
inline Pool& pool() {
    static std::atomic<Pool*> current{nullptr};
    Pool* found = current.load();
    while (found == nullptr || found->process() != getpid()) {
        Pool* const fresh = new Pool(getpid());
        if (current.compare_exchange_strong(found, fresh)) return *fresh;
        delete fresh;
    }
    return *found;
}

inline void parallel(void (*run)(void*, int64_t), void* context, int64_t tasks, int threads) {
    Job job{run, context, tasks};
    const int helpers = static_cast<int>(tasks < threads ? tasks : threads) - 1;
    if (helpers < 1 || !pool().run(job, helpers)) job.work();
}

}  // namespace mn
