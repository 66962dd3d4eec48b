// One vector type for every instruction set; this header is compiled once per level (see level.cpp).
// V holds W lanes of uint32; V64 the same bits as W/2 lanes of uint64. Requires GCC 12+ or Clang 14+.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hegpu::HEGPU_LEVEL {

using u32 = uint32_t;
using u64 = uint64_t;

#if defined(HEGPU_AVX512)
constexpr int W = 16;
#elif defined(HEGPU_AVX2)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef u32 V __attribute__((vector_size(4 * W)));
typedef u64 V64 __attribute__((vector_size(4 * W)));

static inline V load(const u32* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(u32* p, V v) { std::memcpy(p, &v, sizeof v); }
static inline V splat(u32 x) { return V{} + x; }

// 32 x 32 -> 64 bits of the even lanes.
static inline V64 mul_even(V a, V b) {
#if defined(HEGPU_AVX512)
    return (V64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(HEGPU_AVX2)
    return (V64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#else
    return ((V64)a & 0xffffffffu) * ((V64)b & 0xffffffffu);
#endif
}
static inline V odd(V a) { return (V)((V64)a >> 32); }
static inline V high_halves(V64 even, V64 odd_) {
#if defined(HEGPU_AVX512)
    return (V)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64((__m512i)even, 32), (__m512i)odd_);
#else
    return (V)((even >> 32) | (odd_ & 0xffffffff00000000ull));
#endif
}
static inline V low_halves(V64 even, V64 odd_) { return (V)((even & 0xffffffffu) | (odd_ << 32)); }
static inline V mulhi(V a, V b) { return high_halves(mul_even(a, b), mul_even(odd(a), odd(b))); }

static inline V min_u32(V a, V b) {
#if defined(HEGPU_AVX512)
    return (V)_mm512_min_epu32((__m512i)a, (__m512i)b);
#elif defined(HEGPU_AVX2)
    return (V)_mm256_min_epu32((__m256i)a, (__m256i)b);
#else
    return a < b ? a : b;
#endif
}

static inline V popcount(V x) {
#if defined(HEGPU_AVX512)
    return (V)_mm512_popcnt_epi32((__m512i)x);
#else
    x = x - ((x >> 1) & 0x55555555u);
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0fu;
    return (x * 0x01010101u) >> 24;
#endif
}

// acc + a.low16 * b.low16 + a.high16 * b.high16 per 32-bit lane, modulo 2^32; inputs below 2^15.
static inline V dot_pairs(V acc, V a, V b) {
#if defined(HEGPU_AVX512)
    return (V)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(HEGPU_AVX2)
    return acc + (V)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return acc + (a & 0xffffu) * (b & 0xffffu) + (a >> 16) * (b >> 16);
#endif
}

static inline V shuffle2(V a, V b, V index) {
#if defined(__clang__)
    V r;
    for (int i = 0; i < W; i++) r[i] = (int)index[i] < W ? a[index[i]] : b[index[i] - W];
    return r;
#else
    return __builtin_shuffle(a, b, index);
#endif
}
static inline V shuffle1(V a, V index) {
#if defined(__clang__)
    V r;
    for (int i = 0; i < W; i++) r[i] = a[index[i]];
    return r;
#else
    return __builtin_shuffle(a, index);
#endif
}

}  // namespace hegpu::HEGPU_LEVEL
