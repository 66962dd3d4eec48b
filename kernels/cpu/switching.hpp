// Rows of products with a key, of tensor products and of automorphisms, in the evaluation domain.
#pragma once
#include "basis.hpp"

namespace hegpu::HEGPU_LEVEL {

// x(X^g) in bit-reversed evaluation order: a block of W outputs is one block of W inputs, permuted, since the low bits
// of an exponent decide those of its multiple. With r = bitrev of the block over log2(n/W) bits and
// u = (g (2 r + 1) - 1) / 2 mod n: the source block is bitrev(u mod n/W), lane i is bitrev_W(u / (n/W) + g
// bitrev_W(i)).
struct Turn {
    std::vector<u32> block, high;  // of each output block
    V lanes[W];
    Turn(size_t n, u64 g) : block(n / W), high(n / W) {
        const size_t blocks = n / W;
        u32 small[W];
        std::vector<u32> order(1, 0);
        while (order.size() < blocks) {
            const size_t half = order.size();
            for (u32& r : order) r *= 2;
            for (size_t i = 0; i < half; i++) order.push_back(order[i] + 1);
        }
        for (int i = 0; i < W; i++) {
            small[i] = 0;
            for (int b = 1; b < W; b *= 2) small[i] = 2 * small[i] + ((i & b) ? 1 : 0);
        }
        for (size_t r = 0; r < blocks; r++) {
            u64 u = ((g * (2 * r + 1) - 1) / 2) % n;
            block[order[r]] = order[u % blocks] * W, high[order[r]] = (u32)(u / blocks);
        }
        for (int h = 0; h < W; h++)
            for (int i = 0; i < W; i++) lanes[h][i] = small[(h + g * small[i]) % W];
    }
};

static void turn_row(u32* out, const u32* x, size_t n, const Turn& t) {
    for (size_t b = 0; b < n / W; b++) store(out + b * W, shuffle1(load(x + t.block[b]), t.lanes[t.high[b]]));
}

// x(X^g) mod X^n + 1 in coefficients: x_j goes to g j modulo 2n, with the other sign from n on.
static void turn_coefficients_row(u32* out, const u32* x, size_t n, u64 g, u32 q) {
    const size_t mask = 2 * n - 1;
    for (size_t j = 0, to = 0; j < n; j++, to = (to + g) & mask) {
        const u32 negative = x[j] ? q - x[j] : 0;
        out[to & (n - 1)] = to < n ? x[j] : negative;
    }
}

// out0, out1 in [0, q): (sum_d x_d k_d + add f) 2^-32; at most 14 digits.
template <bool Add0, bool Add1>
static void inner(u32* out0, u32* out1, const InnerJob& job, size_t n) {
    V q = splat(job.q), q2 = q + q, inverse = splat(job.inverse), f = splat(job.add_factor);
    for (size_t j = 0; j < n; j += W) {
        V64 e0{}, o0{}, e1{}, o1{};
        for (size_t d = 0; d < job.count; d++) {
            V x = load(job.x[d] + j), y = odd(x), a = load(job.first[d] + j), b = load(job.second[d] + j);
            e0 += mul_even(x, a), o0 += mul_even(y, odd(a));
            e1 += mul_even(x, b), o1 += mul_even(y, odd(b));
        }
        if constexpr (Add0) {
            V x = load(job.add0 + j);
            e0 += mul_even(x, f), o0 += mul_even(odd(x), f);
        }
        if constexpr (Add1) {
            V x = load(job.add1 + j);
            e1 += mul_even(x, f), o1 += mul_even(odd(x), f);
        }
        store(out0 + j, reduce_once(reduce_sum(e0, o0, inverse, q, q2), q));
        store(out1 + j, reduce_once(reduce_sum(e1, o1, inverse, q, q2), q));
    }
}
static void inner_row(u32* out0, u32* out1, const InnerJob& job, size_t n) {
    if (job.add1)
        inner<true, true>(out0, out1, job, n);
    else if (job.add0)
        inner<true, false>(out0, out1, job, n);
    else
        inner<false, false>(out0, out1, job, n);
}

// out = x w - y in [0, q), turned if t; x in [0, 2q) or null (zero), y in [0, q).
static void combine_row(u32* out, const u32* x, const u32* y, u32 w, u32 quotient, size_t n, u32 q, const void* turn) {
    V Q = splat(q), S = splat(w), SQ = splat(quotient);
    const Turn* t = (const Turn*)turn;
    for (size_t b = 0; b < n / W; b++) {
        size_t at = t ? t->block[b] : b * W;
        V r = Q - load(y + at);
        if (x) r += reduce_once(mul_shoup(load(x + at), S, SQ, Q), Q);
        r = reduce_once(r, Q);
        store(out + b * W, t ? shuffle1(r, t->lanes[t->high[b]]) : r);
    }
}

// Sums over `terms` pairs, x and y at a stride: d0 = x0 y0, d1 = x0 y1 + x1 y0, d2 = x1 y1 in [0, q).
// lowered: d0 and d1 times 2^-32.
template <bool Square>
static void tensor(u32* d0, u32* d1, u32* d2, const TensorJob& job, size_t n) {
    V q = splat(job.q), q2 = q + q, inverse = splat(job.inverse);
    V f = splat(job.raise), fq = splat(job.raise_quotient);
    for (size_t j = 0; j < n; j += W) {
        V total[3] = {V{}, V{}, V{}};
        for (size_t i = 0; i < job.terms;) {
            V64 even[3] = {V64{}, V64{}, V64{}}, odd_[3] = {V64{}, V64{}, V64{}};
            for (size_t end = i + 7 < job.terms ? i + 7 : job.terms; i < end; i++) {
                V a = load(job.x0 + i * job.stride + j), b = load(job.x1 + i * job.stride + j);
                V a_ = odd(a), b_ = odd(b);
                if constexpr (Square) {
                    V twice = a + a, twice_ = odd(twice);
                    even[0] += mul_even(a, a), odd_[0] += mul_even(a_, a_);
                    even[1] += mul_even(twice, b), odd_[1] += mul_even(twice_, b_);
                    even[2] += mul_even(b, b), odd_[2] += mul_even(b_, b_);
                } else {
                    V c = load(job.y0 + i * job.stride + j), d = load(job.y1 + i * job.stride + j);
                    V c_ = odd(c), d_ = odd(d);
                    even[0] += mul_even(a, c), odd_[0] += mul_even(a_, c_);
                    even[1] += mul_even(a, d) + mul_even(b, c), odd_[1] += mul_even(a_, d_) + mul_even(b_, c_);
                    even[2] += mul_even(b, d), odd_[2] += mul_even(b_, d_);
                }
            }
            for (int p = 0; p < 3; p++)
                total[p] = reduce_once(total[p] + reduce_sum(even[p], odd_[p], inverse, q, q2), q2);
        }
        total[2] = mul_shoup(total[2], f, fq, q);
        if (!job.lowered) total[0] = mul_shoup(total[0], f, fq, q), total[1] = mul_shoup(total[1], f, fq, q);
        store(d0 + j, reduce_once(total[0], q)), store(d1 + j, reduce_once(total[1], q));
        store(d2 + j, reduce_once(total[2], q));
    }
}
static void tensor_row(u32* d0, u32* d1, u32* d2, const TensorJob& job, size_t n) {
    if (job.x0 == job.y0 && job.x1 == job.y1)
        tensor<true>(d0, d1, d2, job, n);
    else
        tensor<false>(d0, d1, d2, job, n);
}

// out = sum_i x_i y_i in [0, q)
static void products_row(u32* out, const u32* x, size_t x_stride, const u32* y, size_t y_stride, size_t terms, size_t n,
                         u32 q) {
    V Q = splat(q), Q2 = Q + Q, inverse = splat(inverse_word(q));
    const u32 raise = (u32)montgomery(q);
    V f = splat(raise), fq = splat(shoup_quotient(raise, q));
    for (size_t j = 0; j < n; j += W) {
        V total{};
        for (size_t i = 0; i < terms;) {
            V64 even{}, odd_{};
            for (size_t end = i + kTerms < terms ? i + kTerms : terms; i < end; i++) {
                V a = load(x + i * x_stride + j), b = load(y + i * y_stride + j);
                even += mul_even(a, b), odd_ += mul_even(odd(a), odd(b));
            }
            total = reduce_once(total + reduce_sum(even, odd_, inverse, Q, Q2), Q2);
        }
        store(out + j, reduce_once(mul_shoup(total, f, fq, Q), Q));
    }
}

}  // namespace hegpu::HEGPU_LEVEL
