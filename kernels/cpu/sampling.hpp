// ChaCha20 (RFC 8439) and the samplers on it. Streams and word order: hegpu/backend/protocol.py.
#pragma once
#include "modarith.hpp"

namespace hegpu::HEGPU_LEVEL {

static inline V rotate(V x, int r) { return (x << r) | (x >> (32 - r)); }
static inline void quarter_round(V& a, V& b, V& c, V& d) {
    a += b, d = rotate(d ^ a, 16), c += d, b = rotate(b ^ c, 12);
    a += b, d = rotate(d ^ a, 8), c += d, b = rotate(b ^ c, 7);
}

struct Stream {
    u32 key[8], domain, object, index;
};

// Words 256 group .. 256 group + 255 of the stream: sixteen blocks side by side.
static void chacha_group(u32* out, const Stream& s, u32 group) {
    static const u32 constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    for (int lane = 0; lane < 16; lane += W) {
        V start[16], x[16];
        for (int i = 0; i < 4; i++) start[i] = splat(constants[i]);
        for (int i = 0; i < 8; i++) start[4 + i] = splat(s.key[i]);
        for (int i = 0; i < W; i++) start[12][i] = 16 * group + lane + i;
        start[13] = splat(s.domain), start[14] = splat(s.object), start[15] = splat(s.index);
        for (int i = 0; i < 16; i++) x[i] = start[i];
        for (int round = 0; round < 10; round++) {
            quarter_round(x[0], x[4], x[8], x[12]), quarter_round(x[1], x[5], x[9], x[13]);
            quarter_round(x[2], x[6], x[10], x[14]), quarter_round(x[3], x[7], x[11], x[15]);
            quarter_round(x[0], x[5], x[10], x[15]), quarter_round(x[1], x[6], x[11], x[12]);
            quarter_round(x[2], x[7], x[8], x[13]), quarter_round(x[3], x[4], x[9], x[14]);
        }
        for (int i = 0; i < 16; i++) store(out + 16 * i + lane, x[i] + start[i]);
    }
}

// Words below the largest multiple of q, modulo q; a row holds q where one was rejected and is drawn again. Public
// values only: the number of attempts depends on them.
static void uniform_row(u32* out, Stream s, size_t n, u32 q) {
    const u32 limit = (u32)(((u64)1 << 32) / q * q);
    const V Q = splat(q), L = splat(limit);
    const Barrett b(q);
    V any_rejected = {};
    for (size_t j = 0; j < n; j += 256) {
        chacha_group(out + j, s, (u32)(j / 256));
        for (size_t k = j; k < j + 256; k += W) {
            const V word = load(out + k), rejected = (V)(word >= L);
            any_rejected |= rejected;
            store(out + k, (reduce_word(word, b) & ~rejected) | (Q & rejected));
        }
    }
    bool again = false;
    for (int i = 0; i < W; i++) again |= any_rejected[i] != 0;
    u32 words[256];
    while (again) {
        again = false;
        s.index += 65536;
        for (size_t j = 0; j < n; j += 256) {
            bool any = false;
            for (size_t k = j; k < j + 256; k++) any |= out[k] == q;
            if (!any) continue;
            chacha_group(words, s, (u32)(j / 256));
            for (size_t k = 0; k < 256; k++)
                if (out[j + k] == q) out[j + k] = words[k] < limit ? words[k] % q : q, again |= words[k] >= limit;
        }
    }
}

static void ternary_row(int32_t* out, const Stream& s, size_t n) {
    u32 low[256], high[256];
    V three = splat(3);
    for (size_t j = 0; j < n; j += 256) {
        chacha_group(low, s, (u32)(j / 256)), chacha_group(high, s, (u32)((n + j) / 256));
        for (size_t k = 0; k < 256; k += W) {
            V carry_in = mulhi(load(low + k), three), product = load(high + k) * 3u, sum = product + carry_in;
            V carry = (V)(sum < product) & 1u;
            store((u32*)out + j + k, mulhi(load(high + k), three) + carry - 1u);
        }
    }
}

static void cbd_row(int32_t* out, const Stream& s, size_t n) {
    u32 word[256], rest[256];
    for (size_t half = 0; half < n / 2; half += 256) {
        chacha_group(rest, s, (u32)((n + half) / 256));
        for (int side = 0; side < 2; side++) {
            size_t j = half + side * (n / 2);
            chacha_group(word, s, (u32)(j / 256));
            for (size_t k = 0; k < 256; k += W) {
                V w = load(word + k), h = load(rest + k) >> (16 * side);
                store((u32*)out + j + k, popcount(w & 0x1fffffu) - popcount(w >> 21) - popcount(h & 1023u));
            }
        }
    }
}

// One object, all limbs: out [limbs, n].
static void flood_rows(u32* out, const Stream& s, size_t n, u32 bits, const u32* moduli, size_t limbs) {
    u32 mask[3], words[256];
    u64 sum[3][256];
    for (u32 k = 0; k < 3; k++)
        mask[k] = bits >= 32 * (k + 1) ? ~(u32)0 : bits > 32 * k ? ~(u32)0 >> (32 * (k + 1) - bits) : 0;
    for (size_t j = 0; j < n; j += 256) {
        for (u32 k = 0; k < 3; k++) {
            for (int i = 0; i < 256; i++) sum[k][i] = 0;
            if (!mask[k]) continue;
            for (u32 t = 0; t < 8; t++) {
                chacha_group(words, s, (u32)(((3 * t + k) * n + j) / 256));
                for (int i = 0; i < 256; i++) sum[k][i] += words[i] & mask[k];
            }
        }
        for (size_t l = 0; l < limbs; l++) {
            u32 q = moduli[l];
            u64 inverse = inverse_u64(q), c1 = pow_mod(2, 32, q), c2 = pow_mod(2, 64, q);
            u64 offset = q - (u64)4 * ((pow_mod(2, bits, q) + (u64)q - 1) % q) % q;
            for (int i = 0; i < 256; i++) {
                u64 v = sum[0][i] + offset + (u64)reduce_u64(sum[1][i], q, inverse) * c1;
                out[l * n + j + i] = reduce_u64(v + (u64)reduce_u64(sum[2][i], q, inverse) * c2, q, inverse);
            }
        }
    }
}

}  // namespace hegpu::HEGPU_LEVEL
