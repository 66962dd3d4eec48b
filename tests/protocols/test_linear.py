"""The linear protocol: what it computes, what it refuses, what the client can and cannot learn."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hegpu.backend.cpu import CpuBackend
from hegpu.backend.reference import ReferenceBackend
from hegpu.ckks.encrypt import encrypt_symmetric, encrypt_zero
from hegpu.ckks.keys import PublicKey
from hegpu.ckks.params import preset
from hegpu.errors import BudgetError, FormatError, HegpuError, KeyMismatchError, ParameterError
from hegpu.protocols.budget import fixed_point, plan_budget
from hegpu.protocols.linear import MasterKey, decrypt_result, denoise_slice, encrypt_slice
from hegpu.protocols.messages import EncryptedSlice, dump_result, dump_slice, load_result, load_slice
from hegpu.ring.random import UNIFORM, fresh_key, public_seed
from hegpu.tensor.convolution import convolve, load_seeded, transform_weights, unload
from hegpu.tensor.tiles import plan

CPU = CpuBackend(threads=2)


def grid_kernel(size: int, seed: int = 0) -> np.ndarray:
    """A smoothing kernel with negative lobes, on multiples of 2^-16."""
    k = np.random.default_rng(seed).normal(size=(size, size))
    k[size // 2, size // 2] += 4
    return np.rint(k / np.abs(k).sum() * 2**16) / 2**16


def clear(hu, kernel, bias):
    r = kernel.shape[0] // 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(hu, r, mode="edge"), kernel.shape)
    return np.einsum("yxkl,kl->yx", windows, kernel) + bias


@pytest.mark.parametrize(
    ("name", "shape", "size", "backend"),
    [
        ("insecure_test", (50, 70), 5, ReferenceBackend()),
        ("insecure_test", (50, 70), 5, CPU),
        ("linear", (128, 128), 13, CPU),
        ("linear", (1, 1024), 3, CPU),
        ("linear", (512, 512), 13, CPU),
        ("linear", (90, 60), 41, CPU),
    ],
)
def test_equals_the_clear_filter(name: str, shape, size: int, backend) -> None:
    hu = np.random.default_rng(1).integers(-1024, 3072, shape).astype(float)
    hu[0, 0], hu[-1, -1] = -1024, 3071
    kernel, keys = grid_kernel(size), MasterKey(preset(name), fresh_key())
    sent = dump_slice(backend, encrypt_slice(backend, hu, keys, size // 2))
    result, budget = denoise_slice(backend, load_slice(backend, sent), kernel, -3.25)
    got = decrypt_result(backend, load_result(backend, dump_result(backend, result)), keys)
    error = got - clear(hu, kernel, -3.25)
    assert np.sqrt(np.mean(error**2)) <= min(0.002, 1.2 * budget.rms_hu)
    assert np.abs(error).max() <= 0.02
    # Rounding c0 to nearest, ties up, shifts everything by half a unit of the answer; the secret plays no part in it.
    assert abs(error.mean() - 0.5 / float(result.scale)) < 4 * budget.rms_hu / math.sqrt(hu.size)


def test_a_smaller_kernel_than_the_halo_and_a_floor() -> None:
    hu = np.random.default_rng(2).uniform(-1024, 3071, (60, 61))
    keys, kernel = MasterKey(preset("linear"), fresh_key()), grid_kernel(3)
    s = encrypt_slice(CPU, hu, keys, 6)
    result, _ = denoise_slice(CPU, s, kernel, 0.0, floor_hu=100.0)
    expected = np.maximum(clear(hu, kernel, 0.0), 100.0)
    assert np.abs(decrypt_result(CPU, result, keys) - expected).max() < 0.02


def test_refusals() -> None:
    hu, keys = np.zeros((40, 40)), MasterKey(preset("linear"), fresh_key())
    s = encrypt_slice(CPU, hu, keys, 2)
    with pytest.raises(ParameterError, match="--halo"):
        denoise_slice(CPU, s, grid_kernel(7), 0.0)
    with pytest.raises(BudgetError, match="room"):
        denoise_slice(CPU, s, grid_kernel(3) * 1e6, 0.0)
    result, _ = denoise_slice(CPU, s, grid_kernel(3), 0.0)
    with pytest.raises(KeyMismatchError, match="another key"):
        decrypt_result(CPU, result, MasterKey(keys.params, fresh_key()))
    with pytest.raises(KeyMismatchError, match="parameters"):
        decrypt_result(CPU, result, MasterKey(preset("insecure_test"), keys.secret))
    with pytest.raises(BudgetError, match="compact"):
        encrypt_slice(CPU, hu, MasterKey(preset("compact"), fresh_key()), 2)


def test_every_slice_has_its_own_key_and_randomness() -> None:
    keys, hu = MasterKey(preset("insecure_test"), fresh_key()), np.zeros((20, 20))
    a, b = encrypt_slice(CPU, hu, keys, 1), encrypt_slice(CPU, hu, keys, 1)
    assert a.slice_id != b.slice_id
    assert a.seed != b.seed
    assert a.fingerprint != b.fingerprint
    assert not np.array_equal(a.c0, b.c0)
    assert keys.secret.hex() not in repr(keys)
    nonced = encrypt_slice(CPU, hu, keys, 1, nonce=b"server")
    assert keys.slice_keys(CPU, nonced.slice_id, b"server")[1].fingerprint == nonced.fingerprint
    assert keys.slice_keys(CPU, nonced.slice_id, b"")[1].fingerprint != nonced.fingerprint


def recover_weights(c1_in, c1_out, q: int, backend):
    """The client's attack: at every NTT point c1_out / c1_in is the transformed kernel, for the filter alone."""
    a, b = backend.ntt(c1_in, (q,)), backend.ntt(c1_out, (q,))
    inverse = np.array([pow(int(v), -1, q) if v else 0 for v in a[0]], np.uint32)[None]
    polynomial = backend.intt(backend.mul(b, inverse, (q,)), (q,))[0].astype(np.int64)
    return np.where(polynomial > q // 2, polynomial - q, polynomial)


def test_the_filter_is_read_off_the_ciphertext_unless_it_is_rerandomised() -> None:
    params = preset("linear")
    keys, kernel, q = MasterKey(params, fresh_key()), grid_kernel(5), params.q_primes
    s = encrypt_slice(CPU, np.zeros((50, 50)), keys, 2)
    objects = np.arange(s.tiling.tiles, dtype=np.uint32)
    weights = fixed_point(kernel, 17)[None, None]
    planes = load_seeded(CPU, s.c0[None], s.seed, objects[None], q)
    points = transform_weights(CPU, weights, s.tiling, q)
    bare = unload(CPU, convolve(CPU, points, planes))[0]
    c1_in = CPU.intt(CPU.sample_uniform(s.seed, UNIFORM, objects, params.n, q), q)
    truth = CPU.load_points(points, 0, 1, 1, transform=True)[0, 0, 0].astype(np.int64)
    truth = np.where(truth > q[0] // 2, truth - q[0], truth)
    used = truth != 0
    assert used.sum() == 25

    stolen = recover_weights(c1_in[0, :1], bare[0, 1, :1], q[0], CPU)
    assert np.array_equal(stolen, truth)  # exactly W, from one tile

    seed = public_seed("slice public key", s.slice_id, s.nonce, params.hash.encode())
    zero = encrypt_zero(CPU, PublicKey(params, s.pk0, seed), fresh_key(), objects, 60)
    returned = denoise_slice(CPU, s, kernel, 0.0)[0].c1[0][None]
    for c1_out in (CPU.add(bare, zero, q)[0, 1, :1], returned):
        guess = recover_weights(c1_in[0, :1], c1_out, q[0], CPU)
        assert not (guess[used] == truth[used]).any()  # a random guess hits with probability 25 / q
        assert np.abs(guess).mean() == pytest.approx(q[0] / 4, rel=0.1)  # uniform: nothing small shines through
        assert abs(np.corrcoef(guess[used], truth[used])[0, 1]) < 0.8


def test_budget_keeps_the_sum_and_never_wraps() -> None:
    kernel = np.random.default_rng(0).uniform(size=(9, 9))
    kernel /= kernel.sum()
    weights = fixed_point(kernel, 14)
    assert weights.sum() == 1 << 14
    assert np.abs(weights - kernel * 2**14).max() < 1
    p = preset("linear")
    b = plan_budget(kernel, 5.0, p, 1 << 18)
    worst = (2048 * np.abs(kernel).sum() + abs(b.constant_hu)) * float(p.scale) * 2**b.weight_bits
    assert 2 * (worst + 8 * 2.0**b.flood_bits) < math.prod(p.q_primes)


@pytest.fixture(scope="module")
def files():
    keys = MasterKey(preset("insecure_test"), fresh_key())
    s = encrypt_slice(CPU, np.zeros((20, 20)), keys, 1)
    return dump_slice(CPU, s), dump_result(CPU, denoise_slice(CPU, s, grid_kernel(3), 0.0)[0])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_get_a_clear_error(files, data) -> None:
    which = data.draw(st.integers(0, 1))
    raw = bytearray(files[which])
    header = 8 + int.from_bytes(raw[:8], "little")
    kind = data.draw(st.sampled_from(["flip", "header", "cut", "grow", "length"]))
    if kind == "flip":
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "header":
        raw[data.draw(st.integers(8, header - 1))] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    elif kind == "grow":
        raw += data.draw(st.binary(min_size=1, max_size=40))
    else:
        raw[:8] = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
    try:
        (load_slice if which == 0 else load_result)(CPU, bytes(raw))
    except FormatError:
        pass
    else:
        assert kind in ("flip", "header")


def test_a_file_of_the_other_kind_and_residues_out_of_range(files) -> None:
    with pytest.raises(FormatError, match="slice"):
        load_slice(CPU, files[1])
    raw = bytearray(files[0])
    start = 8 + int.from_bytes(raw[:8], "little")
    raw[start : start + 64] = b"\xff" * 64
    with pytest.raises(FormatError, match="residue"):
        load_slice(CPU, bytes(raw))
    with pytest.raises(HegpuError):
        load_slice(CPU, b"")


def test_a_preset_that_truncates_c0_does_so_on_the_wire() -> None:
    params = preset("compact")
    keys, tiling = MasterKey(params, fresh_key()), plan(60, 60, 2, params.n)
    slice_id, seed, tiles = bytes(16), fresh_key(), np.arange(tiling.tiles, dtype=np.uint32)
    secret, public = keys.slice_keys(CPU, slice_id, b"")
    c0 = encrypt_symmetric(CPU, np.zeros((1, 2, 4096), np.uint32), secret, seed, fresh_key(), tiles)
    s = EncryptedSlice(params, tiling, slice_id, b"", seed, public.fingerprint, c0, public.pk0)
    raw = dump_slice(CPU, s)
    assert len(raw) < 4096 * (38 + 44) / 8 + 2048  # c0 without 6 of 44 bits, pk0 whole
    difference = CPU.sub(load_slice(CPU, raw).c0, c0, params.q_primes)[0].astype(np.int64)
    difference = np.where(difference > 1 << 21, difference - np.array(params.q_primes)[:, None], difference)
    assert np.array_equal(difference[0], difference[1])
    assert np.abs(difference).max() <= 32


def test_a_hostile_scale_does_not_hang(files) -> None:
    for raw, load in zip(files, (load_slice, load_result), strict=True):
        length = int.from_bytes(raw[:8], "little")
        header = raw[8 : 8 + length]
        for scale in re.findall(rb'scale\\": \\"(\d+/\d+)', header):
            hostile = header.replace(scale, b"1e30000000".ljust(len(scale), b"0"), 1)
            with pytest.raises(FormatError):
                load(CPU, raw[:8] + hostile + raw[8 + length :])


def test_no_secret_in_the_files() -> None:
    keys = MasterKey(preset("insecure_test"), fresh_key())
    s = encrypt_slice(CPU, np.zeros((20, 20)), keys, 1)
    sent = dump_slice(CPU, s)
    assert keys.secret not in sent
    assert keys.secret.hex().encode() not in sent
