// What Python calls: batches over rows and threads. Shapes and ranges are checked in hegpu/backend/cpu.py; here every
// buffer's size is checked against what the kernel will touch, so that no call can leave its memory.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>

#include "kernels.hpp"
#include "parallel.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace hegpu;

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <class T>
using Strided = nb::ndarray<T, nb::ndim<3>, nb::device::cpu>;
using In = Array<const uint32_t>;
using Out = Array<uint32_t>;

inline std::vector<std::string> levels() {
    std::vector<std::string> r{"scalar"};
#if defined(HEGPU_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) r.push_back("avx2");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512vpopcntdq"))
        r.push_back("avx512");
#endif
    return r;
}

inline void need(bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
}

struct Cpu {
    const Kernels* k;
    int threads;

    Cpu(const std::string& level, int threads_) : threads(threads_) {
        auto have = levels();
        need(std::find(have.begin(), have.end(), level) != have.end(), "this processor lacks that SIMD level");
        k = &kernels_scalar();
#if defined(HEGPU_X86)
        if (level == "avx2") k = &kernels_avx2();
        if (level == "avx512") k = &kernels_avx512();
#endif
    }

    static void check_ring(const In& moduli, size_t n) {
        need(n >= 256 && n <= 65536 && (n & (n - 1)) == 0, "n is not a power of two from 2^8 to 2^16");
        for (size_t l = 0; l < moduli.size(); l++)
            need(moduli.data()[l] > 2 && moduli.data()[l] < (1u << 30), "a modulus is not below 2^30");
    }
    static size_t rows(size_t size, const In& moduli, size_t n) {
        check_ring(moduli, n);
        need(moduli.size() && size % (moduli.size() * n) == 0, "array size is not a multiple of limbs * n");
        return size / n;
    }

    // op 0 add, 1 sub, 2 mul; y repeats every y.size() residues.
    void binary(int op, Out out, In x, In y, In moduli, size_t n) const {
        size_t r = rows(out.size(), moduli, n), limbs = moduli.size();
        need(x.size() == out.size() && y.size() && out.size() % y.size() == 0 && y.size() % (limbs * n) == 0, "sizes");
        auto* f = op == 0 ? k->add : op == 1 ? k->sub : k->mul;
        size_t period = y.size() / n;
        nb::gil_scoped_release release;
        parallel_for(r, threads, n * 0.4, [&](size_t, size_t i) {
            f(out.data() + i * n, x.data() + i * n, y.data() + i % period * n, n, moduli.data()[i % limbs]);
        });
    }
    void multiply_accumulate(Out out, In acc, In x, In y, In moduli, size_t n) const {
        size_t r = rows(out.size(), moduli, n), limbs = moduli.size();
        need(acc.size() == out.size() && x.size() == out.size() && y.size() && out.size() % y.size() == 0 &&
                 y.size() % (limbs * n) == 0,
             "sizes");
        size_t period = y.size() / n;
        nb::gil_scoped_release release;
        parallel_for(r, threads, n * 0.5, [&](size_t, size_t i) {
            k->multiply_accumulate(out.data() + i * n, acc.data() + i * n, x.data() + i * n, y.data() + i % period * n,
                                   n, moduli.data()[i % limbs]);
        });
    }
    void mul_scalar(Out out, In x, In scalars, In moduli, size_t n) const {
        size_t r = rows(out.size(), moduli, n), limbs = moduli.size();
        need(x.size() == out.size() && scalars.size() == limbs, "sizes");
        nb::gil_scoped_release release;
        parallel_for(r, threads, n * 0.3, [&](size_t, size_t i) {
            uint32_t q = moduli.data()[i % limbs], w = scalars.data()[i % limbs] % q;
            k->mul_scalar(out.data() + i * n, x.data() + i * n, w, shoup_quotient(w, q), n, q);
        });
    }
    void from_signed(Out out, Array<const int64_t> x, In moduli, size_t n) const {
        size_t r = rows(out.size(), moduli, n), limbs = moduli.size();
        need(x.size() * limbs == out.size(), "sizes");
        nb::gil_scoped_release release;
        parallel_for(r, threads, n * 2.0, [&](size_t, size_t i) {
            k->from_signed(out.data() + i * n, x.data() + i / limbs * n, n, moduli.data()[i % limbs]);
        });
    }

    std::vector<std::shared_ptr<const NttTables>> tables(const In& moduli, size_t n) const {
        std::vector<std::shared_ptr<const NttTables>> t;
        for (size_t l = 0; l < moduli.size(); l++) t.push_back(ntt_tables((uint32_t)n, moduli.data()[l]));
        return t;
    }
    void transform(Out x, In moduli, size_t n, bool inverse) const {
        size_t r = rows(x.size(), moduli, n), limbs = moduli.size();
        nb::gil_scoped_release release;
        auto t = tables(moduli, n);
        parallel_for(r, threads, n * 1.5,
                     [&](size_t, size_t i) { (inverse ? k->intt : k->ntt)(x.data() + i * n, *t[i % limbs]); });
    }

    void switch_to_power_of_two(Out out, In x, In moduli, size_t n, uint32_t bits) const {
        size_t limbs = moduli.size();
        check_ring(moduli, n);
        need(limbs && out.size() % n == 0 && x.size() == out.size() * limbs && bits >= 1 && bits <= 32, "sizes");
        nb::gil_scoped_release release;
        parallel_for(out.size() / n, threads, n * 0.5 * limbs, [&](size_t, size_t i) {
            k->switch_bits(out.data() + i * n, x.data() + i * limbs * n, n, bits, moduli.data(), limbs);
        });
    }

    static constexpr size_t kGroup = 8;  // neighbouring columns moved together: fewer pages and DRAM rows touched

    // points [limb, n/16, rows, columns, 16] <-> x [rows, count, limb, n]
    template <class Body>
    void points_rows(size_t points_size, In moduli, size_t n, size_t r, size_t columns, size_t first, size_t step,
                     size_t count, double cost, Body body) const {
        size_t limbs = moduli.size(), groups = (count + kGroup - 1) / kGroup;
        check_ring(moduli, n);
        need(step > 0 && (count == 0 || first + (count - 1) * step < columns) && points_size == limbs * n * r * columns,
             "sizes");
        nb::gil_scoped_release release;
        auto t = tables(moduli, n);
        std::vector<std::vector<uint32_t>> buffers((size_t)std::max(threads, 1));
        parallel_for(r * limbs * groups, threads, cost * n * kGroup, [&](size_t worker, size_t task) {
            auto& buffer = buffers[worker];
            buffer.resize(kGroup * n);
            size_t c0 = task % groups * kGroup, l = task / groups % limbs, row = task / groups / limbs;
            size_t here = std::min(kGroup, count - c0);
            size_t at = (l * (n / 16) * r * columns + row * columns + first + c0 * step) * 16;
            body(buffer.data(), row, c0, here, l, at, *t[l]);
        });
    }
    void store_points(Out points, In x, In moduli, size_t n, size_t r, size_t columns, size_t first, size_t step,
                      size_t count, bool transform) const {
        size_t limbs = moduli.size(), line = r * columns * 16;
        need(x.size() == r * count * limbs * n, "sizes");
        points_rows(points.size(), moduli, n, r, columns, first, step, count, 1.5,
                    [&](uint32_t* rows_, size_t row, size_t c0, size_t here, size_t l, size_t at, const NttTables& t) {
                        for (size_t c = 0; c < here; c++) {
                            const uint32_t* from = x.data() + ((row * count + c0 + c) * limbs + l) * n;
                            std::copy(from, from + n, rows_ + c * n);
                            if (transform) k->ntt(rows_ + c * n, t);
                        }
                        k->scatter(points.data() + at, line, step, rows_, here, n);
                    });
    }
    void load_points(Out x, In points, In moduli, size_t n, size_t r, size_t columns, size_t first, size_t step,
                     size_t count, bool transform) const {
        size_t limbs = moduli.size(), line = r * columns * 16;
        need(x.size() == r * count * limbs * n, "sizes");
        points_rows(points.size(), moduli, n, r, columns, first, step, count, 1.5,
                    [&](uint32_t* rows_, size_t row, size_t c0, size_t here, size_t l, size_t at, const NttTables& t) {
                        k->gather(rows_, points.data() + at, line, step, here, n);
                        for (size_t c = 0; c < here; c++) {
                            if (transform) k->intt(rows_ + c * n, t);
                            std::copy(rows_ + c * n, rows_ + (c + 1) * n,
                                      x.data() + ((row * count + c0 + c) * limbs + l) * n);
                        }
                    });
    }
    void expand_points(Out points, nb::bytes key, uint32_t domain, In objects, In moduli, size_t n, size_t r,
                       size_t columns, size_t first, size_t step, size_t count) const {
        auto words = key_words(key);
        size_t line = r * columns * 16;
        need(objects.size() == r * count, "sizes");
        points_rows(points.size(), moduli, n, r, columns, first, step, count, 2.0,
                    [&](uint32_t* rows_, size_t row, size_t c0, size_t here, size_t l, size_t at, const NttTables& t) {
                        for (size_t c = 0; c < here; c++)
                            k->uniform(rows_ + c * n,
                                       {words.data(), domain, objects.data()[row * count + c0 + c], (uint32_t)l}, n,
                                       t.q);
                        k->scatter(points.data() + at, line, step, rows_, here, n);
                    });
    }
    void point_matmul(Out y, In w, In x, In moduli, size_t n, size_t rows_, size_t inner, size_t columns) const {
        check_ring(moduli, n);
        size_t limbs = moduli.size(), blocks = n / 16;
        need(y.size() == limbs * n * rows_ * columns && w.size() == limbs * n * rows_ * inner &&
                 x.size() == limbs * n * inner * columns,
             "sizes");
        nb::gil_scoped_release release;
        std::vector<std::unique_ptr<void, void (*)(void*)>> buffers;
        for (int i = 0; i < std::max(threads, 1); i++)
            buffers.emplace_back(k->matmul_buffers_make(), k->matmul_buffers_free);
        parallel_for(limbs * blocks, threads, 16 * 0.06 * rows_ * inner * columns, [&](size_t worker, size_t t) {
            k->matmul(y.data() + t * rows_ * columns * 16, w.data() + t * rows_ * inner * 16,
                      x.data() + t * inner * columns * 16, rows_, inner, columns, moduli.data()[t / blocks],
                      buffers[worker].get());
        });
    }

    static std::vector<uint32_t> key_words(const nb::bytes& key) {
        need(key.size() == 32, "a stream key has 32 bytes");
        std::vector<uint32_t> words(8);
        std::memcpy(words.data(), key.c_str(), 32);
        return words;
    }
    void sample_uniform(Out out, nb::bytes key, uint32_t domain, In objects, In moduli, size_t n) const {
        auto words = key_words(key);
        size_t r = rows(out.size(), moduli, n), limbs = moduli.size();
        need(objects.size() * limbs == r && limbs < 65536, "sizes");
        nb::gil_scoped_release release;
        parallel_for(r, threads, n * 1.5, [&](size_t, size_t i) {
            k->uniform(out.data() + i * n, {words.data(), domain, objects.data()[i / limbs], (uint32_t)(i % limbs)}, n,
                       moduli.data()[i % limbs]);
        });
    }
    void sample_small(Array<int32_t> out, nb::bytes key, uint32_t domain, In objects, size_t n, bool ternary) const {
        auto words = key_words(key);
        need(n >= 512 && n <= 65536 && (n & (n - 1)) == 0 && out.size() == objects.size() * n, "sizes");
        nb::gil_scoped_release release;
        parallel_for(objects.size(), threads, n * 2.0, [&](size_t, size_t i) {
            (ternary ? k->ternary : k->cbd)(out.data() + i * n, {words.data(), domain, objects.data()[i], 0}, n);
        });
    }
    void sample_flood(Out out, nb::bytes key, uint32_t domain, In objects, In moduli, size_t n, uint32_t bits) const {
        auto words = key_words(key);
        size_t limbs = moduli.size();
        need(rows(out.size(), moduli, n) == objects.size() * limbs && bits >= 1 && bits <= 96, "sizes");
        nb::gil_scoped_release release;
        parallel_for(objects.size(), threads, n * 30.0, [&](size_t, size_t i) {
            k->flood(out.data() + i * limbs * n, {words.data(), domain, objects.data()[i], 0}, n, bits, moduli.data(),
                     limbs);
        });
    }
};
