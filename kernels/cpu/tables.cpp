#include "tables.hpp"

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

namespace hegpu {

// psi = g^((q-1)/2n) for the smallest g >= 2 with psi^n = -1: the definition in hegpu/backend/roots.py.
static uint32_t primitive_root(uint32_t n, uint32_t q) {
    if (q < 3 || (q - 1) % (2 * n)) throw std::invalid_argument("modulus " + std::to_string(q) + " is not 1 mod 2n");
    for (uint32_t g = 2; g < q && g < 100000; g++) {
        uint32_t psi = pow_mod(g, (q - 1) / (2 * n), q);
        if (pow_mod(psi, n, q) == q - 1) return psi;
    }
    throw std::invalid_argument("modulus " + std::to_string(q) + " has no primitive 2n-th root: is it prime?");
}

static std::shared_ptr<const NttTables> make(uint32_t n, uint32_t q) {
    auto t = std::make_shared<NttTables>();
    t->n = n, t->q = q;
    t->n_inverse = pow_mod(n, q - 2, q), t->n_inverse_quotient = shoup_quotient(t->n_inverse, q);
    uint32_t bits = 0;
    while ((1u << bits) < n) bits++;
    auto fill = [&](std::vector<uint32_t>& w, std::vector<uint32_t>& quotient, uint64_t root) {
        w.assign(n + 16, 0), quotient.assign(n + 16, 0);
        uint64_t power = 1;
        for (uint32_t i = 0; i < n; i++, power = power * root % q) {
            uint32_t r = 0;
            for (uint32_t b = 0; b < bits; b++) r |= ((i >> b) & 1) << (bits - 1 - b);
            w[r] = (uint32_t)power, quotient[r] = shoup_quotient((uint32_t)power, q);
        }
    };
    uint32_t psi = primitive_root(n, q);
    fill(t->w, t->w_quotient, psi);
    fill(t->inverse, t->inverse_quotient, pow_mod(psi, q - 2, q));
    return t;
}

std::shared_ptr<const NttTables> ntt_tables(uint32_t n, uint32_t q) {
    static std::mutex mutex;
    static std::map<std::pair<uint32_t, uint32_t>, std::shared_ptr<const NttTables>> known;
    std::lock_guard lock(mutex);
    auto& entry = known[{n, q}];
    if (!entry) entry = make(n, q);
    return entry;
}

}  // namespace hegpu
