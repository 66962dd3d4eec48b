// Change of modulus in the coefficient domain. Definitions: hegpu/backend/protocol.py.
#pragma once
#include <vector>

#include "modarith.hpp"
#include "tables.hpp"

namespace hegpu::HEGPU_LEVEL {

// prod(moduli except skip) mod q
static u64 product_mod(const u32* moduli, size_t limbs, size_t skip, u32 q) {
    u64 r = 1;
    for (size_t l = 0; l < limbs; l++)
        if (l != skip) r = r * (moduli[l] % q) % q;
    return r;
}

struct Conversion {
    size_t source, target;
    std::vector<u32> q, p, scale, scale_quotient;  // (Q/q_l)^-1 mod q_l
    std::vector<u64> fraction, p_inverse;          // floor(2^58 / q_l), floor(2^64 / p_t)
    std::vector<u32> factor, minus_q;              // [t][l] = Q/q_l mod p_t, -Q mod p_t
    Conversion(const u32* from, size_t source_, const u32* to, size_t target_)
        : source(source_), target(target_), q(from, from + source_), p(to, to + target_) {
        for (size_t l = 0; l < source; l++) {
            u32 inverse = pow_mod(product_mod(from, source, l, q[l]), q[l] - 2, q[l]);
            scale.push_back(inverse), scale_quotient.push_back(shoup_quotient(inverse, q[l]));
            fraction.push_back(((u64)1 << 58) / q[l]);
        }
        for (size_t t = 0; t < target; t++) {
            for (size_t l = 0; l < source; l++) factor.push_back((u32)product_mod(from, source, l, p[t]));
            minus_q.push_back((u32)(p[t] - product_mod(from, source, source, p[t])));
            p_inverse.push_back(inverse_u64(p[t]));
        }
    }
    // x, out: limb l at l * stride; one coefficient.
    inline void apply(const u32* x, size_t x_stride, u32* out, size_t out_stride) const {
        u32 h[32];
        u64 v = (u64)1 << 57;
        for (size_t l = 0; l < source; l++) {
            h[l] = mul_shoup_scalar(x[l * x_stride], scale[l], scale_quotient[l], q[l]);
            v += h[l] * fraction[l];
        }
        v >>= 58;
        for (size_t t = 0; t < target; t++) {
            u64 sum = v * minus_q[t];
            for (size_t l = 0; l < source; l++) {
                sum += (u64)h[l] * factor[t * source + l];
                if (l % 8 == 7) sum = reduce_u64(sum, p[t], p_inverse[t]);
            }
            out[t * out_stride] = reduce_u64(sum, p[t], p_inverse[t]);
        }
    }
};

// x [source, n] -> out [target, n]
static void convert_rows(u32* out, const u32* x, size_t n, const Conversion& c) {
    for (size_t j = 0; j < n; j++) c.apply(x + j, n, out + j, n);
}

// x [limbs, n] -> out [limbs - count, n]; `c` converts the last `count` primes to the others.
static void divide_rows(u32* out, const u32* x, size_t n, const Conversion& c) {
    size_t keep = c.target;
    convert_rows(out, x + keep * n, n, c);
    for (size_t t = 0; t < keep; t++) {
        u32 q = c.p[t];
        u32 inverse = pow_mod(product_mod(c.q.data(), c.source, c.source, q), q - 2, q);
        V Q = splat(q), I = splat(inverse), IQ = splat(shoup_quotient(inverse, q));
        for (size_t j = t * n; j < (t + 1) * n; j += W) {
            V d = reduce_once(load(x + j) - load(out + j) + Q, Q);
            store(out + j, reduce_once(mul_shoup(d, I, IQ, Q), Q));
        }
    }
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
