// Changes of modulus and of key as Python calls them: each is one pass over the target limbs, in which digits are
// lifted and transformed, met by the key, corrected and stored, so that nothing extended is written to memory.
#pragma once
#include <array>

#include "passes.hpp"
#include "plans.hpp"
#include "pool.hpp"

struct Switching : Passes {
    using Passes::Passes;
    using Turned = std::unique_ptr<void, void (*)(void*)>;

    static Words words(const In& x) { return Words(x.data(), x.data() + x.size()); }

    // Whole items over the threads if there are enough of them, else the limbs of one item after the other.
    struct Split {
        int outer, inner;
    };
    Split split(size_t items) const { return items >= (size_t)threads ? Split{threads, 1} : Split{1, threads}; }

    Turned turned(size_t n, uint64_t g) const {
        return Turned(g % (2 * n) == 1 ? nullptr : k->turn_make(n, g % (2 * n)), k->turn_free);
    }

    // x [source], h [source, n], v [n] of a group -> out [n] modulo one prime, in [0, 2p).
    void lift_one(uint32_t* out, const uint32_t* h, const uint32_t* v, size_t count, const LiftTarget& to,
                  size_t n) const {
        const LiftTarget* target = &to;
        k->lift(&out, h, v, count, &target, 1, n);
    }

    void convert(Out out, In x, In from, In to, size_t n) const {
        size_t r = rows(out.size(), to, n), source = from.size(), target = to.size(), batch = r / target;
        check_ring(from, n);
        need(source > 0 && source <= 32 && x.size() == batch * source * n, "sizes");
        nb::gil_scoped_release release;
        convert_basis(out.data(), x.data(), source * n, words(from), words(to), n, batch);
    }
    // x at a stride -> out [batch, target, n] in [0, q)
    void convert_basis(uint32_t* out, const uint32_t* x, size_t stride, const Words& from, const Words& to, size_t n,
                       size_t batch) const {
        const size_t source = from.size();
        LiftGroup group(from.data(), source, [](size_t) { return (uint64_t)1; });
        std::vector<LiftTarget> lifts;
        for (uint32_t p : to) lifts.emplace_back(group, p, 1);
        std::vector<Buffer> buffers((size_t)std::max(threads, 1));
        parallel_for(batch, threads, n * 1.0 * source * to.size(), [&](size_t worker, size_t i) {
            auto& b = buffers[worker];
            if (!b.data()) b = Buffer((source + 1) * n);
            for (size_t l = 0; l < source; l++)
                k->mul_scalar(b.row(l, n), x + i * stride + l * n, group.scale[l], group.scale_quotient[l], n, from[l]);
            k->round(b.row(source, n), b.data(), group, n);
            for (size_t t = 0; t < to.size(); t++) {
                uint32_t* row = out + (i * to.size() + t) * n;
                lift_one(row, b.data(), b.row(source, n), source, lifts[t], n);
                k->settle(row, n, to[t]);
            }
        });
    }
    // (x - centred x mod the last primes) / their product: x [batch, target + source, n] -> out [batch, target, n]
    void divide(Out out, In x, In from, In to, size_t n) const {
        size_t r = rows(out.size(), to, n), source = from.size(), target = to.size(), batch = r / target;
        check_ring(from, n);
        need(source > 0 && source <= 32 && x.size() == batch * (source + target) * n, "sizes");
        nb::gil_scoped_release release;
        convert_basis(out.data(), x.data() + target * n, (source + target) * n, words(from), words(to), n, batch);
        parallel_for(r, threads, n * 0.5, [&](size_t, size_t i) {
            const uint32_t q = to.data()[i % target];
            const uint32_t w = inverse_mod(product_mod(from.data(), source, source, q), q);
            uint32_t* row = out.data() + i * n;
            k->sub(row, x.data() + (i / target * (source + target) + i % target) * n, row, n, q);
            k->mul_scalar(row, row, w, shoup_quotient(w, q), n, q);
        });
    }

    void automorphism(Out out, In x, In moduli, size_t n, uint64_t g, bool evaluations) const {
        size_t r = rows(out.size(), moduli, n), limbs = moduli.size();
        need(x.size() == out.size() && g % 2, "sizes");
        nb::gil_scoped_release release;
        if (!evaluations)
            return parallel_for(r, threads, n * 1.5, [&](size_t, size_t i) {
                k->turn_coefficients(out.data() + i * n, x.data() + i * n, n, g, moduli.data()[i % limbs]);
            });
        Turned turn = turned(n, g);
        parallel_for(r, threads, n * 0.3, [&](size_t, size_t i) {
            if (turn)
                k->turn(out.data() + i * n, x.data() + i * n, n, turn.get());
            else
                std::copy(x.data() + i * n, x.data() + (i + 1) * n, out.data() + i * n);
        });
    }

    // Rows [poly] of source limb l: written to `to` and returned, or any pointer.
    static constexpr size_t kPolys = 2;
    using Rows = std::array<const uint32_t*, kPolys>;

    // out [polys, target, n] of one item. rows(worker, l) -> Rows.
    template <class F>
    void switch_item(uint32_t* out, const Switch& s, size_t polys, const void* turn, int workers, F rows) const {
        const size_t n = s.n, count = s.dropped.size();
        Buffer h((count + 1) * polys * n);
        auto low = [&](size_t p) { return h.row(p * (count + 1), n); };
        parallel_for(count, workers, n * 4.0, [&](size_t worker, size_t i) {
            Rows x = rows(worker, s.dropped[i]);
            for (size_t p = 0; p < polys; p++)
                k->intt_scaled(low(p) + i * n, x[p], *s.tables[s.dropped[i]], s.group->scale[i],
                               s.group->scale_quotient[i]);
        });
        for (size_t p = 0; p < polys; p++) k->round(low(p) + count * n, low(p), *s.group, n);
        std::vector<Buffer> buffers((size_t)std::max(workers, 1));
        parallel_for(s.target.size(), workers, n * 5.0, [&](size_t worker, size_t t) {
            auto& b = buffers[worker];
            if (!b.data()) b = Buffer(n);
            Rows x{};
            if (s.from[t] < s.source.size()) x = rows(worker, s.from[t]);
            for (size_t p = 0; p < polys; p++) {
                lift_one(b.data(), low(p), low(p) + count * n, count, s.lifts[t], n);
                k->ntt(b.data(), *s.target_tables[t]);
                k->combine(out + (p * s.target.size() + t) * n, x[p], b.data(), s.keep[t], s.keep_quotient[t], n,
                           s.target[t], turn);
            }
        });
    }

    static void check_switch(const Words& source, const Words& target) {
        size_t lost = 0;
        for (uint32_t q : source) lost += index_of(target, q) == target.size();
        need(lost >= 1 && lost <= 32 && !target.empty(), "1..32 primes are dropped");
    }
    void switch_modulus(Out out, In x, In source, In target, In factor, size_t n) const {
        size_t polys = rows(x.size(), source, n) / source.size();
        need(rows(out.size(), target, n) == polys * target.size() && factor.size() == source.size(), "sizes");
        check_switch(words(source), words(target));
        nb::gil_scoped_release release;
        auto s = switching(n, words(source), words(target), words(factor));
        Split threads_ = split(polys);
        parallel_for(polys, threads_.outer, 1e9, [&](size_t, size_t i) {
            switch_item(out.data() + i * target.size() * n, *s, 1, nullptr, threads_.inner,
                        [&](size_t, size_t l) { return Rows{x.data() + (i * source.size() + l) * n, nullptr}; });
        });
    }

    static TensorJob tensor_job(const uint32_t* x0, const uint32_t* x1, const uint32_t* y0, const uint32_t* y1,
                                size_t stride, size_t terms, uint32_t q, bool lowered) {
        const uint32_t raise = (uint32_t)montgomery(q);
        return {x0, x1, y0, y1, stride, terms, q, inverse_word(q), raise, shoup_quotient(raise, q), lowered};
    }

    // x, y [terms, batch, 2, limb, n] -> out [batch, 3, limb, n]
    void tensor_sum(Out out, In x, In y, size_t terms, In moduli, size_t n) const {
        const size_t limbs = moduli.size(), batch = rows(out.size(), moduli, n) / limbs / 3;
        need(terms && out.size() == batch * 3 * limbs * n && x.size() == terms * batch * 2 * limbs * n &&
                 y.size() == x.size(),
             "sizes");
        nb::gil_scoped_release release;
        parallel_for(batch * limbs, threads, n * 1.0 * terms, [&](size_t, size_t i) {
            const size_t b = i / limbs, l = i % limbs, at = (b * 2 * limbs + l) * n, step = limbs * n;
            uint32_t* to = out.data() + (b * 3 * limbs + l) * n;
            k->tensor(to, to + step, to + 2 * step,
                      tensor_job(x.data() + at, x.data() + at + step, y.data() + at, y.data() + at + step,
                                 batch * 2 * step, terms, moduli.data()[l], false),
                      n);
        });
    }
    // x [terms, batch, limb, n], y [terms, limb, n] -> out [batch, limb, n]
    void sum_of_products(Out out, In x, In y, size_t terms, In moduli, size_t n) const {
        const size_t limbs = moduli.size(), r = rows(out.size(), moduli, n);
        need(terms && x.size() == terms * out.size() && y.size() == terms * limbs * n, "sizes");
        nb::gil_scoped_release release;
        parallel_for(r, threads, n * 0.4 * terms, [&](size_t, size_t i) {
            k->products(out.data() + i * n, x.data() + i * n, out.size(), y.data() + i % limbs * n, limbs * n, terms, n,
                        moduli.data()[i % limbs]);
        });
    }
};
