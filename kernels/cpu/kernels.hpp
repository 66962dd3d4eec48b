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
    double (*digit_ceiling)(size_t repeats, uint32_t* sink);
};

const Kernels& kernels_scalar();
#if defined(HEGPU_X86)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
#endif

}  // namespace hegpu
