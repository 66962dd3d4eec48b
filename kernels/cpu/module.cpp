// Python bindings: batches over rows and threads. Shapes and ranges are checked in hegpu/backend/cpu.py; here every
// buffer's size is checked against what the kernel will touch, so that no call can leave its memory.
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
using In = Array<const uint32_t>;
using Out = Array<uint32_t>;

static std::vector<std::string> levels() {
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

static void need(bool ok, const char* what) {
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

    // x [batch, source, n] -> out [batch, target, n]; divide: x [batch, target + source, n].
    void convert(Out out, In x, In from, In to, size_t n, bool divide) const {
        size_t r = rows(out.size(), to, n), source = from.size(), target = to.size(), batch = r / target;
        check_ring(from, n);
        size_t wide = divide ? source + target : source;
        need(source > 0 && source <= 32 && x.size() == batch * wide * n, "sizes");
        nb::gil_scoped_release release;
        std::unique_ptr<void, void (*)(void*)> c(k->conversion_make(from.data(), source, to.data(), target),
                                                 k->conversion_free);
        parallel_for(batch, threads, n * 4.0 * target, [&](size_t, size_t i) {
            (divide ? k->divide : k->convert)(out.data() + i * target * n, x.data() + i * wide * n, n, c.get());
        });
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

    // -- whole passes (fused.hpp) --

    struct Factor {  // [limb, n] with Shoup quotients
        std::vector<uint32_t> quotient;
        std::vector<std::shared_ptr<const NttTables>> shared;
        std::vector<const NttTables*> tables;
        Factor(const In& factor, const In& moduli, size_t n) : quotient(factor.size()) {
            need(factor.size() == moduli.size() * n, "sizes");
            for (size_t i = 0; i < factor.size(); i++) {
                need(factor.data()[i] < moduli.data()[i / n], "a factor is not below its modulus");
                quotient[i] = shoup_quotient(factor.data()[i], moduli.data()[i / n]);
            }
            for (size_t l = 0; l < moduli.size(); l++) shared.push_back(ntt_tables((uint32_t)n, moduli.data()[l]));
            for (auto& t : shared) tables.push_back(t.get());
        }
    };
    static void check_pair(const In& moduli, size_t n) {
        check_ring(moduli, n);
        need(moduli.size() == 1 || moduli.size() == 2, "one or two moduli");
        need(moduli.size() == 1 || (uint64_t)moduli.data()[0] * moduli.data()[1] < (uint64_t)1 << 60, "modulus");
    }
    static void check_positions(const In& positions, size_t n) {
        for (size_t i = 0; i < positions.size(); i++) need(positions.data()[i] < n, "a position is not below n");
    }
    static size_t packed(size_t count, size_t bits) { return (count * bits + 7) / 8; }

    template <class T>
    void mask_and_pack(Array<uint8_t> out, Array<const T> x, In factor, nb::bytes mask_key, uint32_t mask_domain,
                       nb::bytes noise_key, uint32_t noise_domain, In objects, In moduli, size_t n, uint32_t drop,
                       uint32_t bits) const {
        check_pair(moduli, n);
        const size_t bytes = packed(n, bits), limbs = moduli.size();
        need(n >= 512 && bits >= 1 && bits <= 60 && drop <= 16 && x.size() == objects.size() * n &&
                 out.size() == objects.size() * bytes,
             "sizes");
        auto mask_words = key_words(mask_key), noise_words = key_words(noise_key);
        nb::gil_scoped_release release;
        Factor f(factor, moduli, n);
        MaskJob job{moduli.data(),
                    limbs,
                    f.tables.data(),
                    factor.data(),
                    f.quotient.data(),
                    mask_words.data(),
                    noise_words.data(),
                    mask_domain,
                    noise_domain,
                    drop,
                    bits};
        std::vector<std::vector<uint32_t>> buffers((size_t)std::max(threads, 1));
        parallel_for(objects.size(), threads, n * 6.0, [&](size_t worker, size_t i) {
            auto& b = buffers[worker];
            b.resize((limbs + 1) * n + bytes / 4 + 8);
            auto* row = (uint8_t*)(b.data() + (limbs + 1) * n);
            if constexpr (sizeof(T) == 4)
                k->mask(row, x.data() + i * n, n, job, objects.data()[i], b.data());
            else
                k->mask_wide(row, x.data() + i * n, n, job, objects.data()[i], b.data());
            std::copy(row, row + bytes, out.data() + i * bytes);
        });
    }
    // in [r, count, bytes]; returns the largest packed value.
    uint64_t store_packed(Out points, Array<const uint8_t> in, In moduli, size_t n, size_t r, size_t columns,
                          size_t first, size_t step, size_t count, uint32_t bits, uint32_t drop) const {
        check_pair(moduli, n);
        const size_t limbs = moduli.size(), bytes = packed(n, bits), line = r * columns * 16;
        const size_t groups = (count + kGroup - 1) / kGroup;
        need(bits >= 1 && bits + drop <= 60 && in.size() == r * count * bytes, "sizes");
        need(step > 0 && (count == 0 || first + (count - 1) * step < columns) &&
                 points.size() == limbs * n * r * columns,
             "sizes");
        nb::gil_scoped_release release;
        auto t = tables(moduli, n);
        std::vector<std::vector<uint32_t>> buffers((size_t)std::max(threads, 1));
        std::vector<uint64_t> largest(buffers.size(), 0);
        parallel_for(r * groups, threads, 3.0 * n * kGroup, [&](size_t worker, size_t task) {
            auto& b = buffers[worker];
            b.resize((kGroup * limbs + limbs) * n + bytes / 4 + 8);
            uint32_t* one = b.data() + kGroup * limbs * n;
            auto* row = (uint8_t*)(one + limbs * n);
            size_t c0 = task % groups * kGroup, at_row = task / groups, here = std::min(kGroup, count - c0);
            for (size_t c = 0; c < here; c++) {
                const uint8_t* from = in.data() + (at_row * count + c0 + c) * bytes;
                std::copy(from, from + bytes, row);
                largest[worker] = std::max(largest[worker], k->unpack(one, row, n, bits, drop, moduli.data(), limbs));
                for (size_t l = 0; l < limbs; l++) {
                    uint32_t* to = b.data() + (l * kGroup + c) * n;
                    std::copy(one + l * n, one + (l + 1) * n, to);
                    k->ntt(to, *t[l]);
                }
            }
            for (size_t l = 0; l < limbs; l++)
                k->scatter(points.data() + (l * (n / 16) * r * columns + at_row * columns + first + c0 * step) * 16,
                           line, step, b.data() + l * kGroup * n, here, n);
        });
        return *std::max_element(largest.begin(), largest.end());
    }
    // values [r, count, m] at coefficients `positions`, zeros elsewhere, transformed.
    void store_sparse(Out points, Array<const int32_t> values, In positions, In moduli, size_t n, size_t r,
                      size_t columns, size_t first, size_t step, size_t count) const {
        const size_t line = r * columns * 16, m = positions.size();
        check_positions(positions, n);
        need(values.size() == r * count * m, "sizes");
        points_rows(points.size(), moduli, n, r, columns, first, step, count, 1.5,
                    [&](uint32_t* rows_, size_t row, size_t c0, size_t here, size_t l, size_t at, const NttTables& t) {
                        const int64_t q = t.q;
                        std::fill_n(rows_, here * n, 0);
                        for (size_t c = 0; c < here; c++) {
                            const int32_t* from = values.data() + (row * count + c0 + c) * m;
                            for (size_t i = 0; i < m; i++) {
                                const int64_t v = from[i] % q;
                                rows_[c * n + positions.data()[i]] = (uint32_t)(v < 0 ? v + q : v);
                            }
                            k->ntt(rows_ + c * n, t);
                        }
                        k->scatter(points.data() + at, line, step, rows_, here, n);
                        (void)l;
                    });
    }
    // out [r, count, bytes]; constants [r, limb] or empty.
    void load_packed(Array<uint8_t> out, In points, In moduli, size_t n, size_t r, size_t columns, size_t first,
                     size_t step, size_t count, uint32_t bits, uint32_t drop, In positions, In constants) const {
        check_ring(moduli, n);
        check_positions(positions, n);
        const size_t limbs = moduli.size(), line = r * columns * 16, groups = (count + kGroup - 1) / kGroup;
        need(bits >= 1 && bits <= (limbs == 2 ? 44 : 32) && drop < bits, "bits");
        const size_t bytes = packed(positions.size(), bits - drop);
        need(out.size() == r * count * bytes && (constants.size() == 0 || constants.size() == r * limbs), "sizes");
        need(step > 0 && (count == 0 || first + (count - 1) * step < columns) &&
                 points.size() == limbs * n * r * columns,
             "sizes");
        nb::gil_scoped_release release;
        auto t = tables(moduli, n);
        SwitchJob job{moduli.data(), limbs, bits, drop, positions.data(), positions.size(), 0.0, k->switch_bits};
        if (limbs == 2)
            job.ratio = (double)((uint64_t)1 << bits) / (double)((uint64_t)moduli.data()[0] * moduli.data()[1]);
        std::vector<std::vector<uint32_t>> buffers((size_t)std::max(threads, 1));
        parallel_for(r * groups, threads, 3.0 * n * kGroup, [&](size_t worker, size_t task) {
            auto& b = buffers[worker];
            b.resize((kGroup * limbs + limbs + 2) * n + bytes / 4 + 8);
            uint32_t *one = b.data() + kGroup * limbs * n, *words = one + limbs * n;
            auto* row = (uint8_t*)(words + 2 * n);
            size_t c0 = task % groups * kGroup, at_row = task / groups, here = std::min(kGroup, count - c0);
            for (size_t l = 0; l < limbs; l++)
                k->gather(b.data() + l * kGroup * n,
                          points.data() + (l * (n / 16) * r * columns + at_row * columns + first + c0 * step) * 16,
                          line, step, here, n);
            for (size_t c = 0; c < here; c++) {
                for (size_t l = 0; l < limbs; l++) {
                    std::copy_n(b.data() + (l * kGroup + c) * n, n, one + l * n);
                    k->intt(one + l * n, *t[l]);
                }
                k->switch_pack(row, one, n, job, constants.size() ? constants.data() + at_row * limbs : nullptr, words);
                std::copy(row, row + bytes, out.data() + (at_row * count + c0 + c) * bytes);
            }
        });
    }
    template <class T>
    void unpack_products(Array<T> out, Array<const uint8_t> first, Array<const uint8_t> second, In factor, In moduli,
                         size_t n, uint32_t bits, uint32_t drop, In positions) const {
        check_pair(moduli, n);
        check_positions(positions, n);
        need(moduli.size() == 2 && bits >= 2 && bits <= (sizeof(T) == 4 ? 32 : 44) && drop < bits &&
                 positions.size() > 0,
             "bits");
        const size_t count = positions.size(), bytes0 = packed(count, bits - drop), bytes1 = packed(n, bits);
        const size_t batch = out.size() / count;
        need(out.size() == batch * count && first.size() == batch * bytes0 && second.size() == batch * bytes1, "sizes");
        nb::gil_scoped_release release;
        Factor f(factor, moduli, n);
        ProductJob job{moduli.data(), f.tables.data(),  factor.data(), f.quotient.data(), bits,
                       drop,          positions.data(), count};
        std::vector<std::vector<uint32_t>> buffers((size_t)std::max(threads, 1));
        parallel_for(batch, threads, n * 5.0, [&](size_t worker, size_t i) {
            auto& b = buffers[worker];
            b.resize(4 * n + (bytes0 + bytes1) / 4 + 16);
            auto *row0 = (uint8_t*)(b.data() + 4 * n), *row1 = row0 + bytes0 + 16;
            std::copy_n(first.data() + i * bytes0, bytes0, row0);
            std::copy_n(second.data() + i * bytes1, bytes1, row1);
            if constexpr (sizeof(T) == 4)
                k->product(out.data() + i * count, row0, row1, n, job, b.data());
            else
                k->product_wide(out.data() + i * count, row0, row1, n, job, b.data());
        });
    }
    template <class T>
    void requantise(Array<T> out, Array<const T> x, double f, Array<const T> y, double g, double low,
                    double high) const {
        constexpr size_t kPart = 1 << 16;
        need(out.size() == x.size() && (y.size() == 0 || y.size() == x.size()), "sizes");
        const double most = sizeof(T) == 4 ? 2147483647.0 : 4503599627370496.0;
        need(low >= -most && high <= most && low <= high, "range");
        nb::gil_scoped_release release;
        parallel_for((x.size() + kPart - 1) / kPart, threads, kPart * 1.0, [&](size_t, size_t i) {
            const size_t at = i * kPart, here = std::min(kPart, x.size() - at);
            const T* second = y.size() ? y.data() + at : nullptr;
            if constexpr (sizeof(T) == 4)
                k->requantise(out.data() + at, x.data() + at, f, second, g, low, high, here);
            else
                k->requantise_wide(out.data() + at, x.data() + at, f, second, g, low, high, here);
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

// Floor of a matrix product of float64, |y| < 2^53, reduced to [0, q).
static void reduce_float64(Out out, Array<const double> y, uint32_t q, bool accumulate, uint32_t factor) {
    need(out.size() == y.size() && q > 1, "sizes");
    nb::gil_scoped_release release;
    for (size_t i = 0; i < y.size(); i++) {
        int64_t v = (int64_t)y.data()[i] % (int64_t)q;
        uint64_t r = (uint64_t)(v < 0 ? v + q : v) * factor % q;
        out.data()[i] = (uint32_t)(accumulate ? (r + out.data()[i]) % q : r);
    }
}

static void pack_bits(Array<uint8_t> out, Array<const uint64_t> x, size_t rows, size_t count, uint32_t bits) {
    size_t bytes = (count * bits + 7) / 8;
    need(bits >= 1 && bits <= 64 && out.size() == rows * bytes && x.size() == rows * count, "sizes");
    nb::gil_scoped_release release;
    for (size_t r = 0; r < rows; r++) {
        uint8_t* to = out.data() + r * bytes;
        const uint64_t mask = bits == 64 ? ~(uint64_t)0 : ((uint64_t)1 << bits) - 1;
        unsigned __int128 pending = 0;
        uint32_t held = 0;
        for (size_t i = 0; i < count; i++) {
            pending |= (unsigned __int128)(x.data()[r * count + i] & mask) << held;
            for (held += bits; held >= 8; held -= 8, pending >>= 8) *to++ = (uint8_t)pending;
        }
        if (held) *to++ = (uint8_t)pending;
    }
}
static void unpack_bits(Array<uint64_t> out, Array<const uint8_t> x, size_t rows, size_t count, uint32_t bits) {
    size_t bytes = (count * bits + 7) / 8;
    need(bits >= 1 && bits <= 64 && x.size() == rows * bytes && out.size() == rows * count, "sizes");
    nb::gil_scoped_release release;
    for (size_t r = 0; r < rows; r++) {
        const uint8_t* from = x.data() + r * bytes;
        const uint64_t mask = bits == 64 ? ~(uint64_t)0 : ((uint64_t)1 << bits) - 1;
        unsigned __int128 pending = 0;
        uint32_t held = 0;
        for (size_t i = 0; i < count; i++) {
            for (; held < bits; held += 8) pending |= (unsigned __int128)*from++ << held;
            out.data()[r * count + i] = (uint64_t)pending & mask;
            pending >>= bits, held -= bits;
        }
    }
}

NB_MODULE(_cpu, m) {
    nb::set_leak_warnings(false);  // backends kept by modules live until the interpreter is gone
    m.doc() = "Compiled CPU kernels of hegpu; use hegpu.backend.cpu.";
    m.def("levels", &levels);
    m.def("reduce_float64", &reduce_float64);
    m.def("pack_bits", &pack_bits);
    m.def("unpack_bits", &unpack_bits);
    nb::class_<Cpu>(m, "Cpu")
        .def(nb::init<const std::string&, int>(), "level"_a, "threads"_a)
        .def("binary", &Cpu::binary)
        .def("multiply_accumulate", &Cpu::multiply_accumulate)
        .def("mul_scalar", &Cpu::mul_scalar)
        .def("from_signed", &Cpu::from_signed)
        .def("transform", &Cpu::transform)
        .def("convert", &Cpu::convert)
        .def("switch_to_power_of_two", &Cpu::switch_to_power_of_two)
        .def("store_points", &Cpu::store_points)
        .def("load_points", &Cpu::load_points)
        .def("expand_points", &Cpu::expand_points)
        .def("point_matmul", &Cpu::point_matmul)
        .def("sample_uniform", &Cpu::sample_uniform)
        .def("sample_small", &Cpu::sample_small)
        .def("sample_flood", &Cpu::sample_flood)
        .def("mask_and_pack", &Cpu::mask_and_pack<int32_t>)
        .def("mask_and_pack_wide", &Cpu::mask_and_pack<int64_t>)
        .def("store_packed", &Cpu::store_packed)
        .def("store_sparse", &Cpu::store_sparse)
        .def("load_packed", &Cpu::load_packed)
        .def("unpack_products", &Cpu::unpack_products<int32_t>)
        .def("unpack_products_wide", &Cpu::unpack_products<int64_t>)
        .def("requantise", &Cpu::requantise<int32_t>)
        .def("requantise_wide", &Cpu::requantise<int64_t>)
        .def("digit_ceiling", [](const Cpu& c, size_t repeats) {
            uint32_t sink[3] = {(uint32_t)repeats | 1, 3, 0};
            return c.k->digit_ceiling(repeats, sink);
        });
}
