"""The whole passes: each equals the composition of primitives that the reference is, on every backend."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hegpu.backend.checks import value_bits
from hegpu.backend.cpu import CpuBackend
from hegpu.backend.protocol import Backend, Stream, WordForm
from hegpu.backend.reference import ReferenceBackend
from hegpu.errors import FormatError, ParameterError
from hegpu.ring.primes import ntt_primes

N = 1024
# prime bits, bits lost by a packed value, bits of a word, bits lost by a word
FORMS = [(20, 0, 22, 0), (22, 6, 25, 4), (23, 6, 26, 5), (30, 5, 32, 4), (30, 5, 40, 4), (30, 0, 44, 16)]
MASK, NOISE = b"m" * 32, b"n" * 32


def case(bits: int, word_bits: int, batch=(2, 3)):
    rng = np.random.default_rng(bits)
    most = 1 << (30 if word_bits <= 32 else 40)
    x = rng.integers(-most, most + 1, (*batch, N)).astype(np.int32 if word_bits <= 32 else np.int64)
    x[..., :2] = -most, most
    q, b = ntt_primes(bits, N, 2), ReferenceBackend()
    small = b.sample_ternary(b"s" * 32, 1, np.zeros((), np.uint32), N).astype(np.int64)
    return x, q, b.ntt(b.from_signed(small, q), q), np.arange(x[..., 0].size, dtype=np.uint32).reshape(batch)


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back_equals_the_reference(backend: Backend, reference: Backend, form) -> None:
    bits, drop, word_bits, word_drop = form
    x, q, factor, objects = case(bits, word_bits)
    rng = np.random.default_rng(1)
    positions = np.sort(rng.permutation(N)[:701]).astype(np.uint32)
    constants = np.stack([rng.integers(0, p, 2) for p in q], 1).astype(np.uint32)
    some, every = WordForm(word_bits, word_drop, positions), WordForm(word_bits, 0, np.arange(N, dtype=np.uint32))

    def run(b: Backend) -> list[np.ndarray]:
        packed = b.mask_and_pack(x, factor, Stream(MASK, 1, objects), Stream(NOISE, 2, objects), q, drop)
        points = b.empty_points(2, 7, N, q)
        b.expand_points(points, b"c" * 32, 1, np.arange(14, dtype=np.uint32).reshape(2, 7), 0, 1)
        b.store_packed(points, packed, 1, 2, drop)
        first = b.load_packed(points, 0, 2, 4, some, constants)
        second = b.load_packed(points, 1, 2, 3, every, constants[:0])
        words = b.unpack_products(np.ascontiguousarray(first[:, :3]), second, factor, q, some)
        evaluations = b.load_points(points, 0, 1, 7, transform=False)
        return [packed, evaluations, first, second, words]

    for mine, expected in zip(run(backend), run(reference), strict=True):
        assert mine.dtype == expected.dtype
        assert np.array_equal(mine, expected)


def test_a_masked_value_is_the_value_plus_small_noise(backend: Backend) -> None:
    """Unmasking with the factor gives x + e, |e| <= 21 + half of what was rounded away."""
    x, q, factor, objects = case(30, 32)
    packed = backend.mask_and_pack(x, factor, Stream(MASK, 1, objects), Stream(NOISE, 2, objects), q, 6)
    modulus = q[0] * q[1]
    v = backend.unpack_bits(packed, value_bits("test", q, 6), N).astype(object) * 64
    a = backend.intt(
        backend.mul(backend.sample_uniform(MASK, 1, objects, N, q), np.broadcast_to(factor, (2, 3, 2, N)), q), q
    )
    inverse = pow(q[0], -1, q[1])
    low = a[..., 0, :].astype(object)
    mask = low + (a[..., 1, :].astype(object) - low) * inverse % q[1] * q[0]
    error = (v + mask - x + modulus // 2) % modulus - modulus // 2
    assert np.abs(error).max() <= 21 + 32
    assert 15 < float(np.std(error.astype(float))) < 25


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@given(seed=st.integers(0, 1 << 30), second=st.booleans())
@settings(max_examples=10, deadline=None)
def test_requantise(dtype, seed: int, second: bool) -> None:
    rng = np.random.default_rng(seed)
    most = 1 << (31 if dtype == np.int32 else 44)
    x, y = (rng.integers(-most, most, (3, 257)).astype(dtype) for _ in range(2))
    limit = float(most // 8)
    low = 0.0 if seed % 2 else -limit
    scale, y_scale = rng.uniform(0.01, 2, 2)
    expected = ReferenceBackend().requantise(x, scale, y if second else None, y_scale, (low, limit))
    cpu = CpuBackend(threads=2)
    assert np.array_equal(cpu.requantise(x, scale, y if second else None, y_scale, (low, limit)), expected)
    assert expected.min() >= low
    assert expected.max() <= limit
    planes = [a.reshape(3, 257, 1).repeat(40, 2)[:, 7 : 7 + seed % 200, 3:36] for a in (x, y)]
    whole = np.full((3, 300, 50), 7, dtype)
    part = whole[:, 11 : 11 + seed % 200, 5:38]
    cpu.requantise(planes[0], scale, planes[1] if second else None, y_scale, (low, limit), part)
    assert np.array_equal(part, np.repeat(expected[:, 7 : 7 + seed % 200, None], 33, 2))
    part[...] = 7
    assert (whole == 7).all()
    big = np.resize(x, (1, 70_000))
    assert np.array_equal(cpu.requantise(big, scale, None, 0.0, (low, limit)),
                          ReferenceBackend().requantise(big, scale, None, 0.0, (low, limit)))  # fmt: skip


def test_requantise_refuses_what_it_cannot_write() -> None:
    x = np.zeros((4, 4), np.int32)
    for out in (np.zeros((4, 8), np.int32)[:, ::2], np.zeros((4, 4), np.int64), np.zeros((4, 5), np.int32)):
        for backend in (CpuBackend(), ReferenceBackend()):
            with pytest.raises(ParameterError, match="requantise"):
                backend.requantise(x, 1.0, None, 0.0, (-1.0, 1.0), out)


def test_sparse_kernels(backend: Backend, reference: Backend) -> None:
    q = ntt_primes(22, N, 2)
    rng = np.random.default_rng(3)
    values = rng.integers(-(1 << 31), 1 << 31, (2, 9, 25)).astype(np.int32)
    positions = rng.permutation(N)[:25].astype(np.uint32)
    points = [b.empty_points(2, 9, N, q) for b in (backend, reference)]
    for b, p in zip((backend, reference), points, strict=True):
        b.store_sparse(p, values, positions, 0, 1)
    got, expected = (
        b.load_points(p, 0, 1, 9, transform=True) for b, p in zip((backend, reference), points, strict=True)
    )
    assert np.array_equal(got, expected)
    assert int(got[1, 3, 0, positions[7]]) == int(values[1, 3, 7]) % q[0]


def test_a_value_beyond_the_modulus_is_refused(backend: Backend) -> None:
    q = ntt_primes(22, N, 2)
    points = backend.empty_points(1, 1, N, q)
    width = value_bits("test", q, 6)
    good = np.full((1, 1, N), (q[0] * q[1] - 1 + 32) >> 6, np.uint64)
    backend.store_packed(points, backend.pack_bits(good, width), 0, 1, 6)
    good[0, 0, 17] += 1
    with pytest.raises(FormatError, match="not below the modulus"):
        backend.store_packed(points, backend.pack_bits(good, width), 0, 1, 6)


def test_misuse_is_named(backend: Backend) -> None:
    x, q, factor, objects = case(22, 25)
    with pytest.raises(ParameterError, match="one stream"):
        backend.mask_and_pack(x, factor, Stream(MASK, 1, objects), Stream(MASK, 1, objects), q, 6)
    with pytest.raises(ParameterError, match="outside"):
        backend.mask_and_pack(x * 0 + (1 << 30) + 1, factor, Stream(MASK, 1, objects), Stream(NOISE, 2, objects), q, 6)
    form, empty = WordForm(40, 0, np.arange(N, dtype=np.uint32)), np.empty((0, N * 5), np.uint8)
    with pytest.raises(ParameterError, match="half of two moduli"):
        backend.unpack_products(empty, empty, factor, q, form)
    points = backend.empty_points(1, 2, N, q)
    with pytest.raises(ParameterError, match="distinct"):
        backend.store_sparse(points, np.zeros((1, 1, 2), np.int32), np.array([3, 3], np.uint32), 0, 1)
