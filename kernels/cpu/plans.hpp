// Constants of a decomposition into digits and of a rational switch of modulus: made once for each set of primes.
#pragma once
#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

#include "lifts.hpp"

namespace hegpu {

using Words = std::vector<uint32_t>;
using Tables = std::vector<std::shared_ptr<const NttTables>>;

inline Tables tables_of(const Words& moduli, size_t n) {
    Tables t;
    for (uint32_t q : moduli) t.push_back(ntt_tables((uint32_t)n, q));
    return t;
}
inline size_t index_of(const Words& words, uint32_t q) {
    return (size_t)(std::find(words.begin(), words.end(), q) - words.begin());
}

// Digits of residues modulo the first `limbs` of `moduli`, each lifted to all of them.
struct Decomposition {
    size_t n, limbs;
    Words moduli;
    Tables tables;
    std::vector<size_t> first, owner;             // first limb of each digit and one past the last; a limb's digit
    std::vector<LiftGroup> groups;                // scale includes 1/n
    std::vector<std::vector<LiftTarget>> lifts;   // [digit][limb]; unused at own limbs
    Words special;                                // P mod q_l
    Words raise, raise_quotient, special_raised;  // 2^32 mod q, P 2^32 mod q

    Decomposition(size_t n_, const Words& q, const Words& p, const Words& digits) : n(n_), limbs(q.size()), moduli(q) {
        moduli.insert(moduli.end(), p.begin(), p.end());
        tables = tables_of(moduli, n);
        first.push_back(0);
        for (uint32_t count : digits) {
            const uint32_t* from = q.data() + first.back();
            groups.emplace_back(from, count, [&](size_t l) { return inverse_mod(n, from[l]); });
            lifts.emplace_back();
            for (uint32_t to : moduli) lifts.back().emplace_back(groups.back(), to, 1);
            for (uint32_t i = 0; i < count; i++) owner.push_back(first.size() - 1);
            first.push_back(first.back() + count);
        }
        owner.resize(moduli.size(), digits.size());
        for (uint32_t m : moduli) {
            raise.push_back((uint32_t)montgomery(m)), raise_quotient.push_back(shoup_quotient(raise.back(), m));
            special.push_back((uint32_t)product_mod(p.data(), p.size(), p.size(), m));
            special_raised.push_back((uint32_t)((uint64_t)special.back() * raise.back() % m));
        }
    }
};

// round(x factor G / D) from `source` to `target`, as y = x keep - (r / D).
struct Switch {
    size_t n;
    Words source, target;
    Tables tables, target_tables;
    std::vector<size_t> dropped, from;  // indices in source; source.size(): a gained prime
    std::unique_ptr<LiftGroup> group;   // scale includes factor G / n
    std::vector<LiftTarget> lifts;
    Words keep, keep_quotient;

    // factor[l]: modulo each source prime, 2^32 included where x comes from a reduced sum
    Switch(size_t n_, const Words& s, const Words& t, const Words& factor)
        : n(n_), source(s), target(t), tables(tables_of(s, n_)), target_tables(tables_of(t, n_)) {
        Words lost, gained;
        for (size_t l = 0; l < s.size(); l++)
            if (index_of(t, s[l]) == t.size()) lost.push_back(s[l]), dropped.push_back(l);
        for (uint32_t q : t)
            if (index_of(s, q) == s.size()) gained.push_back(q);
        auto scaled = [&](size_t l) {
            return product_mod(gained.data(), gained.size(), gained.size(), s[l]) * (factor[l] % s[l]) % s[l];
        };
        group = std::make_unique<LiftGroup>(
            lost.data(), lost.size(), [&](size_t i) { return scaled(dropped[i]) * inverse_mod(n, lost[i]) % lost[i]; });
        for (uint32_t q : t) {
            from.push_back(index_of(s, q));
            const uint64_t inverse = inverse_mod(product_mod(lost.data(), lost.size(), lost.size(), q), q);
            lifts.emplace_back(*group, q, inverse);
            keep.push_back(from.back() == s.size() ? 0 : (uint32_t)(scaled(from.back()) * inverse % q));
            keep_quotient.push_back(shoup_quotient(keep.back(), q));
        }
    }
};

// The plan for `key`, made by `make` the first time. At most 512 are kept.
template <class Plan, class Make>
std::shared_ptr<const Plan> cached(const std::vector<Words>& key, Make make) {
    static std::mutex mutex;
    static std::map<std::vector<Words>, std::shared_ptr<const Plan>> known;
    std::lock_guard lock(mutex);
    if (known.size() >= 512) known.clear();
    auto& entry = known[key];
    if (!entry) entry = make();
    return entry;
}
inline std::shared_ptr<const Decomposition> decomposition(size_t n, const Words& q, const Words& p, const Words& d) {
    return cached<Decomposition>({{(uint32_t)n}, q, p, d}, [&] { return std::make_shared<Decomposition>(n, q, p, d); });
}
inline std::shared_ptr<const Switch> switching(size_t n, const Words& s, const Words& t, const Words& factor) {
    return cached<Switch>({{(uint32_t)n}, s, t, factor}, [&] { return std::make_shared<Switch>(n, s, t, factor); });
}

}  // namespace hegpu
