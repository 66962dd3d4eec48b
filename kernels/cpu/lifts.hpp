// Constants of a change of modulus. Compiled once, shared by all levels.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tables.hpp"

namespace hegpu {

// prod(moduli except skip) mod q
inline uint64_t product_mod(const uint32_t* moduli, size_t limbs, size_t skip, uint32_t q) {
    uint64_t r = 1;
    for (size_t l = 0; l < limbs; l++)
        if (l != skip) r = r * (moduli[l] % q) % q;
    return r;
}
inline uint32_t inverse_mod(uint64_t x, uint32_t q) { return pow_mod(x, q - 2, q); }
// 2^32 mod q: what takes back a Montgomery reduction
inline uint64_t montgomery(uint32_t q) { return ((uint64_t)1 << 32) % q; }
// q^-1 mod 2^32 (Newton)
inline uint32_t inverse_word(uint32_t q) {
    uint32_t r = q;
    for (int i = 0; i < 4; i++) r *= 2 - q * r;
    return r;
}

// Residues x_l modulo a group of primes (product Q) enter as h_l = x_l scale_l, scale_l = (Q/q_l)^-1 times a
// multiplier.
struct LiftGroup {
    std::vector<uint32_t> q, scale, scale_quotient;
    std::vector<uint64_t> fraction;  // floor(2^58 / q_l)

    // multiplier(l) -> a residue modulo q_l
    template <class F>
    LiftGroup(const uint32_t* moduli, size_t count, F multiplier) : q(moduli, moduli + count) {
        for (size_t l = 0; l < count; l++) {
            uint64_t inverse = inverse_mod(product_mod(moduli, count, l, q[l]), q[l]);
            scale.push_back((uint32_t)(inverse * (multiplier(l) % q[l]) % q[l]));
            scale_quotient.push_back(shoup_quotient(scale[l], q[l]));
            fraction.push_back(((uint64_t)1 << 58) / q[l]);
        }
    }
};

// To one prime p: factor_l = (Q/q_l) m 2^32, minus = -Q m 2^32 modulo p; the 2^32 meets the reduction of the sum.
struct LiftTarget {
    uint32_t p, inverse, minus;
    std::vector<uint32_t> factor;

    LiftTarget(const LiftGroup& g, uint32_t p_, uint64_t m) : p(p_), inverse(inverse_word(p_)) {
        const uint64_t scale = m % p * montgomery(p) % p;
        for (size_t l = 0; l < g.q.size(); l++)
            factor.push_back((uint32_t)(product_mod(g.q.data(), g.q.size(), l, p) * scale % p));
        uint64_t product = product_mod(g.q.data(), g.q.size(), g.q.size(), p) * scale % p;
        minus = (uint32_t)((p - product) % p);
    }
};

}  // namespace hegpu
