// The table of row kernels that each instruction-set level provides.
#pragma once
#include <cstddef>
#include <cstdint>

#include "lifts.hpp"
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

// Products with a key (switching.hpp): rows of digits and of the key's halves; what is added, times add_factor, or
// null.
struct InnerJob {
    const uint32_t *const *x, *const *first, *const *second;
    size_t count;
    const uint32_t *add0, *add1;
    uint32_t add_factor, q, inverse;  // q^-1 mod 2^32
};
struct TensorJob {
    const uint32_t *x0, *x1, *y0, *y1;
    size_t stride, terms;
    uint32_t q, inverse, raise, raise_quotient;  // raise = 2^32 mod q
    bool lowered;
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
    void (*intt_scaled)(uint32_t* out, const uint32_t* x, const NttTables& t, uint32_t f, uint32_t quotient);
    void (*round)(uint32_t* v, const uint32_t* h, const LiftGroup& g, size_t n);
    void (*lift)(uint32_t* const* out, const uint32_t* h, const uint32_t* v, size_t count, const LiftTarget* const* to,
                 size_t targets, size_t n);
    void (*settle)(uint32_t* x, size_t n, uint32_t q);
    void* (*turn_make)(size_t n, uint64_t g);
    void (*turn_free)(void* turn);
    void (*turn)(uint32_t* out, const uint32_t* x, size_t n, const void* turn);
    void (*turn_coefficients)(uint32_t* out, const uint32_t* x, size_t n, uint64_t g, uint32_t q);
    void (*inner)(uint32_t* out0, uint32_t* out1, const InnerJob& job, size_t n);
    void (*combine)(uint32_t* out, const uint32_t* x, const uint32_t* y, uint32_t w, uint32_t quotient, size_t n,
                    uint32_t q, const void* turn);
    void (*tensor)(uint32_t* d0, uint32_t* d1, uint32_t* d2, const TensorJob& job, size_t n);
    void (*products)(uint32_t* out, const uint32_t* x, size_t x_stride, const uint32_t* y, size_t y_stride,
                     size_t terms, size_t n, uint32_t q);
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
