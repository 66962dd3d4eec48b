// Tasks over threads. Threads live for one call: nothing to break at fork(), any number of callers at once.
#pragma once
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace hegpu {

// Runs body(worker, task) for every task; worker < the number of threads used. `cost` is a rough count of
// nanoseconds per task: a thread is started only for work that pays for it.
template <class Body>
void parallel_for(size_t tasks, int threads, double cost, Body body) {
    size_t useful = (size_t)(tasks * cost / 30e3) + 1;
    size_t count = std::min({tasks, (size_t)(threads > 0 ? threads : 1), useful});
    if (count <= 1) {
        for (size_t t = 0; t < tasks; t++) body((size_t)0, t);
        return;
    }
    std::atomic<size_t> next{0};
    std::exception_ptr error;
    std::mutex mutex;
    auto work = [&](size_t worker) {
        try {
            for (size_t t; (t = next.fetch_add(1)) < tasks;) body(worker, t);
        } catch (...) {
            std::lock_guard lock(mutex);
            error = std::current_exception();
            next = tasks;
        }
    };
    std::vector<std::thread> others;
    for (size_t i = 1; i < count; i++) others.emplace_back(work, i);
    work(0);
    for (auto& t : others) t.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace hegpu
