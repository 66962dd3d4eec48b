// The table of row kernels that each instruction-set level provides.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tables.hpp"

namespace hegpu {

struct StreamId {
    const uint32_t* key;
    uint32_t domain, object, index;
};

// Whole passes (fused.hpp); `quotient` holds the Shoup quotients of `factor`, both [limbs, n].
struct MaskJob {
    const uint32_t* moduli;
    size_t limbs;
    const NttTables* const* tables;
    const uint32_t *factor, *quotient, *mask_key, *noise_key;
    uint32_t mask_domain, noise_domain, drop, bits;
};
struct SwitchJob {
    const uint32_t* moduli;
    size_t limbs;
    uint32_t bits, drop;
    const uint32_t* positions;
    size_t count;
    double ratio;  // 2^bits / Q
    void (*switch_bits)(uint32_t* out, const uint32_t* x, size_t n, uint32_t bits, const uint32_t* moduli,
                        size_t limbs);
};
struct ProductJob {
    const uint32_t* moduli;
    const NttTables* const* tables;
    const uint32_t *factor, *quotient;
    uint32_t bits, drop;
    const uint32_t* positions;
    size_t count;
};

struct Kernels {
    const char* name;
    void (*add)(uint32_t* out, const uint32_t* x, const uint32_t* y, size_t n, uint32_t q);
    void (*sub)(uint32_t* out, const uint32_t* x, const uint32_t* y, size_t n, uint32_t q);
    void (*mul)(uint32_t* out, const uint32_t* x, const uint32_t* y, size_t n, uint32_t q);
    void (*multiply_accumulate)(uint32_t* out, const uint32_t* acc, const uint32_t* x, const uint32_t* y, size_t n,
                                uint32_t q);
    void (*mul_scalar)(uint32_t* out, const uint32_t* x, uint32_t w, uint32_t quotient, size_t n, uint32_t q);
    void (*from_signed)(uint32_t* out, const int64_t* x, size_t n, uint32_t q);
    void (*ntt)(uint32_t* x, const NttTables& t);
    void (*intt)(uint32_t* x, const NttTables& t);
    void* (*conversion_make)(const uint32_t* from, size_t source, const uint32_t* to, size_t target);
    void (*conversion_free)(void* conversion);
    void (*convert)(uint32_t* out, const uint32_t* x, size_t n, const void* conversion);
    void (*divide)(uint32_t* out, const uint32_t* x, size_t n, const void* conversion);
    void (*switch_bits)(uint32_t* out, const uint32_t* x, size_t n, uint32_t bits, const uint32_t* moduli,
                        size_t limbs);
    void* (*matmul_buffers_make)();
    void (*matmul_buffers_free)(void* buffers);
    void (*matmul)(uint32_t* y, const uint32_t* w, const uint32_t* x, size_t rows, size_t inner, size_t columns,
                   uint32_t q, void* buffers);
    void (*scatter)(uint32_t* points, size_t line, size_t step, const uint32_t* rows, size_t count, size_t n);
    void (*gather)(uint32_t* rows, const uint32_t* points, size_t line, size_t step, size_t count, size_t n);
    void (*uniform)(uint32_t* out, const StreamId& s, size_t n, uint32_t q);
    void (*ternary)(int32_t* out, const StreamId& s, size_t n);
    void (*cbd)(int32_t* out, const StreamId& s, size_t n);
    void (*flood)(uint32_t* out, const StreamId& s, size_t n, uint32_t bits, const uint32_t* moduli, size_t limbs);
    void (*mask)(uint8_t* out, const int32_t* x, size_t n, const MaskJob& job, uint32_t object, uint32_t* scratch);
    void (*mask_wide)(uint8_t* out, const int64_t* x, size_t n, const MaskJob& job, uint32_t object, uint32_t* scratch);
    uint64_t (*unpack)(uint32_t* out, const uint8_t* in, size_t n, uint32_t bits, uint32_t drop, const uint32_t* moduli,
                       size_t limbs);
    void (*switch_pack)(uint8_t* out, uint32_t* x, size_t n, const SwitchJob& job, const uint32_t* constants,
                        uint32_t* words);
    void (*product)(int32_t* out, const uint8_t* first, const uint8_t* second, size_t n, const ProductJob& job,
                    uint32_t* scratch);
    void (*product_wide)(int64_t* out, const uint8_t* first, const uint8_t* second, size_t n, const ProductJob& job,
                         uint32_t* scratch);
    void (*requantise)(int32_t* out, const int32_t* x, double f, const int32_t* y, double g, double low, double high,
                       size_t n);
    void (*requantise_wide)(int64_t* out, const int64_t* x, double f, const int64_t* y, double g, double low,
                            double high, size_t n);
    double (*digit_ceiling)(size_t repeats, uint32_t* sink);
};

const Kernels& kernels_scalar();
#if defined(HEGPU_X86)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
#endif

}  // namespace hegpu
