// Compiled once for every instruction-set level, with HEGPU_LEVEL naming the namespace.
#include "basis.hpp"
#include "elementwise.hpp"
#include "fused.hpp"
#include "kernels.hpp"
#include "matmul.hpp"
#include "ntt.hpp"
#include "sampling.hpp"
#include "switching.hpp"

#define HEGPU_STRING2(x) #x
#define HEGPU_STRING(x) HEGPU_STRING2(x)
#define HEGPU_JOIN2(a, b) a##b
#define HEGPU_JOIN(a, b) HEGPU_JOIN2(a, b)

namespace hegpu {
namespace level = HEGPU_LEVEL;

static level::Stream stream(const StreamId& s) {
    level::Stream r{};
    for (int i = 0; i < 8; i++) r.key[i] = s.key[i];
    r.domain = s.domain, r.object = s.object, r.index = s.index;
    return r;
}

const Kernels& HEGPU_JOIN(kernels_, HEGPU_LEVEL)() {
    static const Kernels kernels = {
        HEGPU_STRING(HEGPU_LEVEL),
        level::add_row,
        level::sub_row,
        level::mul_row,
        level::multiply_accumulate_row,
        level::mul_scalar_row,
        level::from_signed_row,
        level::ntt_row,
        level::intt_row,
        level::intt_scaled_row,
        level::round_row,
        level::lift_rows,
        level::settle_row,
        [](size_t n, uint64_t g) -> void* { return new level::Turn(n, g); },
        [](void* t) { delete (level::Turn*)t; },
        [](uint32_t* out, const uint32_t* x, size_t n, const void* t) {
            level::turn_row(out, x, n, *(const level::Turn*)t);
        },
        level::turn_coefficients_row,
        level::inner_row,
        level::combine_row,
        level::tensor_row,
        level::products_row,
        [](uint32_t* out, const uint32_t* x, size_t n, uint32_t bits, const uint32_t* moduli, size_t limbs) {
            level::switch_row(out, x, n, bits, level::PowerSwitch(moduli, limbs));
        },
        []() -> void* { return new level::MatmulBuffers; },
        [](void* b) { delete (level::MatmulBuffers*)b; },
        [](uint32_t* y, const uint32_t* w, const uint32_t* x, size_t rows, size_t inner, size_t columns, uint32_t q,
           void* b) { level::matmul_block(y, w, x, rows, inner, columns, q, *(level::MatmulBuffers*)b); },
        level::scatter_rows,
        level::gather_rows,
        [](uint32_t* out, const StreamId& s, size_t n, uint32_t q) { level::uniform_row(out, stream(s), n, q); },
        [](int32_t* out, const StreamId& s, size_t n) { level::ternary_row(out, stream(s), n); },
        [](int32_t* out, const StreamId& s, size_t n) { level::cbd_row(out, stream(s), n); },
        [](uint32_t* out, const StreamId& s, size_t n, uint32_t bits, const uint32_t* moduli, size_t limbs) {
            level::flood_rows(out, stream(s), n, bits, moduli, limbs);
        },
        level::mask_row<int32_t>,
        level::mask_row<int64_t>,
        level::unpack_row,
        level::switch_pack_row,
        level::product_row<int32_t>,
        level::product_row<int64_t>,
        level::requantise_row<int32_t>,
        level::requantise_row<int64_t>,
        level::digit_ceiling,
    };
    return kernels;
}

}  // namespace hegpu
