// Change of modulus in the coefficient domain, row by row. Definitions: hegpu/backend/protocol.py, convert_basis.
#pragma once
#include <vector>

#include "lifts.hpp"
#include "modarith.hpp"

namespace hegpu::HEGPU_LEVEL {

// Sum of at most 15 products a b, a < 2^30, b < q -> the sum times 2^-32 modulo q in [0, 2q) (Montgomery 1985).
// inverse = q^-1 mod 2^32. The high half is below 15/4 q.
static inline V reduce_sum(V64 even, V64 odd_, V inverse, V q, V q2) {
    V quotient = low_halves(even, odd_) * inverse;
    V high = reduce_once(high_halves(even, odd_), q2);
    return reduce_once(high - mulhi(quotient, q) + q, q2);
}

// h [count, n] -> v [n]: (sum_l h_l floor(2^58 / q_l) + 2^57) >> 58
static void round_row(u32* v, const u32* h, const LiftGroup& g, size_t n) {
    for (size_t j = 0; j < n; j += W) {
        V64 even = V64{} + ((u64)1 << 57), odd_ = even;
        for (size_t l = 0; l < g.q.size(); l++) {
            V x = load(h + l * n + j);
            V low = splat((u32)g.fraction[l]), high = splat((u32)(g.fraction[l] >> 32));
            even += mul_even(x, low) + (mul_even(x, high) << 32);
            odd_ += mul_even(odd(x), low) + (mul_even(odd(x), high) << 32);
        }
        store(v + j, low_halves(even >> 58, odd_ >> 58));
    }
}

// Sums of products of more than 14 terms are reduced in parts, so that reduce_sum's bound holds.
constexpr size_t kTerms = 14;

// h [count, n], v [n] -> out[t] [n] in [0, 2p_t): sum_l h_l factor_l - v Q, times what the factors hold.
template <size_t Targets>
static inline void lift_block(u32* const* out, const u32* h, const u32* v, size_t count, const LiftTarget* const* to,
                              size_t n) {
    V p[Targets], p2[Targets], inverse[Targets];
    for (size_t t = 0; t < Targets; t++)
        p[t] = splat(to[t]->p), p2[t] = p[t] + p[t], inverse[t] = splat(to[t]->inverse);
    for (size_t j = 0; j < n; j += W) {
        V64 even[Targets], odd_[Targets];
        V total[Targets] = {};
        V x = load(v + j);
        for (size_t t = 0; t < Targets; t++) {
            V f = splat(to[t]->minus);
            even[t] = mul_even(x, f), odd_[t] = mul_even(odd(x), f);
        }
        size_t l = 0;
        bool parts = false;
        for (size_t end = count < kTerms ? count : kTerms;;) {
            for (; l < end; l++) {
                V y = load(h + l * n + j), z = odd(y);
                for (size_t t = 0; t < Targets; t++) {
                    V f = splat(to[t]->factor[l]);
                    even[t] += mul_even(y, f), odd_[t] += mul_even(z, f);
                }
            }
            for (size_t t = 0; t < Targets; t++) {
                V part = reduce_sum(even[t], odd_[t], inverse[t], p[t], p2[t]);
                total[t] = parts ? reduce_once(total[t] + part, p2[t]) : part;
            }
            if (l == count) break;
            parts = true;
            for (size_t t = 0; t < Targets; t++) even[t] = V64{}, odd_[t] = V64{};
            end = count - l < kTerms ? count : l + kTerms;
        }
        for (size_t t = 0; t < Targets; t++) store(out[t] + j, total[t]);
    }
}
static void lift_rows(u32* const* out, const u32* h, const u32* v, size_t count, const LiftTarget* const* to,
                      size_t targets, size_t n) {
    size_t t = 0;
    for (; t + 2 <= targets; t += 2) lift_block<2>(out + t, h, v, count, to + t, n);
    if (t < targets) lift_block<1>(out + t, h, v, count, to + t, n);
}
// [0, 2q) -> [0, q)
static void settle_row(u32* x, size_t n, u32 q) {
    for (size_t j = 0; j < n; j += W) store(x + j, reduce_once(load(x + j), splat(q)));
}

struct PowerSwitch {
    std::vector<u32> q, scale, scale_quotient;
    std::vector<u64> fraction;  // round(2^64 / q_l)
    PowerSwitch(const u32* moduli, size_t limbs) : q(moduli, moduli + limbs) {
        for (size_t l = 0; l < limbs; l++) {
            u32 inverse = pow_mod(product_mod(moduli, limbs, l, q[l]), q[l] - 2, q[l]);
            scale.push_back(inverse), scale_quotient.push_back(shoup_quotient(inverse, q[l]));
            fraction.push_back((u64)((((unsigned __int128)1 << 64) + q[l] / 2) / q[l]));
        }
    }
};

// x [limbs, n] -> out [n]
static void switch_row(u32* out, const u32* x, size_t n, u32 bits, const PowerSwitch& c) {
    const u64 half = (u64)1 << (63 - bits);
    for (size_t j = 0; j < n; j += W) {
        V64 even = V64{} + half, odd_ = even;
        for (size_t l = 0; l < c.q.size(); l++) {
            V Q = splat(c.q[l]);
            V h = reduce_once(mul_shoup(load(x + l * n + j), splat(c.scale[l]), splat(c.scale_quotient[l]), Q), Q);
            V low = splat((u32)c.fraction[l]), high = splat((u32)(c.fraction[l] >> 32));
            even += mul_even(h, low) + (mul_even(h, high) << 32);
            odd_ += mul_even(odd(h), low) + (mul_even(odd(h), high) << 32);
        }
        store(out + j, low_halves(even >> (64 - bits), odd_ >> (64 - bits)));
    }
}

}  // namespace hegpu::HEGPU_LEVEL
