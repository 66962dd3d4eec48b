// Pointwise rows of n residues in [0, q) -> [0, q).
#pragma once
#include "modarith.hpp"

namespace hegpu::HEGPU_LEVEL {

static void add_row(u32* out, const u32* x, const u32* y, size_t n, u32 q) {
    V Q = splat(q);
    for (size_t j = 0; j < n; j += W) store(out + j, reduce_once(load(x + j) + load(y + j), Q));
}
static void sub_row(u32* out, const u32* x, const u32* y, size_t n, u32 q) {
    V Q = splat(q);
    for (size_t j = 0; j < n; j += W) store(out + j, reduce_once(load(x + j) - load(y + j) + Q, Q));
}
static void mul_row(u32* out, const u32* x, const u32* y, size_t n, u32 q) {
    Barrett b(q);
    for (size_t j = 0; j < n; j += W) store(out + j, mul_mod(load(x + j), load(y + j), b));
}
static void multiply_accumulate_row(u32* out, const u32* acc, const u32* x, const u32* y, size_t n, u32 q) {
    Barrett b(q);
    V Q = splat(q);
    for (size_t j = 0; j < n; j += W)
        store(out + j, reduce_once(load(acc + j) + mul_mod(load(x + j), load(y + j), b), Q));
}
static void mul_scalar_row(u32* out, const u32* x, u32 w, u32 quotient, size_t n, u32 q) {
    V Q = splat(q), S = splat(w), SQ = splat(quotient);
    for (size_t j = 0; j < n; j += W) store(out + j, reduce_once(mul_shoup(load(x + j), S, SQ, Q), Q));
}
static void from_signed_row(u32* out, const int64_t* x, size_t n, u32 q) {
    u64 inverse = inverse_u64(q), offset = ((u64)1 << 62) / q * q + q;  // a multiple of q above 2^62
    for (size_t j = 0; j < n; j++) out[j] = reduce_u64((u64)x[j] + offset, q, inverse);
}

}  // namespace hegpu::HEGPU_LEVEL
