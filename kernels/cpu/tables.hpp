// Constants of one (n, q): shared by all levels, made once, kept for the life of the process.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace hegpu {

inline uint32_t pow_mod(uint64_t base, uint64_t exponent, uint64_t q) {
    uint64_t r = 1 % q;
    for (base %= q; exponent; exponent >>= 1, base = base * base % q)
        if (exponent & 1) r = r * base % q;
    return (uint32_t)r;
}
inline uint32_t shoup_quotient(uint32_t w, uint32_t q) { return (uint32_t)(((uint64_t)w << 32) / q); }

// Twiddles in bit-reversed order with their Shoup quotients floor(w 2^32 / q); `inverse` holds powers of psi^-1.
// Padded by one vector, since the last stages load whole vectors.
struct NttTables {
    uint32_t n, q, n_inverse, n_inverse_quotient;
    std::vector<uint32_t> w, w_quotient, inverse, inverse_quotient;
};

std::shared_ptr<const NttTables> ntt_tables(uint32_t n, uint32_t q);

}  // namespace hegpu
