// The whole passes (fused.hpp) as Python calls them.
#pragma once
#include "cpu.hpp"

struct Passes : Cpu {
    using Cpu::Cpu;

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
    // Three axes; the last is dense, the others have any stride.
    template <class T>
    void requantise(Strided<T> out, Strided<const T> x, double f, Strided<const T> y, double g, double low,
                    double high) const {
        constexpr size_t kPart = 1 << 16;
        const bool two = y.size() != 0;
        for (size_t a = 0; a < 3; a++) need(out.shape(a) == x.shape(a) && (!two || y.shape(a) == x.shape(a)), "sizes");
        need(out.stride(2) == 1 && x.stride(2) == 1 && (!two || y.stride(2) == 1), "strides");
        const double most = sizeof(T) == 4 ? 2147483647.0 : 4503599627370496.0;
        need(low >= -most && high <= most && low <= high, "range");
        nb::gil_scoped_release release;
        const size_t rows = x.shape(0) * x.shape(1), width = x.shape(2);
        const size_t parts = (width + kPart - 1) / kPart, together = parts > 1 ? 1 : kPart / (width + 1) + 1;
        auto at = [&](auto& array, size_t row) {
            return array.data() + (int64_t)(row / x.shape(1)) * array.stride(0) +
                   (int64_t)(row % x.shape(1)) * array.stride(1);
        };
        parallel_for((rows + together - 1) / together * parts, threads, kPart * 1.0, [&](size_t, size_t task) {
            const size_t from = task % parts * kPart, here = std::min(kPart, width - from);
            const size_t first = task / parts * together, last = std::min(rows, first + together);
            for (size_t row = first; row < last; row++) {
                const T* second = two ? at(y, row) + from : nullptr;
                if constexpr (sizeof(T) == 4)
                    k->requantise(at(out, row) + from, at(x, row) + from, f, second, g, low, high, here);
                else
                    k->requantise_wide(at(out, row) + from, at(x, row) + from, f, second, g, low, high, here);
            }
        });
    }
};
