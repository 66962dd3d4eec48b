// Changes of key as Python calls them: each is one pass over the target limbs, in which digits are lifted and
// transformed, met by the key, corrected and stored, so that nothing extended is written to memory.
#pragma once
#include "switching_passes.hpp"

using Ins = std::vector<In>;

struct KeySwitching : Switching {
    using Switching::Switching;

    // Digits of one item: h [limb, n] scaled coefficients, v [digit, n].
    struct Digits {
        Buffer h, v;
    };
    template <class F>
    Digits cut(const Decomposition& d, int workers, F last) const {
        const size_t n = d.n, digits = d.groups.size();
        Digits r{Buffer(d.limbs * n), Buffer(digits * n)};
        parallel_for(d.limbs, workers, n * 2.0, [&](size_t worker, size_t l) {
            const size_t own = d.owner[l], i = l - d.first[own];
            k->intt_scaled(r.h.row(l, n), last(worker, l), *d.tables[l], d.groups[own].scale[i],
                           d.groups[own].scale_quotient[i]);
        });
        parallel_for(digits, workers, n * 1.0,
                     [&](size_t, size_t i) { k->round(r.v.row(i, n), r.h.row(d.first[i], n), d.groups[i], n); });
        return r;
    }
    // Digit i at limb e into `out`.
    void lift_digit(uint32_t* out, const Decomposition& d, const Digits& cut, size_t i, size_t e) const {
        lift_one(out, cut.h.row(d.first[i], d.n), cut.v.row(i, d.n), d.groups[i].q.size(), d.lifts[i][e], d.n);
        k->ntt(out, *d.tables[e]);
    }

    std::shared_ptr<const Decomposition> plan(const In& moduli, const In& special, const In& digits, size_t n) const {
        check_ring(moduli, n), check_ring(special, n);
        size_t total = 0;
        for (size_t i = 0; i < digits.size(); i++) {
            need(digits.data()[i] >= 1 && digits.data()[i] <= 32, "digits");
            total += digits.data()[i];
        }
        need(total == moduli.size() && digits.size() >= 1 && digits.size() <= 14 && special.size() >= 1, "digits");
        return decomposition(n, words(moduli), words(special), words(digits));
    }
    void decompose(Out out, In x, In moduli, In special, In digits, size_t n) const {
        auto d = plan(moduli, special, digits, n);
        const size_t limbs = d->limbs, extended = d->moduli.size(), count = digits.size();
        const size_t batch = rows(x.size(), moduli, n) / limbs;
        need(out.size() == batch * count * extended * n, "sizes");
        nb::gil_scoped_release release;
        Split threads_ = split(batch);
        parallel_for(batch, threads_.outer, 1e9, [&](size_t, size_t b) {
            const uint32_t* from = x.data() + b * limbs * n;
            Digits c = cut(*d, threads_.inner, [&](size_t, size_t l) { return from + l * n; });
            parallel_for(count * extended, threads_.inner, n * 2.0, [&](size_t, size_t i) {
                uint32_t* to = out.data() + (b * count * extended + i) * n;
                const size_t e = i % extended;
                if (d->owner[e] == i / extended)
                    std::copy(from + e * n, from + (e + 1) * n, to);
                else
                    lift_digit(to, *d, c, i / extended, e);
            });
        });
    }

    // A key's rows for one gadget.
    struct Key {
        const uint32_t *first, *second;  // second null: from the seed
        std::vector<uint32_t> seed;
        uint32_t domain;
        size_t rows, n;
        const uint32_t *limb, *digit;
    };
    static Key key_of(const In& first, const In& second, const nb::bytes& seed, uint32_t domain, size_t key_limbs,
                      const In& key_rows, const In& key_digits, const Decomposition& d) {
        need(key_limbs && first.size() % (key_limbs * d.n) == 0 && key_rows.size() == d.moduli.size() &&
                 key_digits.size() == d.groups.size() && (second.size() == 0 || second.size() == first.size()),
             "sizes");
        for (size_t i = 0; i < key_rows.size(); i++) need(key_rows.data()[i] < key_limbs, "a key's row");
        for (size_t i = 0; i < key_digits.size(); i++)
            need(key_digits.data()[i] < first.size() / (key_limbs * d.n), "a key's digit");
        return {first.data(),    second.size() ? second.data() : nullptr,
                key_words(seed), domain,
                key_limbs,       d.n,
                key_rows.data(), key_digits.data()};
    }
    // What is switched: rows of polynomials 0 and 1 that are added (null: none) and of the last one.
    struct Parts {
        const uint32_t *add0, *add1, *last;
        bool lowered;  // add0 and add1 are times 2^-32
    };

    // Sums over the digits at limb e: two rows of `buffer` (words for scratch), times 2^-32. digit(i) -> row.
    template <class F>
    Rows meet(const Decomposition& d, const Key& key, size_t e, const Parts& parts, uint32_t* scratch, F digit) const {
        const size_t n = d.n, count = d.groups.size();
        const uint32_t *x[14], *first[14], *second[14];
        for (size_t i = 0; i < count; i++) {
            const size_t at = (key.digit[i] * key.rows + key.limb[e]) * n;
            x[i] = digit(i), first[i] = key.first + at;
            if (key.second) {
                second[i] = key.second + at;
            } else {
                uint32_t* row = scratch + (2 + i) * n;
                k->uniform(row, {key.seed.data(), key.domain, key.digit[i], key.limb[e]}, n, d.moduli[e]);
                second[i] = row;
            }
        }
        InnerJob job{x,
                     first,
                     second,
                     count,
                     parts.add0,
                     parts.add1,
                     e < d.limbs ? (parts.lowered ? d.special_raised[e] : d.special[e]) : 0,
                     d.moduli[e],
                     inverse_word(d.moduli[e])};
        k->inner(scratch, scratch + n, job, n);
        return {scratch, scratch + n};
    }

    // One item, from its parts: out [2, target, n]. parts(worker, l) for l < limbs; last(worker, l) only the last one.
    template <class P, class L>
    void switch_parts(uint32_t* out, const Decomposition& d, const Key& key, const Switch& s, const void* turn,
                      int workers, P parts, L last) const {
        const size_t n = d.n, count = d.groups.size(), room = 2 * count + 2;
        Digits c = cut(d, workers, last);
        std::vector<Buffer> buffers((size_t)std::max(workers, 1));
        switch_item(out, s, 2, turn, workers, [&](size_t worker, size_t e) {
            auto& b = buffers[worker];
            if (!b.data()) b = Buffer(room * n);
            Parts here{};
            if (e < d.limbs) here = parts(worker, e);
            return meet(d, key, e, here, b.data(), [&](size_t i) -> const uint32_t* {
                if (d.owner[e] == i) return here.last;
                uint32_t* row = b.row(2 + count + i, n);
                lift_digit(row, d, c, i, e);
                return row;
            });
        });
    }

    void switch_key(Out out, In x, size_t polys, In first, In second, nb::bytes seed, uint32_t domain, size_t key_limbs,
                    uint64_t g, In moduli, In special, In digits, In key_rows, In key_digits, In target,
                    size_t n) const {
        auto d = plan(moduli, special, digits, n);
        Key key = key_of(first, second, seed, domain, key_limbs, key_rows, key_digits, *d);
        const size_t limbs = d->limbs, batch = rows(x.size(), moduli, n) / limbs / polys;
        need((polys == 2 || polys == 3) && g % 2 && x.size() == batch * polys * limbs * n &&
                 rows(out.size(), target, n) == batch * 2 * target.size(),
             "sizes");
        check_switch(d->moduli, words(target));
        nb::gil_scoped_release release;
        auto s = switching(n, d->moduli, words(target), d->raise);
        Turned turn = turned(n, g);
        Split threads_ = split(batch);
        parallel_for(batch, threads_.outer, 1e9, [&](size_t, size_t b) {
            const uint32_t* from = x.data() + b * polys * limbs * n;
            auto row = [&](size_t p, size_t l) { return from + (p * limbs + l) * n; };
            switch_parts(
                out.data() + b * 2 * target.size() * n, *d, key, *s, turn.get(), threads_.inner,
                [&](size_t, size_t l) {
                    return Parts{row(0, l), polys == 3 ? row(1, l) : nullptr, row(polys - 1, l), false};
                },
                [&](size_t, size_t l) { return row(polys - 1, l); });
        });
    }

    void multiply_switch(Out out, In x, In y, In first, In second, nb::bytes seed, uint32_t domain, size_t key_limbs,
                         In moduli, In special, In digits, In key_rows, In key_digits, In target, size_t n) const {
        auto d = plan(moduli, special, digits, n);
        Key key = key_of(first, second, seed, domain, key_limbs, key_rows, key_digits, *d);
        const size_t limbs = d->limbs, batch = rows(x.size(), moduli, n) / limbs / 2;
        need(x.size() == batch * 2 * limbs * n && y.size() == x.size() &&
                 rows(out.size(), target, n) == batch * 2 * target.size(),
             "sizes");
        check_switch(d->moduli, words(target));
        nb::gil_scoped_release release;
        auto s = switching(n, d->moduli, words(target), d->raise);
        Split threads_ = split(batch);
        parallel_for(batch, threads_.outer, 1e9, [&](size_t, size_t b) {
            const uint32_t *a = x.data() + b * 2 * limbs * n, *c = y.data() + b * 2 * limbs * n;
            std::vector<Buffer> buffers((size_t)std::max(threads_.inner, 1));
            auto scratch = [&](size_t worker) {
                auto& buffer = buffers[worker];
                if (!buffer.data()) buffer = Buffer(3 * n);
                return buffer.data();
            };
            switch_parts(
                out.data() + b * 2 * target.size() * n, *d, key, *s, nullptr, threads_.inner,
                [&](size_t worker, size_t l) {
                    uint32_t* t = scratch(worker);
                    k->tensor(t, t + n, t + 2 * n,
                              tensor_job(a + l * n, a + (limbs + l) * n, c + l * n, c + (limbs + l) * n, 0, 1,
                                         d->moduli[l], true),
                              n);
                    return Parts{t, t + n, t + 2 * n, true};
                },
                [&](size_t worker, size_t l) {
                    uint32_t* t = scratch(worker);
                    k->mul(t, a + (limbs + l) * n, c + (limbs + l) * n, n, d->moduli[l]);
                    return t;
                });
        });
    }
    // Keys [count] over prepared digits [batch, digit, extended, n]: one item for each key and batch element.
    template <class F>
    void each_key(const Decomposition& d, const In& digits, const In& addend, const Ins& first, const Ins& second,
                  const std::vector<nb::bytes>& seeds, const std::vector<uint32_t>& domains, size_t key_limbs,
                  const std::vector<uint64_t>& elements, const In& key_rows, const In& key_digits, F item) const {
        const size_t n = d.n, extended = d.moduli.size(), count = d.groups.size(), limbs = d.limbs;
        const size_t batch = addend.size() / (limbs * n), total = first.size();
        need(addend.size() == batch * limbs * n && digits.size() == batch * count * extended * n &&
                 second.size() == total && seeds.size() == total && domains.size() == total && elements.size() == total,
             "sizes");
        std::vector<Key> keys;
        for (size_t i = 0; i < total; i++) {
            keys.push_back(key_of(first[i], second[i], seeds[i], domains[i], key_limbs, key_rows, key_digits, d));
            need(elements[i] % 2, "sizes");
        }
        nb::gil_scoped_release release;
        std::vector<Turned> turns;
        for (uint64_t g : elements) turns.push_back(turned(n, g));
        Split threads_ = split(total * batch);
        parallel_for(total * batch, threads_.outer, 1e9, [&](size_t, size_t i) {
            const size_t b = i % batch, at = i / batch;
            std::vector<Buffer> buffers((size_t)std::max(threads_.inner, 1));
            auto sums = [&, b, at](size_t worker, size_t e) {
                auto& buffer = buffers[worker];
                if (!buffer.data()) buffer = Buffer((count + 2) * n);
                const uint32_t* add = e < limbs ? addend.data() + (b * limbs + e) * n : nullptr;
                return meet(d, keys[at], e, Parts{add, nullptr, nullptr, false}, buffer.data(),
                            [&](size_t j) { return digits.data() + ((b * count + j) * extended + e) * n; });
            };
            item(i, turns[at].get(), threads_.inner, sums);
        });
    }
    void gadget_product(Out out, In digits, In addend, Ins first, Ins second, std::vector<nb::bytes> seeds,
                        std::vector<uint32_t> domains, size_t key_limbs, std::vector<uint64_t> elements, In moduli,
                        In special, In sizes, In key_rows, In key_digits, size_t n) const {
        auto d = plan(moduli, special, sizes, n);
        const size_t extended = d->moduli.size();
        need(out.size() * d->limbs == first.size() * addend.size() * 2 * extended, "sizes");
        each_key(*d, digits, addend, first, second, seeds, domains, key_limbs, elements, key_rows, key_digits,
                 [&](size_t i, const void* turn, int workers, auto& sums) {
                     parallel_for(extended, workers, n * 3.0, [&](size_t worker, size_t e) {
                         Rows x = sums(worker, e);
                         for (size_t p = 0; p < 2; p++) {
                             auto* row = const_cast<uint32_t*>(x[p]);
                             uint32_t* to = out.data() + ((i * 2 + p) * extended + e) * n;
                             k->mul_scalar(turn ? row : to, row, d->raise[e], d->raise_quotient[e], n, d->moduli[e]);
                             if (turn) k->turn(to, row, n, turn);
                         }
                     });
                 });
    }
    void switch_keys(Out out, In digits, In addend, Ins first, Ins second, std::vector<nb::bytes> seeds,
                     std::vector<uint32_t> domains, size_t key_limbs, std::vector<uint64_t> elements, In moduli,
                     In special, In sizes, In key_rows, In key_digits, In target, size_t n) const {
        auto d = plan(moduli, special, sizes, n);
        check_switch(d->moduli, words(target));
        need(rows(out.size(), target, n) * d->limbs * n == first.size() * addend.size() * 2 * target.size(), "sizes");
        auto s = switching(n, d->moduli, words(target), d->raise);
        each_key(*d, digits, addend, first, second, seeds, domains, key_limbs, elements, key_rows, key_digits,
                 [&](size_t i, const void* turn, int workers, auto& sums) {
                     switch_item(out.data() + i * 2 * target.size() * n, *s, 2, turn, workers, sums);
                 });
    }
};
