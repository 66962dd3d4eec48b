// Negacyclic NTT with lazy butterflies (Harvey 2014), radix 4 in memory, the last log2(W) stages in registers.
#pragma once
#include "modarith.hpp"
#include "tables.hpp"

namespace hegpu::HEGPU_LEVEL {

// Gathers the butterflies at distance T < W out of two vectors and puts them back.
template <int T>
struct Lanes {
    V low, high, back_first, back_second, twiddle;
    Lanes() {
        int count = 0, lo[W], hi[W];
        for (int k = 0; k < 2 * W; k++)
            if (!(k & T)) lo[count] = k, hi[count] = k + T, twiddle[count] = k / (2 * T), count++;
        for (int i = 0; i < W; i++) low[i] = lo[i], high[i] = hi[i];
        for (int i = 0; i < W; i++) {
            V& a = lo[i] < W ? back_first : back_second;
            a[lo[i] % W] = i;
            V& b = hi[i] < W ? back_first : back_second;
            b[hi[i] % W] = W + i;
        }
    }
};

// x, y in [0, 4q) -> [0, 4q)
static inline void butterfly(V& x, V& y, V w, V wq, V q, V q2) {
    V u = reduce_once(x, q2), p = mul_shoup(y, w, wq, q);
    x = u + p, y = u - p + q2;
}
// x, y in [0, 2q) -> [0, 2q)
static inline void inverse_butterfly(V& x, V& y, V w, V wq, V q, V q2) {
    V s = reduce_once(x + y, q2), d = x - y + q2;
    x = s, y = mul_shoup(d, w, wq, q);
}

template <int T>
static inline void register_stage(V& a, V& b, const u32* w, const u32* wq, size_t index, V q, V q2) {
    static const Lanes<T> lanes;
    V x = shuffle2(a, b, lanes.low), y = shuffle2(a, b, lanes.high);
    butterfly(x, y, shuffle1(load(w + index), lanes.twiddle), shuffle1(load(wq + index), lanes.twiddle), q, q2);
    a = shuffle2(x, y, lanes.back_first), b = shuffle2(x, y, lanes.back_second);
}
template <int T>
static inline void inverse_register_stage(V& a, V& b, const u32* w, const u32* wq, size_t index, V q, V q2) {
    static const Lanes<T> lanes;
    V x = shuffle2(a, b, lanes.low), y = shuffle2(a, b, lanes.high);
    inverse_butterfly(x, y, shuffle1(load(w + index), lanes.twiddle), shuffle1(load(wq + index), lanes.twiddle), q, q2);
    a = shuffle2(x, y, lanes.back_first), b = shuffle2(x, y, lanes.back_second);
}

// In place: [0, q) -> [0, q).
static void ntt_row(u32* a, const NttTables& t) {
    const u32 *w = t.w.data(), *wq = t.w_quotient.data();
    const size_t n = t.n;
    V q = splat(t.q), q2 = q + q;
    size_t m = 1, d = n / 2;  // m groups of butterflies at distance d
    for (; d >= 2 * W; m *= 4, d /= 4) {
        size_t h = d / 2;
        for (size_t i = 0; i < m; i++) {
            u32* p = a + 2 * i * d;
            V w1 = splat(w[m + i]), s1 = splat(wq[m + i]);
            V w2 = splat(w[2 * m + 2 * i]), s2 = splat(wq[2 * m + 2 * i]);
            V w3 = splat(w[2 * m + 2 * i + 1]), s3 = splat(wq[2 * m + 2 * i + 1]);
            for (size_t j = 0; j < h; j += W) {
                V A = load(p + j), B = load(p + h + j), C = load(p + 2 * h + j), D = load(p + 3 * h + j);
                butterfly(A, C, w1, s1, q, q2), butterfly(B, D, w1, s1, q, q2);
                butterfly(A, B, w2, s2, q, q2), butterfly(C, D, w3, s3, q, q2);
                store(p + j, A), store(p + h + j, B), store(p + 2 * h + j, C), store(p + 3 * h + j, D);
            }
        }
    }
    for (; d >= W; m *= 2, d /= 2)
        for (size_t i = 0; i < m; i++) {
            u32* p = a + 2 * i * d;
            V w1 = splat(w[m + i]), s1 = splat(wq[m + i]);
            for (size_t j = 0; j < d; j += W) {
                V A = load(p + j), B = load(p + d + j);
                butterfly(A, B, w1, s1, q, q2);
                store(p + j, A), store(p + d + j, B);
            }
        }
    for (size_t j = 0; j < n; j += 2 * W) {
        V A = load(a + j), B = load(a + j + W);
        if constexpr (W >= 16) register_stage<8>(A, B, w, wq, n / 16 + j / 16, q, q2);
        if constexpr (W >= 8) register_stage<4>(A, B, w, wq, n / 8 + j / 8, q, q2);
        register_stage<2>(A, B, w, wq, n / 4 + j / 4, q, q2);
        register_stage<1>(A, B, w, wq, n / 2 + j / 2, q, q2);
        store(a + j, reduce_once(reduce_once(A, q2), q)), store(a + j + W, reduce_once(reduce_once(B, q2), q));
    }
}

// x in [0, 2q) -> a in [0, q), times n f, fq = floor(f 2^32 / q); x may be a.
static void intt_scaled_row(u32* a, const u32* x, const NttTables& t, u32 factor, u32 factor_quotient) {
    const u32 *w = t.inverse.data(), *wq = t.inverse_quotient.data();
    const size_t n = t.n;
    V q = splat(t.q), q2 = q + q;
    for (size_t j = 0; j < n; j += 2 * W) {
        V A = load(x + j), B = load(x + j + W);
        inverse_register_stage<1>(A, B, w, wq, n / 2 + j / 2, q, q2);
        inverse_register_stage<2>(A, B, w, wq, n / 4 + j / 4, q, q2);
        if constexpr (W >= 8) inverse_register_stage<4>(A, B, w, wq, n / 8 + j / 8, q, q2);
        if constexpr (W >= 16) inverse_register_stage<8>(A, B, w, wq, n / 16 + j / 16, q, q2);
        store(a + j, A), store(a + j + W, B);
    }
    size_t d = W;
    auto radix2 = [&](size_t distance) {
        size_t m = n / (2 * distance);
        for (size_t i = 0; i < m; i++) {
            u32* p = a + 2 * i * distance;
            V w1 = splat(w[m + i]), s1 = splat(wq[m + i]);
            for (size_t j = 0; j < distance; j += W) {
                V A = load(p + j), B = load(p + distance + j);
                inverse_butterfly(A, B, w1, s1, q, q2);
                store(p + j, A), store(p + distance + j, B);
            }
        }
    };
    int stages = 0;
    for (size_t s = d; s < n; s *= 2) stages++;
    if (stages % 2) radix2(d), d *= 2;
    V f = splat(factor), fq = splat(factor_quotient);
    for (; d < n; d *= 4) {
        size_t m = n / (2 * d);
        bool last = d * 4 == n;
        for (size_t i = 0; i < m / 2; i++) {
            u32* p = a + 4 * i * d;
            V w2 = splat(w[m + 2 * i]), s2 = splat(wq[m + 2 * i]);
            V w3 = splat(w[m + 2 * i + 1]), s3 = splat(wq[m + 2 * i + 1]);
            V w1 = splat(w[m / 2 + i]), s1 = splat(wq[m / 2 + i]);
            for (size_t j = 0; j < d; j += W) {
                V A = load(p + j), B = load(p + d + j), C = load(p + 2 * d + j), D = load(p + 3 * d + j);
                inverse_butterfly(A, B, w2, s2, q, q2), inverse_butterfly(C, D, w3, s3, q, q2);
                inverse_butterfly(A, C, w1, s1, q, q2), inverse_butterfly(B, D, w1, s1, q, q2);
                if (last) {
                    A = reduce_once(mul_shoup(A, f, fq, q), q), B = reduce_once(mul_shoup(B, f, fq, q), q);
                    C = reduce_once(mul_shoup(C, f, fq, q), q), D = reduce_once(mul_shoup(D, f, fq, q), q);
                }
                store(p + j, A), store(p + d + j, B), store(p + 2 * d + j, C), store(p + 3 * d + j, D);
            }
        }
    }
}

// In place: [0, 2q) -> [0, q), factor 1/n included.
static void intt_row(u32* a, const NttTables& t) { intt_scaled_row(a, a, t, t.n_inverse, t.n_inverse_quotient); }

}  // namespace hegpu::HEGPU_LEVEL
