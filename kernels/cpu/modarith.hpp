// Modular arithmetic on vectors of residues, q < 2^30. Every routine states the range it takes and returns.
#pragma once
#include "simd.hpp"

namespace hegpu::HEGPU_LEVEL {

// [0, 2m) -> [0, m)
static inline V reduce_once(V x, V m) { return min_u32(x, x - m); }

// Shoup: y any, w in [0, q), wq = floor(w 2^32 / q) -> w y mod q in [0, 2q)
static inline V mul_shoup(V y, V w, V wq, V q) { return y * w - mulhi(y, wq) * q; }

struct Barrett {
    u32 q, bits, mu, inverse;  // mu = floor(2^(2 bits) / q), inverse = floor(2^32 / q)
    explicit Barrett(u32 modulus) : q(modulus), bits(32 - (u32)__builtin_clz(modulus)) {
        mu = (u32)(((u64)1 << (2 * bits)) / q);
        inverse = (u32)(((u64)1 << 32) / q);
    }
};

// Barrett, p in [0, q^2) per 64-bit lane -> [0, 3q) in the low half (HAC 14.42).
static inline V64 barrett_lane(V64 p, const Barrett& b) {
    V64 t = p >> (b.bits - 1);
    V64 quotient = mul_even((V)t, splat(b.mu)) >> (b.bits + 1);
    return p - mul_even((V)quotient, splat(b.q));
}
// x, y in [0, q) -> x y mod q in [0, q)
static inline V mul_mod(V x, V y, const Barrett& b) {
    V64 e = barrett_lane(mul_even(x, y), b), o = barrett_lane(mul_even(odd(x), odd(y)), b);
    V q = splat(b.q);
    V r = low_halves(e, o);
    return reduce_once(min_u32(r, r - (q + q)), q);
}
// x any 32-bit -> x mod q in [0, q)
static inline V reduce_word(V x, const Barrett& b) {
    V q = splat(b.q);
    return reduce_once(x - mulhi(x, splat(b.inverse)) * q, q);
}

// s any 64-bit -> s mod q; inverse = floor(2^64 / q)
static inline u32 reduce_u64(u64 s, u32 q, u64 inverse) {
    u64 r = s - (u64)(((unsigned __int128)s * inverse) >> 64) * q;
    return (u32)(r >= q ? r - q : r);
}
static inline u64 inverse_u64(u32 q) { return ~(u64)0 / q; }
static inline u32 mul_shoup_scalar(u32 y, u32 w, u32 wq, u32 q) {
    u32 r = y * w - (u32)(((u64)y * wq) >> 32) * q;
    return r >= q ? r - q : r;
}

}  // namespace hegpu::HEGPU_LEVEL
