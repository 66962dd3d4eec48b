// point_matmul: at every NTT point a matrix product of residues. Layout of a matrix of polynomials:
// [limb][n/16][row][column][16], so that a product reads and writes whole cache lines in order.
//
// Primes below 2^24 use 16-bit multiply-adds (VNNI): a residue is two digits, v = lo + hi 2^d, and three digit
// products (Karatsuba: lo lo', hi hi', (lo+hi)(lo'+hi')) give the residue product; sums are exact modulo 2^32
// because K (2^(d+1) - 2)^2 < 2^32 holds for each block of K channels. A 512-bit instruction does 32 digit products,
// so 10.7 residue products against 8 for a float64 FMA or a 32 x 32 -> 64 bit multiply.
// Larger primes use 64-bit sums of 32 x 32 products, folded before they overflow.
#pragma once
#include <algorithm>
#include <vector>

#include "modarith.hpp"

namespace hegpu::HEGPU_LEVEL {

constexpr size_t kPanelBytes = 384 * 1024;  // the digits of a column chunk stay in the L2 cache

struct AlignedBuffer {
    V* data = nullptr;
    size_t size = 0;
    V* get(size_t vectors) {
        if (vectors > size) {
            ::operator delete(data, std::align_val_t(64));
            data = (V*)::operator new(vectors * sizeof(V), std::align_val_t(64));
            size = vectors;
        }
        return data;
    }
    ~AlignedBuffer() { ::operator delete(data, std::align_val_t(64)); }
};

struct MatmulBuffers {
    AlignedBuffer w, x;
};

static inline void split_pair(V v0, V v1, int d, V* lo, V* hi, V* sum) {
    V mask = splat((1u << d) - 1);
    *lo = (v0 & mask) | ((v1 & mask) << 16);
    *hi = (v0 >> d) | ((v1 >> d) << 16);
    *sum = *lo + *hi;
}

template <int OB, int BB>
static inline void digit_block(V* result, const V* w, const V* x, size_t pairs) {
    V acc[OB][BB] = {};
    for (size_t p = 0; p < pairs; p++, w += OB, x += BB) {
        V xs[BB];
#pragma GCC unroll 8
        for (int b = 0; b < BB; b++) xs[b] = x[b];
#pragma GCC unroll 8
        for (int o = 0; o < OB; o++) {
            V ws = w[o];
#pragma GCC unroll 8
            for (int b = 0; b < BB; b++) acc[o][b] = dot_pairs(acc[o][b], ws, xs[b]);
        }
    }
#pragma GCC unroll 8
    for (int o = 0; o < OB; o++)
#pragma GCC unroll 8
        for (int b = 0; b < BB; b++) result[o * BB + b] = acc[o][b];
}

#if defined(HEGPU_AVX512)
constexpr int kDigitRows = 4, kDigitColumns = 6, kWideRows = 4, kWideColumns = 3;
#elif defined(HEGPU_AVX2)
constexpr int kDigitRows = 2, kDigitColumns = 4, kWideRows = 2, kWideColumns = 2;
#else
constexpr int kDigitRows = 2, kDigitColumns = 2, kWideRows = 1, kWideColumns = 2;
#endif

static inline size_t round_up(size_t x, size_t m) { return (x + m - 1) / m * m; }

// One block of 16 points: w [O][I][16], x [I][B][16] -> y [O][B][16].
static void digit_matmul(u32* y, const u32* w, const u32* x, size_t O, size_t I, size_t B, u32 q, MatmulBuffers& m) {
    constexpr size_t OB = kDigitRows, BB = kDigitColumns;
    const int d = q < (1u << 22) ? 11 : 12;
    // The largest even K with K (largest digit sum)^2 < 2^32: digits of d and of log2 q - d bits.
    const size_t most = d == 11 ? 254 : q < (1u << 23) ? 112 : 62;
    const Barrett barrett(q);
    const V Q = splat(q), mask = splat((1u << d) - 1);
    const u32 c = (u32)(((u64)1 << (2 * d)) % q);
    const V C = splat(c), CQ = splat((u32)(((u64)c << 32) / q));
    const size_t Op = round_up(O, OB);
    for (size_t first = 0; first < I; first += most) {
        const size_t K = std::min(most, I - first), pairs = (K + 1) / 2;
        const size_t chunk = std::max(BB, std::min(round_up(B, BB), kPanelBytes / (3 * pairs * sizeof(V)) / BB * BB));
        V* wd = m.w.get(3 * Op * pairs);
        V* xd = m.x.get(3 * pairs * chunk);
        for (int h = 0; h < 16; h += W) {
            for (size_t o = 0; o < Op; o++)
                for (size_t p = 0; p < pairs; p++) {
                    const u32* row = w + (o * I + first + 2 * p) * 16 + h;
                    V v0 = o < O ? load(row) : V{}, v1 = o < O && 2 * p + 1 < K ? load(row + 16) : V{};
                    V* to = wd + (o / OB * 3 * pairs + p) * OB + o % OB;
                    split_pair(v0, v1, d, to, to + pairs * OB, to + 2 * pairs * OB);
                }
            for (size_t b0 = 0; b0 < B; b0 += chunk) {
                const size_t columns = std::min(chunk, B - b0), blocks = (columns + BB - 1) / BB;
                for (size_t p = 0; p < pairs; p++)
                    for (size_t b = 0; b < blocks * BB; b++) {
                        const u32* at = x + ((first + 2 * p) * B + b0 + b) * 16 + h;
                        V v0 = b < columns ? load(at) : V{};
                        V v1 = b < columns && 2 * p + 1 < K ? load(at + 16 * B) : V{};
                        V* to = xd + (b / BB * 3 * pairs + p) * BB + b % BB;
                        split_pair(v0, v1, d, to, to + pairs * BB, to + 2 * pairs * BB);
                    }
                for (size_t o0 = 0; o0 < O; o0 += OB)
                    for (size_t k = 0; k < blocks; k++) {
                        V r[3][OB * BB];
                        for (int s = 0; s < 3; s++)
                            digit_block<OB, BB>(r[s], wd + (o0 / OB * 3 + s) * pairs * OB,
                                                xd + (k * 3 + s) * pairs * BB, pairs);
                        for (size_t o = 0; o < OB && o0 + o < O; o++)
                            for (size_t b = 0; b < BB && k * BB + b < columns; b++) {
                                V low = r[0][o * BB + b], high = r[1][o * BB + b], mid = r[2][o * BB + b] - low - high;
                                V t = mul_shoup(high + (mid >> d), C, CQ, Q) + low + ((mid & mask) << d);
                                u32* out = y + ((o0 + o) * B + b0 + k * BB + b) * 16 + h;
                                V v = reduce_word(t, barrett);
                                store(out, first ? reduce_once(load(out) + v, Q) : v);
                            }
                    }
            }
        }
    }
}

template <int OB, int BB>
static inline void wide_block(V64* even, V64* odd_, const V* w, const V* x, size_t K, size_t period, V fold) {
    V64 e[OB][BB] = {}, f[OB][BB] = {};
    for (size_t i = 0; i < K;) {
        const size_t stop = std::min(K, i + period);
        for (; i < stop; i++, w += OB, x += BB) {
            V xe[BB], xo[BB];
#pragma GCC unroll 8
            for (int b = 0; b < BB; b++) xe[b] = x[b], xo[b] = odd(x[b]);
#pragma GCC unroll 8
            for (int o = 0; o < OB; o++) {
                V we = w[o], wo = odd(we);
#pragma GCC unroll 8
                for (int b = 0; b < BB; b++) e[o][b] += mul_even(we, xe[b]), f[o][b] += mul_even(wo, xo[b]);
            }
        }
        if (stop < K)
#pragma GCC unroll 8
            for (int o = 0; o < OB; o++)
#pragma GCC unroll 8
                for (int b = 0; b < BB; b++) {
                    e[o][b] = (e[o][b] & 0xffffffffu) + mul_even((V)(e[o][b] >> 32), fold);
                    f[o][b] = (f[o][b] & 0xffffffffu) + mul_even((V)(f[o][b] >> 32), fold);
                }
    }
#pragma GCC unroll 8
    for (int o = 0; o < OB; o++)
#pragma GCC unroll 8
        for (int b = 0; b < BB; b++) even[o * BB + b] = e[o][b], odd_[o * BB + b] = f[o][b];
}

static void wide_matmul(u32* y, const u32* w, const u32* x, size_t O, size_t I, size_t B, u32 q, MatmulBuffers& m) {
    constexpr size_t OB = kWideRows, BB = kWideColumns;
    const Barrett barrett(q);
    const V Q = splat(q), Q2 = Q + Q;
    const u32 c = (u32)(((u64)1 << 32) % q);
    const V C = splat(c), CQ = splat((u32)(((u64)c << 32) / q));
    // A folded sum is below 2^32 (q + 1), after which `period` products must still fit 64 bits.
    const u64 largest = (u64)(q - 1) * (q - 1);
    const size_t period = (size_t)((~(u64)0 - ((u64)q + 1) * ((u64)1 << 32)) / largest);
    const size_t Op = round_up(O, OB);
    const size_t chunk = std::max(BB, std::min(round_up(B, BB), kPanelBytes / (I * sizeof(V)) / BB * BB));
    V* wp = m.w.get(Op * I);
    V* xp = m.x.get(I * chunk);
    for (int h = 0; h < 16; h += W) {
        for (size_t o = 0; o < Op; o++)
            for (size_t i = 0; i < I; i++)
                wp[(o / OB * I + i) * OB + o % OB] = o < O ? load(w + (o * I + i) * 16 + h) : V{};
        for (size_t b0 = 0; b0 < B; b0 += chunk) {
            const size_t columns = std::min(chunk, B - b0), blocks = (columns + BB - 1) / BB;
            for (size_t i = 0; i < I; i++)
                for (size_t b = 0; b < blocks * BB; b++)
                    xp[(b / BB * I + i) * BB + b % BB] = b < columns ? load(x + (i * B + b0 + b) * 16 + h) : V{};
            for (size_t o0 = 0; o0 < O; o0 += OB)
                for (size_t k = 0; k < blocks; k++) {
                    V64 even[OB * BB], odd_[OB * BB];
                    wide_block<OB, BB>(even, odd_, wp + o0 * I, xp + k * BB * I, I, period, C);
                    for (size_t o = 0; o < OB && o0 + o < O; o++)
                        for (size_t b = 0; b < BB && k * BB + b < columns; b++) {
                            V64 e = even[o * BB + b], f = odd_[o * BB + b];
                            V high = high_halves(e, f), low = low_halves(e, f);
                            V v = mul_shoup(high, C, CQ, Q) + reduce_word(low, barrett);
                            store(y + ((o0 + o) * B + b0 + k * BB + b) * 16 + h, reduce_once(reduce_once(v, Q2), Q));
                        }
                }
        }
    }
}

static void matmul_block(u32* y, const u32* w, const u32* x, size_t O, size_t I, size_t B, u32 q, MatmulBuffers& m) {
    if (!I)
        std::memset(y, 0, O * B * 64);
    else if (q < (1u << 24))
        digit_matmul(y, w, x, O, I, B, q, m);
    else
        wide_matmul(y, w, x, O, I, B, q, m);
}

// The ceiling for digit_matmul: its innermost block on operands that stay in the L1 cache, no conversion, no reduction.
// Returns how many residue products `repeats` blocks are worth (three digit products each).
static double digit_ceiling(size_t repeats, u32* sink) {
    constexpr size_t OB = kDigitRows, BB = kDigitColumns, pairs = 32;
    alignas(64) V w[pairs * OB], x[pairs * BB], r[OB * BB];
    for (V& v : w) v = splat(sink[0]);
    for (V& v : x) v = splat(sink[1]);
    for (size_t i = 0; i < repeats; i++) {
        digit_block<OB, BB>(r, w, x, pairs);
        sink[2] += r[i % (OB * BB)][0];
        w[0] += sink[2] & 1u;
    }
    return (double)repeats * pairs * OB * BB * 2 * W / 3;
}

// Rows of `count` neighbouring columns <-> their lines of 16 points; `line` is rows * columns * 16.
static void scatter_rows(u32* points, size_t line, size_t column_step, const u32* rows, size_t count, size_t n) {
    for (size_t j = 0; j < n / 16; j++)
        for (size_t c = 0; c < count; c++)
            std::memcpy(points + j * line + c * column_step * 16, rows + c * n + j * 16, 64);
}
static void gather_rows(u32* rows, const u32* points, size_t line, size_t column_step, size_t count, size_t n) {
    for (size_t j = 0; j < n / 16; j++)
        for (size_t c = 0; c < count; c++)
            std::memcpy(rows + c * n + j * 16, points + j * line + c * column_step * 16, 64);
}

}  // namespace hegpu::HEGPU_LEVEL
