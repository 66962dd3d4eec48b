// Scratch memory that lives on: a page touched for the first time costs as much as several passes over it. (Arrays that
// Python sees have a pool of their own, hegpu/backend/pool.py.)
#pragma once
#include <cstddef>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace hegpu {

// Free buffers by size, at most kHeld bytes of them. Safe from any thread.
class Pool {
public:
    static constexpr size_t kHeld = (size_t)256 << 20;

    static Pool& shared() {
        static Pool* pool = new Pool;  // never destroyed: threads may outlive the module
        return *pool;
    }
    void* take(size_t bytes) {
        bytes = rounded(bytes);
        {
            std::lock_guard lock(mutex_);
            auto found = free_.find(bytes);
            if (found != free_.end() && !found->second.empty()) {
                void* p = found->second.back();
                found->second.pop_back(), held_ -= bytes;
                return p;
            }
        }
        void* p = std::aligned_alloc(bytes >= kHuge ? kHuge : 4096, bytes);
        if (!p) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        if (bytes >= kHuge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
        return p;
    }
    void give(void* p, size_t bytes) {
        bytes = rounded(bytes);
        std::lock_guard lock(mutex_);
        if (held_ + bytes > kHeld) return std::free(p);
        free_[bytes].push_back(p), held_ += bytes;
    }
    size_t held() {
        std::lock_guard lock(mutex_);
        return held_;
    }

private:
    static constexpr size_t kHuge = (size_t)2 << 20;
    static size_t rounded(size_t bytes) {
        const size_t unit = bytes >= kHuge ? kHuge : 4096;
        return (bytes + unit - 1) / unit * unit;
    }
    std::mutex mutex_;
    std::map<size_t, std::vector<void*>> free_;
    size_t held_ = 0;
};

// Words of the pool, uninitialised.
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(size_t words) : words_(words), data_((uint32_t*)Pool::shared().take(words * 4)) {}
    Buffer(Buffer&& other) noexcept
        : words_(std::exchange(other.words_, 0)), data_(std::exchange(other.data_, nullptr)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(words_, other.words_), std::swap(data_, other.data_);
        return *this;
    }
    ~Buffer() {
        if (data_) Pool::shared().give(data_, words_ * 4);
    }
    uint32_t* data() const { return data_; }
    uint32_t* row(size_t i, size_t n) const { return data_ + i * n; }

private:
    size_t words_ = 0;
    uint32_t* data_ = nullptr;
};

}  // namespace hegpu
