// The Python module: bindings, and what needs no SIMD.
#include "key_passes.hpp"

// Floor of a matrix product of float64, |y| < 2^53, reduced to [0, q).
static void reduce_float64(Out out, Array<const double> y, uint32_t q, bool accumulate, uint32_t factor) {
    need(out.size() == y.size() && q > 1, "sizes");
    nb::gil_scoped_release release;
    for (size_t i = 0; i < y.size(); i++) {
        int64_t v = (int64_t)y.data()[i] % (int64_t)q;
        uint64_t r = (uint64_t)(v < 0 ? v + q : v) * factor % q;
        out.data()[i] = (uint32_t)(accumulate ? (r + out.data()[i]) % q : r);
    }
}

static void pack_bits(Array<uint8_t> out, Array<const uint64_t> x, size_t rows, size_t count, uint32_t bits) {
    size_t bytes = (count * bits + 7) / 8;
    need(bits >= 1 && bits <= 64 && out.size() == rows * bytes && x.size() == rows * count, "sizes");
    nb::gil_scoped_release release;
    for (size_t r = 0; r < rows; r++) {
        uint8_t* to = out.data() + r * bytes;
        const uint64_t mask = bits == 64 ? ~(uint64_t)0 : ((uint64_t)1 << bits) - 1;
        unsigned __int128 pending = 0;
        uint32_t held = 0;
        for (size_t i = 0; i < count; i++) {
            pending |= (unsigned __int128)(x.data()[r * count + i] & mask) << held;
            for (held += bits; held >= 8; held -= 8, pending >>= 8) *to++ = (uint8_t)pending;
        }
        if (held) *to++ = (uint8_t)pending;
    }
}
static void unpack_bits(Array<uint64_t> out, Array<const uint8_t> x, size_t rows, size_t count, uint32_t bits) {
    size_t bytes = (count * bits + 7) / 8;
    need(bits >= 1 && bits <= 64 && x.size() == rows * bytes && out.size() == rows * count, "sizes");
    nb::gil_scoped_release release;
    for (size_t r = 0; r < rows; r++) {
        const uint8_t* from = x.data() + r * bytes;
        const uint64_t mask = bits == 64 ? ~(uint64_t)0 : ((uint64_t)1 << bits) - 1;
        unsigned __int128 pending = 0;
        uint32_t held = 0;
        for (size_t i = 0; i < count; i++) {
            for (; held < bits; held += 8) pending |= (unsigned __int128)*from++ << held;
            out.data()[r * count + i] = (uint64_t)pending & mask;
            pending >>= bits, held -= bits;
        }
    }
}

NB_MODULE(_cpu, m) {
    nb::set_leak_warnings(false);  // backends kept by modules live until the interpreter is gone
    m.doc() = "Compiled CPU kernels of hegpu; use hegpu.backend.cpu.";
    m.def("levels", &levels);
    m.def("pool_bytes", [] { return Pool::shared().held(); });
    m.def("reduce_float64", &reduce_float64);
    m.def("pack_bits", &pack_bits);
    m.def("unpack_bits", &unpack_bits);
    nb::class_<KeySwitching>(m, "Cpu")
        .def(nb::init<const std::string&, int>(), "level"_a, "threads"_a)
        .def("binary", &Passes::binary)
        .def("multiply_accumulate", &Passes::multiply_accumulate)
        .def("mul_scalar", &Passes::mul_scalar)
        .def("from_signed", &Passes::from_signed)
        .def("transform", &Passes::transform)
        .def("convert", &KeySwitching::convert)
        .def("divide", &KeySwitching::divide)
        .def("automorphism", &KeySwitching::automorphism)
        .def("switch_modulus", &KeySwitching::switch_modulus)
        .def("decompose", &KeySwitching::decompose)
        .def("gadget_product", &KeySwitching::gadget_product)
        .def("switch_keys", &KeySwitching::switch_keys)
        .def("switch_key", &KeySwitching::switch_key)
        .def("multiply_switch", &KeySwitching::multiply_switch)
        .def("tensor_sum", &KeySwitching::tensor_sum)
        .def("sum_of_products", &KeySwitching::sum_of_products)
        .def("switch_to_power_of_two", &Passes::switch_to_power_of_two)
        .def("store_points", &Passes::store_points)
        .def("load_points", &Passes::load_points)
        .def("expand_points", &Passes::expand_points)
        .def("point_matmul", &Passes::point_matmul)
        .def("sample_uniform", &Passes::sample_uniform)
        .def("sample_small", &Passes::sample_small)
        .def("sample_flood", &Passes::sample_flood)
        .def("mask_and_pack", &Passes::mask_and_pack<int32_t>)
        .def("mask_and_pack_wide", &Passes::mask_and_pack<int64_t>)
        .def("store_packed", &Passes::store_packed)
        .def("store_sparse", &Passes::store_sparse)
        .def("load_packed", &Passes::load_packed)
        .def("unpack_products", &Passes::unpack_products<int32_t>)
        .def("unpack_products_wide", &Passes::unpack_products<int64_t>)
        .def("requantise", &Passes::requantise<int32_t>)
        .def("requantise_wide", &Passes::requantise<int64_t>)
        .def("digit_ceiling", [](const KeySwitching& c, size_t repeats) {
            uint32_t sink[3] = {(uint32_t)repeats | 1, 3, 0};
            return c.k->digit_ceiling(repeats, sink);
        });
}
