// Whole passes between packed bytes and residues, so that a row crosses memory once.
// Definitions: hegpu/backend/protocol.py, "whole passes". One or two moduli, product below 2^61.
#pragma once
#include "kernels.hpp"
#include "modarith.hpp"
#include "ntt.hpp"
#include "sampling.hpp"

namespace hegpu::HEGPU_LEVEL {

constexpr u32 kMostBits = 56;  // a value and seven bits of an unfinished byte fit one word

// Least significant bit first, end to end. Writes up to 8 bytes beyond the last value.
struct BitWriter {
    uint8_t* to;
    u64 pending = 0;
    u32 held = 0;
    inline void put(u64 value, u32 bits) {
        pending |= value << held;
        std::memcpy(to, &pending, 8);
        const u32 total = held + bits;
        to += total >> 3, pending >>= total & ~7u, held = total & 7;
    }
    inline void put_word(u64 value, u32 bits) {  // bits up to 64
        if (bits <= kMostBits) return put(value, bits);
        put(value & 0xffffffffu, 32), put(value >> 32, bits - 32);
    }
};
// Reads up to 8 bytes beyond the last value.
struct BitReader {
    const uint8_t* from;
    size_t at = 0;
    inline u64 get(u32 bits) {
        u64 word;
        std::memcpy(&word, from + (at >> 3), 8);
        word >>= at & 7, at += bits;
        return word & (~(u64)0 >> (64 - bits));
    }
    inline u64 get_word(u32 bits) {
        if (bits <= kMostBits) return get(bits);
        const u64 low = get(32);
        return low | get(bits - 32) << 32;
    }
};

// The integer in [0, q0 q1) behind two residues (Garner), even and odd lanes apart.
struct Pair {
    V q0, q1, inverse, quotient;
    Pair(u32 a, u32 b)
        : q0(splat(a)),
          q1(splat(b)),
          inverse(splat(pow_mod(a % b, b - 2, b))),
          quotient(splat(shoup_quotient(pow_mod(a % b, b - 2, b), b))) {}
    inline void compose(V r0, V r1, const Barrett& second, V64& even, V64& odd_) const {
        V d = reduce_once(r1 - reduce_word(r0, second) + q1, q1);
        d = reduce_once(mul_shoup(d, inverse, quotient, q1), q1);
        even = mul_even(d, q0) + ((V64)r0 & 0xffffffffu);
        odd_ = mul_even(odd(d), q0) + ((V64)r0 >> 32);
    }
};

// signed x, |x| < 2^31 - 2^30 + 2^6 -> x mod q in [0, q); `offset` is a multiple of q, at least 2^30 + 64
static inline V reduce_signed(V x, V offset, const Barrett& b) { return reduce_word(x + offset, b); }
static inline u32 signed_offset(u32 q) { return (((1u << 30) + 64) / q + 1) * q; }

// v below 2^60 -> v mod q; c = 2^30 mod q
static inline V reduce_wide(V64 even, V64 odd_, V c, V cq, V q, const Barrett& b) {
    V low = low_halves(even, odd_) & 0x3fffffffu, high = low_halves(even >> 30, odd_ >> 30);
    return reduce_word(mul_shoup(high, c, cq, q) + low, b);
}

static inline void interleave(u64* out, V64 even, V64 odd_) {
    for (int i = 0; i < W / 2; i++) out[2 * i] = even[i], out[2 * i + 1] = odd_[i];
}

// Words of 64 bits as their low and high halves, in order.
static inline void split_words(const u64* x, V& low, V& high) {
    static const Lanes<1> lanes;
    const V a = load((const u32*)x), b = load((const u32*)(x + W / 2));
    low = shuffle2(a, b, lanes.low), high = shuffle2(a, b, lanes.high);
}

// low + 2^32 high mod q for any words; c = 2^32 mod q
static inline V reduce_halves(V low, V high, V c, V cq, V q, const Barrett& b) {
    const V sum = mul_shoup(high, c, cq, q) + reduce_word(low, b);  // [0, 3q)
    return reduce_once(reduce_once(sum, q + q), q);
}

// x [W] mod q in [0, q), |x| <= 2^30 or 2^40
static inline V reduce_input(const int32_t* x, u32 q, const Barrett& b) {
    return reduce_signed(load((const u32*)x), splat(signed_offset(q)), b);
}
static inline V reduce_input(const int64_t* x, u32 q, const Barrett& b) {
    const u64 offset = (((u64)1 << 40) / q + 1) * q;
    u64 shifted[W];
    for (int i = 0; i < W; i++) shifted[i] = (u64)x[i] + offset;
    V low, high;
    split_words(shifted, low, high);
    const u32 c = (u32)(((u64)1 << 32) % q);
    return reduce_halves(low, high, splat(c), splat(shoup_quotient(c, q)), splat(q), b);
}

// x [n] -> packed bytes; scratch holds (limbs + 1) n words.
template <class T>
static void mask_row(uint8_t* out, const T* x, size_t n, const MaskJob& job, u32 object, u32* scratch) {
    const size_t limbs = job.limbs;
    u32* noise = scratch + limbs * n;
    Stream s{};
    for (int i = 0; i < 8; i++) s.key[i] = job.noise_key[i];
    s.domain = job.noise_domain, s.object = object, s.index = 0;
    cbd_row((int32_t*)noise, s, n);
    for (int i = 0; i < 8; i++) s.key[i] = job.mask_key[i];
    s.domain = job.mask_domain;
    for (size_t l = 0; l < limbs; l++) {
        const u32 q = job.moduli[l];
        u32* a = scratch + l * n;
        s.index = (u32)l;
        uniform_row(a, s, n, q);
        const u32 *f = job.factor + l * n, *fq = job.quotient + l * n;
        for (size_t j = 0; j < n; j += W) store(a + j, mul_shoup(load(a + j), load(f + j), load(fq + j), splat(q)));
        intt_row(a, *job.tables[l]);  // takes [0, 2q)
    }
    const u32 a0 = job.moduli[0], a1 = job.moduli[limbs - 1];
    const Barrett b0(a0), b1(a1);
    const Pair pair(a0, a1 == a0 ? 3 : a1);
    const V q0 = splat(a0), q1 = splat(a1);
    const V64 half = V64{} + ((u64)1 << job.drop >> 1);
    BitWriter w{out};
    u64 values[W];
    for (size_t j = 0; j < n; j += W) {
        const V e = load(noise + j);
        auto residue = [&](u32 prime, const V& q, const Barrett& b, const u32* masked) {
            const V m = reduce_once(reduce_input(x + j, prime, b) + reduce_once(e + q, q), q);
            return reduce_once(m - load(masked) + q, q);
        };
        const V r0 = residue(a0, q0, b0, scratch + j);
        V64 even, odd_;
        if (limbs == 2) {
            pair.compose(r0, residue(a1, q1, b1, scratch + n + j), b1, even, odd_);
        } else {
            even = (V64)r0 & 0xffffffffu, odd_ = (V64)r0 >> 32;
        }
        interleave(values, (even + half) >> job.drop, (odd_ + half) >> job.drop);
        if (job.bits <= kMostBits)
            for (int i = 0; i < W; i++) w.put(values[i], job.bits);
        else
            for (int i = 0; i < W; i++) w.put_word(values[i], job.bits);
    }
    if (w.held) *w.to = (uint8_t)w.pending;
}

// Packed bytes -> residues [limbs, n], not yet transformed. Returns the largest packed value.
static u64 unpack_row(u32* out, const uint8_t* in, size_t n, u32 bits, u32 drop, const u32* moduli, size_t limbs) {
    BitReader r{in};
    u64 largest = 0;
    for (size_t j = 0; j < n; j += W) {
        u64 values[W];
        for (int i = 0; i < W; i++) values[i] = r.get_word(bits), largest = values[i] > largest ? values[i] : largest;
        V64 even, odd_;
        for (int i = 0; i < W / 2; i++) even[i] = values[2 * i], odd_[i] = values[2 * i + 1];
        even <<= drop, odd_ <<= drop;
        for (size_t l = 0; l < limbs; l++) {
            const u32 q = moduli[l], c = (1u << 30) % q;
            store(out + l * n + j,
                  reduce_wide(even, odd_, splat(c), splat(shoup_quotient(c, q)), splat(q), Barrett(q)));
        }
    }
    return largest;
}

// residues [limbs, n] (coefficients) + constants -> the words modulo 2^bits at `positions`, `drop` bits rounded away,
// packed. `words` holds 2 n words.
static void switch_pack_row(uint8_t* out, u32* x, size_t n, const SwitchJob& job, const u32* constants, u32* words) {
    for (size_t l = 0; l < job.limbs && constants; l++) {
        const V q = splat(job.moduli[l]), c = splat(constants[l]);
        for (size_t j = 0; j < n; j += W) store(x + l * n + j, reduce_once(load(x + l * n + j) + c, q));
    }
    const u32 bits = job.bits - job.drop;
    BitWriter w{out};
    if (job.bits > 32) {  // by float64: exact enough, since 2^bits / Q times the value has 52 bits
        const Barrett second(job.moduli[1]);
        const Pair pair(job.moduli[0], job.moduli[1]);
        u64* wide = (u64*)words;
        for (size_t j = 0; j < n; j += W) {
            V64 even, odd_;
            pair.compose(load(x + j), load(x + n + j), second, even, odd_);
            interleave(wide + j, even, odd_);
        }
        for (size_t j = 0; j < n; j++) wide[j] = (u64)(int64_t)__builtin_rint((double)(int64_t)wide[j] * job.ratio);
        const u64 half = (u64)1 << job.drop >> 1, mask = ~(u64)0 >> (64 - bits);
        for (size_t i = 0; i < job.count; i++) w.put((wide[job.positions[i]] + half) >> job.drop & mask, bits);
    } else {
        job.switch_bits(words, x, n, job.bits, job.moduli, job.limbs);
        const u32 half = 1u << job.drop >> 1, mask = ~(u32)0 >> (32 - bits);
        auto value = [&](size_t i) -> u64 { return ((u64)words[job.positions[i]] + half) >> job.drop & mask; };
        size_t i = 0;
        if (2 * bits <= kMostBits)
            for (; i + 2 <= job.count; i += 2) w.put(value(i) | value(i + 1) << bits, 2 * bits);
        for (; i < job.count; i++) w.put(value(i), bits);
    }
    if (w.held) *w.to = (uint8_t)w.pending;
}

// first: packed words at `positions` without `drop` bits; second: packed words [n] -> centred words of
// first + second * factor modulo 2^bits. scratch holds 4 n words, aligned to 8 bytes.
template <class T>
static void product_row(T* out, const uint8_t* first, const uint8_t* second, size_t n, const ProductJob& job,
                        u32* scratch) {
    const u32 bits = job.bits, spare = 64 - bits;
    u64* words = (u64*)(scratch + 2 * n);
    {
        BitReader r{second};
        for (size_t j = 0; j < n; j++) words[j] = r.get(bits);
    }
    for (size_t l = 0; l < 2; l++) {
        const u32 prime = job.moduli[l], c = (u32)(((u64)1 << 32) % prime), top = (u32)(((u64)1 << bits) % prime);
        const Barrett b(prime);
        const V q = splat(prime), C = splat(c), CQ = splat(shoup_quotient(c, prime)), wrap = splat(prime - top);
        u32* a = scratch + l * n;
        for (size_t j = 0; j < n; j += W) {  // centred: v - 2^bits for v >= 2^(bits-1)
            V low, high;
            split_words(words + j, low, high);
            const V sign = splat(0) - (((bits > 32 ? high : low) >> ((bits - 1) & 31)) & 1u);
            store(a + j, reduce_once(reduce_halves(low, high, C, CQ, q, b) + (wrap & sign), q));
        }
        ntt_row(a, *job.tables[l]);
        const u32 *f = job.factor + l * n, *fq = job.quotient + l * n;
        for (size_t j = 0; j < n; j += W) store(a + j, mul_shoup(load(a + j), load(f + j), load(fq + j), q));
        intt_row(a, *job.tables[l]);
    }
    const Barrett second_prime(job.moduli[1]);
    const Pair pair(job.moduli[0], job.moduli[1]);
    const u64 modulus = (u64)job.moduli[0] * job.moduli[1];
    const V64 middle = V64{} + modulus / 2, whole = V64{} + modulus;
    for (size_t j = 0; j < n; j += W) {
        V64 even, odd_;
        pair.compose(load(scratch + j), load(scratch + n + j), second_prime, even, odd_);
        interleave(words + j, even - (whole & (V64)(even > middle)), odd_ - (whole & (V64)(odd_ > middle)));
    }
    BitReader r{first};
    for (size_t i = 0; i < job.count; i++) {
        const u64 v = words[job.positions[i]] + (r.get(bits - job.drop) << job.drop);
        out[i] = (T)((int64_t)(v << spare) >> spare);
    }
}

// round(clip(x f + y g, low, high)), three float64 roundings, never fused; y may be null.
template <class T>
static void requantise_row(T* out, const T* x, double f, const T* y, double g, double low, double high, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double v = (double)x[i] * f;
        if (y) v += (double)y[i] * g;
        v = v < low ? low : v > high ? high : v;
        out[i] = (T)__builtin_rint(v);
    }
}

}  // namespace hegpu::HEGPU_LEVEL
