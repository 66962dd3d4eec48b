"""One body for all backends: properties against plain integers, then every bit against the reference."""

import hashlib
import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hegpu.backend.chacha_reference import chacha_blocks
from hegpu.backend.cpu import CpuBackend
from hegpu.backend.protocol import Backend
from hegpu.backend.reference import ReferenceBackend
from hegpu.backend.roots import bit_reversal, primitive_root
from hegpu.errors import ParameterError
from hegpu.ring.primes import ntt_primes

KEY = bytes(range(32))
DEGREES = [1 << k for k in range(10, 17)]


def random(shape, moduli, n, seed=0):
    rng = np.random.default_rng(seed)
    x = np.stack([rng.integers(0, q, (*shape, n), dtype=np.uint32) for q in moduli], axis=-2)
    x[..., :2] = np.array([[0, q - 1] for q in moduli], np.uint32)
    return x


@pytest.mark.parametrize("n", DEGREES)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 1)])
def test_transform_equals_reference_and_returns(backend: Backend, reference: Backend, n: int, shape) -> None:
    moduli = (ntt_primes(30, n, 1)[0], ntt_primes(22, n, 1)[0])
    x = random(shape, moduli, n)
    before = x.copy()
    y = backend.ntt(x, moduli)
    assert np.array_equal(y, reference.ntt(x, moduli))
    assert np.array_equal(backend.intt(y, moduli), x)
    assert np.array_equal(backend.intt(x, moduli), reference.intt(x, moduli))
    assert np.array_equal(x, before)


def test_transform_is_the_definition(backend: Backend) -> None:
    n, q = 1024, ntt_primes(30, 1024, 1)[0]
    x = random((), (q,), n)
    y = backend.ntt(x, (q,))
    psi, order = primitive_root(n, q), bit_reversal(n)
    for k in (0, 1, 5, 512, 1023):
        point = pow(psi, int(2 * order[k] + 1), q)
        assert y[0, k] == sum(int(c) * pow(point, j, q) for j, c in enumerate(x[0])) % q


def test_product_of_transforms_is_negacyclic(backend: Backend) -> None:
    n, q = 1024, ntt_primes(28, 1024, 1)
    x, y = random((), q, n, 1), random((), q, n, 2)
    z = backend.intt(backend.mul(backend.ntt(x, q), backend.ntt(y, q), q), q)
    full = np.convolve(x[0].astype(object), y[0].astype(object))
    full = np.append(full, 0)
    assert [int(v) for v in z[0]] == [int((a - b) % q[0]) for a, b in zip(full[:n], full[n:], strict=True)]


@pytest.mark.parametrize("bits", [20, 24, 30])
def test_elementwise(backend: Backend, reference: Backend, bits: int) -> None:
    n, moduli = 1024, ntt_primes(bits, 1024, 3 if bits > 20 else 1)
    x, y = random((3, 2), moduli, n, 1), random((3, 2), moduli, n, 2)
    q = np.array(moduli, object)[:, None]
    big, other = x.astype(object), y.astype(object)
    assert np.array_equal(backend.add(x, y, moduli), (big + other) % q)
    assert np.array_equal(backend.sub(x, y, moduli), (big - other) % q)
    assert np.array_equal(backend.neg(x, moduli), -big % q)
    assert np.array_equal(backend.mul(x, y, moduli), big * other % q)
    assert np.array_equal(backend.multiply_accumulate(x, y, x, moduli), (big + big * other) % q)
    scalars = [-(1 << 70), 0, 12345][: len(moduli)]
    assert np.array_equal(backend.mul_scalar(x, scalars, moduli), big * np.array(scalars, object)[:, None] % q)
    for small in (y[0, 0], y[:1], y[:, :1]):
        for name in ("add", "sub", "mul"):
            assert np.array_equal(getattr(backend, name)(x, small, moduli), getattr(reference, name)(x, small, moduli))
            assert np.array_equal(getattr(backend, name)(small, x, moduli), getattr(reference, name)(small, x, moduli))


def test_from_signed(backend: Backend) -> None:
    moduli = ntt_primes(30, 1024, 2)
    x = np.random.default_rng(0).integers(-(1 << 62), 1 << 62, (3, 1024))
    x[0, :4] = [1 << 62, -(1 << 62), 0, -1]
    expected = x.astype(object)[:, None, :] % np.array(moduli, object)[:, None]
    assert np.array_equal(backend.from_signed(x, moduli), expected)


@pytest.mark.parametrize("g", [1, 3, 5, -1, 2047, 77, 2**70 + 1])
def test_automorphism_and_shift(backend: Backend, reference: Backend, g: int) -> None:
    n, q = 1024, ntt_primes(30, 1024, 2)
    x = random((3,), q, n)
    y = backend.automorphism(x, g, q, evaluations=False)
    for j in (0, 1, 2, 700):
        target = j * g % (2 * n)
        for limb, p in enumerate(q):
            assert int(y[0, limb, target % n]) == (int(x[0, limb, j]) * (1 if target < n else -1)) % p
    assert np.array_equal(backend.automorphism(reference.ntt(x, q), g, q, evaluations=True), reference.ntt(y, q))
    assert np.array_equal(backend.monomial_shift(x, g, q), reference.monomial_shift(x, g, q))
    assert np.array_equal(backend.monomial_shift(backend.monomial_shift(x, g, q), 2 * n - g, q), x)


@pytest.mark.parametrize(("source", "target"), [(1, 1), (2, 3), (5, 2), (11, 1)])
def test_convert_and_divide(backend: Backend, reference: Backend, source: int, target: int) -> None:
    n = 1024
    primes = ntt_primes(30, n, source + target)
    keep, last = primes[:target], primes[target:]
    x = random((2,), primes, n)
    low = np.ascontiguousarray(x[:, target:])
    converted = backend.convert_basis(low, last, keep)
    assert np.array_equal(converted, reference.convert_basis(low, last, keep))
    divided = backend.divide_by_last(x, primes, source)
    assert np.array_equal(divided, reference.divide_by_last(x, primes, source))
    p, q = math.prod(last), math.prod(primes)
    for j in range(2, 12):
        value = sum(int(x[0, i, j]) * (q // m) * pow(q // m, -1, m) for i, m in enumerate(primes)) % q
        rest = (value + p // 2) % p - p // 2
        assert [int(v) for v in converted[0, :, j]] == [rest % m for m in keep]
        assert [int(v) for v in divided[0, :, j]] == [(value - rest) // p % m for m in keep]


@pytest.mark.parametrize("bits", [1, 25, 32])
def test_switch_to_power_of_two(backend: Backend, reference: Backend, bits: int) -> None:
    n, moduli = 1024, ntt_primes(22, 1024, 2)
    x, q = random((3,), moduli, n), math.prod(moduli)
    y = backend.switch_to_power_of_two(x, moduli, bits)
    assert np.array_equal(y, reference.switch_to_power_of_two(x, moduli, bits))
    for j in range(2, 20):
        value = sum(int(x[0, i, j]) * (q // m) * pow(q // m, -1, m) for i, m in enumerate(moduli)) % q
        exact = value * (1 << bits) / q
        distance = (int(y[0, j]) - exact + (1 << bits) / 2) % (1 << bits) - (1 << bits) / 2
        assert abs(distance) <= 0.5 + 1e-3


@pytest.mark.parametrize("bits", [20, 22, 24, 28, 30])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 1, 1), (3, 97, 5), (5, 260, 7), (2, 0, 3)])
def test_point_matmul(backend: Backend, reference: Backend, bits: int, rows: int, inner: int, columns: int) -> None:
    n, moduli = 1024, ntt_primes(bits, 1024, 1)
    w, x = random((rows, inner), moduli, n, 1), random((inner, columns), moduli, n, 2)
    w[..., 64:128] = x[..., 64:128] = moduli[0] - 1
    results = []
    for b in (backend, reference):
        left, right = b.empty_points(rows, inner, n, moduli), b.empty_points(inner, columns, n, moduli)
        b.store_points(left, w, 0, 1, transform=False)
        b.store_points(right, x, 0, 1, transform=True)
        y = b.point_matmul(left, right)
        results.append((b.load_points(y, 0, 1, columns, transform=False), b.load_points(y, 0, 2, 1, transform=True)))
    for ours, wanted in zip(*results, strict=True):
        assert np.array_equal(ours, wanted)


def test_points_columns(backend: Backend, reference: Backend) -> None:
    n, moduli = 1024, ntt_primes(22, 1024, 2)
    x = random((3, 9), moduli, n)
    objects = np.arange(27, dtype=np.uint32).reshape(3, 9)
    for b in (backend, reference):
        points = b.empty_points(3, 19, n, moduli)
        b.store_points(points, x, 0, 2, transform=True)
        b.expand_points(points, KEY, 5, objects, 1, 2)
        assert np.array_equal(b.load_points(points, 0, 2, 9, transform=True), x)
        uniform = reference.sample_uniform(KEY, 5, objects, n, moduli)
        assert np.array_equal(b.load_points(points, 1, 2, 9, transform=False), uniform)


@pytest.mark.parametrize("inner", [1, 33])
def test_scalar_matmul(backend: Backend, reference: Backend, inner: int) -> None:
    n, moduli = 1024, ntt_primes(30, 1024, 2)
    x = random((inner, 3), moduli, n)
    rng = np.random.default_rng(1)
    for largest in (7, 32767):  # the second needs the operands split
        w = rng.integers(-largest, largest, (5, inner), dtype=np.int16, endpoint=True)
        w[0] = -32768 if largest > 7 else -7
        assert np.array_equal(backend.scalar_matmul(w, x, moduli), reference.scalar_matmul(w, x, moduli))


@pytest.mark.parametrize("n", [1024, 4096])
def test_samplers(backend: Backend, reference: Backend, n: int) -> None:
    objects = np.array([[0, 1, 7], [2**32 - 1, 5, 6]], np.uint32)
    moduli = (ntt_primes(20, n, 1)[0], ntt_primes(30, n, 1)[0], 12289 if n == 1024 else 40961)
    assert np.array_equal(
        backend.sample_uniform(KEY, 1, objects, n, moduli), reference.sample_uniform(KEY, 1, objects, n, moduli)
    )
    assert np.array_equal(backend.sample_ternary(KEY, 2, objects, n), reference.sample_ternary(KEY, 2, objects, n))
    assert np.array_equal(backend.sample_cbd(KEY, 3, objects, n), reference.sample_cbd(KEY, 3, objects, n))
    for bits in (1, 31, 32, 33, 65, 96):
        ours = backend.sample_flood(KEY, 4, objects, n, bits, moduli)
        assert np.array_equal(ours, reference.sample_flood(KEY, 4, objects, n, bits, moduli))


def test_distributions() -> None:
    b, objects, n = CpuBackend(), np.arange(64, dtype=np.uint32), 4096
    ternary = b.sample_ternary(KEY, 1, objects, n)
    counts = np.bincount((ternary + 1).ravel(), minlength=3)
    assert ((counts - ternary.size / 3) ** 2 / (ternary.size / 3)).sum() < 20
    cbd = b.sample_cbd(KEY, 2, objects, n)
    assert abs(cbd.mean()) < 0.04
    assert abs(cbd.var() - 10.5) < 0.15
    values = np.arange(-12, 13)
    expected = np.array([math.comb(42, 21 + v) for v in values]) / 2**42 * cbd.size
    observed = np.array([(cbd == v).sum() for v in values])
    assert ((observed - expected) ** 2 / expected).sum() < 70
    q = ntt_primes(30, n, 1)
    flood = b.sample_flood(KEY, 3, objects, n, 20, q)[:, 0].astype(np.int64)
    flood = np.where(flood > q[0] // 2, flood - q[0], flood)
    assert abs(flood.std() / (math.sqrt(2 / 3) * 2**20) - 1) < 0.01
    uniform = b.sample_uniform(KEY, 4, objects, n, q)
    assert abs(uniform.mean() / (q[0] / 2) - 1) < 0.01


def test_chacha_is_rfc_8439() -> None:
    block = chacha_blocks(bytes(range(32)), np.array([1], np.uint32), (0x09000000, 0x4A000000, 0))
    assert [hex(w) for w in block[0, :4]] == ["0xe4e7f110", "0x15593bd1", "0x1fdd0f50", "0xc47120a3"]
    assert hex(block[0, 15]) == "0x4e3c50a2"


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(1, 64), values=st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_packing(bits: int, values: list[int]) -> None:
    x = np.array([values, values[::-1]], np.uint64).reshape(2, -1)
    packed = [b.pack_bits(x, bits) for b in (ReferenceBackend(), CpuBackend())]
    assert np.array_equal(*packed)
    mask = np.uint64((1 << bits) - 1)
    for b in (ReferenceBackend(), CpuBackend()):
        assert np.array_equal(b.unpack_bits(packed[0], bits, x.shape[1]), x & mask)


GOLDEN = {
    "uniform": "a99fbc2a9a6ea2a3",
    "ntt": "cb1c5ba542313e98",
    "ternary": "958ec342d149b950",
    "cbd": "c35a10d01b569ac6",
    "flood": "682765a40b7687ba",
}


def golden(backend: Backend) -> dict[str, str]:
    n, moduli, objects = 2048, ntt_primes(22, 2048, 2), np.array([3, 4], np.uint32)
    x = backend.sample_uniform(KEY, 1, objects, n, moduli)
    arrays = {
        "uniform": x,
        "ntt": backend.ntt(x, moduli),
        "ternary": backend.sample_ternary(KEY, 2, objects, n),
        "cbd": backend.sample_cbd(KEY, 3, objects, n),
        "flood": backend.sample_flood(KEY, 4, objects, n, 70, moduli),
    }
    return {k: hashlib.sha256(v.astype("<i8").tobytes()).hexdigest()[:16] for k, v in arrays.items()}


def test_golden(backend: Backend) -> None:
    assert golden(backend) == GOLDEN


def test_drop_and_conversion_refuse_repeated_primes(backend: Backend) -> None:
    q = ntt_primes(30, 1024, 1)
    x = random((), q * 2, 1024)
    for call in (lambda: backend.convert_basis(x, q * 2, q), lambda: backend.divide_by_last(x, q * 2, 1)):
        with pytest.raises(ParameterError, match="distinct"):
            call()


def test_threads_give_the_same_bits() -> None:
    n, moduli = 4096, ntt_primes(30, 4096, 2)
    x = random((16,), moduli, n)
    expected = CpuBackend(threads=1).ntt(x, moduli)
    results = []
    workers = [threading.Thread(target=lambda: results.append(CpuBackend(threads=3).ntt(x, moduli))) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert all(np.array_equal(r, expected) for r in results)


@pytest.mark.parametrize(
    "call",
    [
        lambda b, x, q: b.ntt(x.astype(np.int64), q),
        lambda b, x, q: b.ntt(x, q[:1]),
        lambda b, x, q: b.ntt(x[..., :1000], q),
        lambda b, x, q: b.ntt(x, (17, q[1])),
        lambda b, x, q: b.mul_scalar(x, [1], q),
        lambda b, x, q: b.automorphism(x, 4, q, evaluations=False),
        lambda b, x, q: b.divide_by_last(x, q, 2),
        lambda b, x, q: b.switch_to_power_of_two(x, q, 33),
        lambda b, x, q: b.switch_to_power_of_two(x, (q[0], q[0]), 25),
        lambda b, x, q: b.sample_uniform(b"short", 0, np.zeros(1, np.uint32), 1024, q),
        lambda b, x, q: b.sample_flood(KEY, 0, np.zeros(1, np.uint32), 1024, 97, q),
        lambda b, x, q: b.store_points(b.empty_points(1, 1, 1024, q), x[None, None], 1, 1, transform=False),
        lambda b, x, q: b.point_matmul(b.empty_points(1, 2, 1024, q), b.empty_points(1, 1, 1024, q)),
        lambda b, x, q: b.unpack_bits(np.zeros(3, np.uint8), 7, 4),
        lambda b, x, q: b.from_signed(np.full(1024, 2**62 + 1), q),
    ],
)
def test_misuse_is_refused(backend: Backend, call) -> None:
    q = ntt_primes(30, 1024, 2)
    with pytest.raises(ParameterError):
        call(backend, random((), q, 1024), q)


@pytest.mark.parametrize("n", DEGREES)
def test_every_primitive_at_every_degree(backend: Backend, reference: Backend, n: int) -> None:
    q = ntt_primes(30, n, 3)
    small = (ntt_primes(24, n, 1)[0],)
    x, y, one = random((3,), q, n, 1), random((3,), q, n, 2), random((3, 1), small, n, 3)
    objects = np.array([5, 6, 7], np.uint32)
    w = np.array([[-3, 32767, 5], [1, 2, -32768]], np.int16)

    def all_of(b: Backend) -> list[np.ndarray]:
        left, right = b.empty_points(1, 3, n, small), b.empty_points(3, 1, n, small)
        b.store_points(left, one.reshape(1, 3, 1, n), 0, 1, transform=True)
        b.store_points(right, one, 0, 1, transform=False)
        return [
            b.add(x, y, q), b.sub(x, y, q), b.neg(x, q), b.mul(x, y, q), b.mul_scalar(x, [7, -1, 1 << 40], q),
            b.multiply_accumulate(x, y, x, q), b.from_signed(x[:, 0].astype(np.int64) - 5, q),
            b.automorphism(x, 5, q, evaluations=False), b.automorphism(x, 5, q, evaluations=True),
            b.monomial_shift(x, n + 3, q), b.convert_basis(x, q, small), b.divide_by_last(x, q, 2),
            b.switch_to_power_of_two(x, q, 30), b.scalar_matmul(w, x, q),
            b.load_points(b.point_matmul(left, right), 0, 1, 1, transform=True),
            b.sample_uniform(KEY, 1, objects, n, q), b.sample_ternary(KEY, 2, objects, n),
            b.sample_cbd(KEY, 3, objects, n), b.sample_flood(KEY, 4, objects, n, 66, q),
        ]  # fmt: skip

    for ours, wanted in zip(all_of(backend), all_of(reference), strict=True):
        assert np.array_equal(ours, wanted)
