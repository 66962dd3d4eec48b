"""Wrong calls: each gives the documented result or an error that names what is wrong, and nothing else."""

import contextlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from world import B, world

from hegpu.backend.cpu import CpuBackend
from hegpu.ckks import circuits
from hegpu.ckks.ciphertext import Plaintext
from hegpu.ckks.ciphertext_files import dump_ciphertext, load_ciphertext
from hegpu.ckks.evaluation_keys import make_keys
from hegpu.ckks.evaluator import Evaluator
from hegpu.ckks.keys import generate
from hegpu.ckks.params import preset
from hegpu.ckks.slots import decrypt, encrypt
from hegpu.errors import BudgetError, FormatError, KeyMismatchError, MissingKeyError, ParameterError
from hegpu.ring.random import fresh_key

C = world()
OTHER = world(rotations=(1,))
DEEP = world("insecure_ckks_deep", ())
EV, N = C.evaluator, C.params.n
X = C.encrypt(C.slots(0, ()))
Y = C.encrypt(C.slots(1, ()))
LOW = EV.at_level(X, 0)
TWO = EV.multiply(X, Y, relinearise=False)
WIDE = EV.multiply(X, Y, rescale=False)
FOREIGN = OTHER.encrypt(C.slots(0, ()))
COEFFICIENTS = replace(X, data=B.intt(X.data, X.moduli), evaluations=False)
PLAIN = EV.encode(C.slots(2, ()), X.level)
UNTRANSFORMED = replace(PLAIN, evaluations=False)
NO_KEYS = Evaluator(B, make_keys(B, C.secret, [3], relinearisation=False))

WRONG = [
    # foreign keys and parameters
    (lambda: EV.add(X, FOREIGN), KeyMismatchError, "use one key"),
    (lambda: EV.sub(FOREIGN, X), KeyMismatchError, "use one key"),
    (lambda: EV.multiply(X, FOREIGN), KeyMismatchError, "use one key"),
    (lambda: EV.multiply(FOREIGN, FOREIGN), KeyMismatchError, "use one key"),
    (lambda: EV.square(FOREIGN), KeyMismatchError, "use one key"),
    (lambda: EV.multiply(FOREIGN, 2.0), KeyMismatchError, "use one key"),
    (lambda: EV.rotate(FOREIGN, 1), KeyMismatchError, "use one key"),
    (lambda: EV.rotate_many(FOREIGN, [1]), KeyMismatchError, "use one key"),
    (lambda: EV.conjugate(FOREIGN), KeyMismatchError, "use one key"),
    (lambda: EV.rescale(FOREIGN), KeyMismatchError, "use one key"),
    (lambda: circuits.inner_sum(EV, FOREIGN, 2), KeyMismatchError, "use one key"),
    (lambda: circuits.evaluate_polynomial(EV, FOREIGN, [0, 0, 1]), KeyMismatchError, "use one key"),
    (lambda: decrypt(B, C.secret, FOREIGN), KeyMismatchError, "encrypted with"),
    (lambda: EV.add(X, DEEP.encrypt([0.5])), ParameterError, "insecure_ckks_deep"),
    (lambda: EV.multiply(X, DEEP.encrypt([0.5])), ParameterError, "one set of parameters"),
    (lambda: EV.rotate(DEEP.encrypt([0.5]), 1), ParameterError, "one set of parameters"),
    (lambda: decrypt(B, C.secret, DEEP.encrypt([0.5])), KeyMismatchError, "insecure_ckks"),
    # keys that were not made
    (lambda: EV.rotate(X, 3), MissingKeyError, r"rotation by 3 .*rotations by \[1, 2, 4, 5, 509\]"),
    (lambda: EV.rotate(X, -1), MissingKeyError, "rotation by 511"),
    (lambda: EV.rotate_many(X, [1, 7]), MissingKeyError, "rotation by 7"),
    (lambda: NO_KEYS.multiply(X, Y), MissingKeyError, r"relinearisation; the set holds rotations by \[3\]"),
    (lambda: NO_KEYS.relinearise(TWO), MissingKeyError, "relinearisation"),
    (lambda: NO_KEYS.conjugate(X), MissingKeyError, "conjugation"),
    (lambda: circuits.inner_sum(EV, X, 16), MissingKeyError, "rotation by 8"),
    # domains
    (lambda: EV.add(X, COEFFICIENTS), ParameterError, "coefficients"),
    (lambda: EV.multiply(X, COEFFICIENTS), ParameterError, "coefficients"),
    (lambda: EV.square(COEFFICIENTS), ParameterError, "coefficients"),
    (lambda: EV.rotate(COEFFICIENTS, 1), ParameterError, "coefficients"),
    (lambda: EV.rescale(replace(WIDE, evaluations=False)), ParameterError, "coefficients"),
    (lambda: EV.at_level(COEFFICIENTS, 1), ParameterError, "coefficients"),
    (lambda: EV.add(X, UNTRANSFORMED), ParameterError, "coefficients"),
    (lambda: EV.multiply(X, UNTRANSFORMED), ParameterError, "coefficients"),
    # scales
    (lambda: EV.add(X, WIDE), ParameterError, r"scales are 2\^39\.99\d+ and 2\^79"),
    (lambda: EV.sub(WIDE, X), ParameterError, "scales are"),
    (lambda: EV.add(X, TWO), ParameterError, "scales are"),
    (lambda: EV.add(X, EV.encode(1.0, X.level, Fraction(1 << 30))), ParameterError, r"2\^30"),
    (lambda: EV.add(EV.multiply(X, Y), WIDE), ParameterError, "rescale"),
    (
        lambda: EV.multiply(WIDE, EV.multiply(WIDE, WIDE, rescale=False), rescale=False),
        BudgetError,
        "exceeds the modulus",
    ),
    # levels
    (lambda: EV.multiply(LOW, LOW), BudgetError, r"level 0 .*preset 'ckks-14'"),
    (lambda: EV.multiply(X, LOW), BudgetError, "level 0"),
    (lambda: EV.square(LOW), BudgetError, "allows 4 in a row"),
    (lambda: EV.multiply(LOW, 2.0), BudgetError, "exceeds the modulus"),
    (lambda: EV.rescale(LOW), BudgetError, "level 0"),
    (lambda: EV.rescale(EV.rescale(X)), BudgetError, "below 1"),
    (lambda: EV.at_level(LOW, 1), BudgetError, "cannot become level 1"),
    (lambda: EV.at_level(X, -1), BudgetError, "only lower ones"),
    (lambda: EV.add(X, EV.encode(1.0, 2)), ParameterError, "encode it at level 4"),
    (lambda: EV.multiply(X, EV.encode(1.0, 2)), ParameterError, "encode it at level 4"),
    (lambda: EV.encode(1.0, 5), ParameterError, "0..4"),
    (lambda: circuits.evaluate_polynomial(EV, X, [1] * 33), BudgetError, "at least 6 levels, 4 are left"),
    # degree
    (lambda: EV.rescale(TWO), ParameterError, "never rescaled"),
    (lambda: EV.multiply(TWO, X), ParameterError, "relinearise it first"),
    (lambda: EV.multiply(TWO, 0.5), ParameterError, "never rescaled"),
    (lambda: EV.rotate(TWO, 1), ParameterError, "relinearise it first"),
    (lambda: EV.at_level(TWO, 1), ParameterError, "relinearise"),
    (lambda: EV.relinearise(X), ParameterError, "degree 1"),
    (lambda: EV.multiply(X, 0.5, relinearise=False), ParameterError, "leave out relinearise"),
    # values
    (lambda: C.encrypt([math.nan]), ParameterError, "NaN"),
    (lambda: C.encrypt([math.inf]), ParameterError, "NaN or infinity"),
    (lambda: C.encrypt([1.5]), ParameterError, "beyond the bound 1"),
    (lambda: C.encrypt([0.5], 1e9), ParameterError, "can hold"),
    (lambda: C.encrypt([0.5], 0), ParameterError, "bound"),
    (lambda: C.encrypt([0.5], math.nan), ParameterError, "bound"),
    (lambda: C.encrypt(np.zeros(N // 2 + 1)), ParameterError, "512 slots"),
    (lambda: C.encrypt(0.5), ParameterError, "shape"),
    (lambda: EV.add(X, math.nan), ParameterError, "NaN"),
    (lambda: EV.multiply(X, math.inf), ParameterError, "NaN or infin"),
    (lambda: EV.multiply(X, np.full(N // 2, np.nan)), ParameterError, "NaN"),
    (lambda: EV.add(X, np.zeros(N)), ParameterError, "slots"),
    (lambda: EV.multiply(X, 1e60), ParameterError, "scale less"),
    # shapes
    (lambda: EV.add(C.encrypt(C.slots(0, (2,))), C.encrypt(C.slots(0, (3,)))), ParameterError, "batches"),
    (lambda: EV.multiply(C.encrypt(C.slots(0, (2,))), C.encrypt(C.slots(0, (3,)))), ParameterError, "batches"),
    (lambda: EV.add(C.encrypt(C.slots(0, (2,))), C.slots(0, (3,))), ParameterError, "batches"),
    (lambda: EV.sum_of_products(X, Y), ParameterError, "batches"),
    (lambda: EV.add(replace(X, data=X.data[:, :3]), Y), ParameterError, "limb"),
    (lambda: EV.square(replace(X, data=X.data.astype(np.int64))), ParameterError, "uint32"),
    # parameters that have no levels
    (lambda: preset("linear").scales, ParameterError, "no levels"),
    (lambda: preset("linear").digits, ParameterError, "no special primes"),
    (lambda: make_keys(B, generate(B, preset("linear"), fresh_key(), fresh_key())[0]), ParameterError, "ckks-"),
    (lambda: preset("ckks-12"), ParameterError, "ckks-13"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_calls_are_named(number: int) -> None:
    call, error, text = WRONG[number]
    with pytest.raises(error, match=text) as caught:
        call()
    assert ":" in str(caught.value) or "preset" in str(caught.value)


def test_unusual_calls_that_are_right() -> None:
    z = C.slots(3, (4,))
    x = C.encrypt(z)
    strided = replace(x, data=x.data[::2])
    turned = replace(x, data=np.asfortranarray(x.data))
    for odd, expected in ((strided, z[::2]), (turned, z), (replace(x, data=x.data[::-1]), z[::-1])):
        assert C.error(EV.square(odd), expected**2) < 1e-6
        assert C.error(EV.rotate(odd, 2), np.roll(expected, -2, -1)) < 1e-6
        assert C.error(EV.add(odd, odd), 2 * expected) < 1e-6
    assert C.error(EV.multiply(x, Y), z * C.slots(1, ())) < 1e-6  # one against a batch
    empty = replace(x, data=x.data[:0])
    for result in (EV.square(empty), EV.rotate(empty, 1), EV.add(empty, empty), EV.multiply(empty, 2.0)):
        assert result.data.shape[0] == 0
        assert C.decrypt(result).shape == (0, N // 2)
    assert EV.rotate_many(x, []).data.shape[0] == 0
    assert C.error(EV.sub(X, X), np.zeros(N // 2)) == 0
    assert C.error(EV.add(X, 0), C.slots(0, ())) < 1e-6
    assert isinstance(EV.encode([1, 2], 0), Plaintext)


def test_inputs_are_never_changed() -> None:
    before, other = X.data.copy(), Y.data.copy()
    for call in (
        lambda: EV.add(X, Y), lambda: EV.multiply(X, Y), lambda: EV.rotate(X, 1), lambda: EV.rotate(X, 0),
        lambda: EV.add(X, 1.0), lambda: EV.add(TWO, WIDE), lambda: EV.at_level(X, 1), lambda: EV.rescale(WIDE),
        lambda: EV.rotate_many(X, [0, 1]), lambda: C.decrypt(X),
    ):  # fmt: skip
        call()
    assert np.array_equal(before, X.data) and np.array_equal(other, Y.data)


def test_both_sides_of_a_fork_draw_their_own_randomness() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        data = encrypt(CpuBackend(threads=1), C.public, [0.5], 1.0).data
        os.write(write, data.tobytes()[:64])
        os._exit(0)
    here = encrypt(CpuBackend(threads=1), C.public, [0.5], 1.0).data.tobytes()[:64]
    os.waitpid(child, 0)
    there = os.read(read, 64)
    os.close(read), os.close(write)
    assert len(there) == 64 and here != there


def test_ciphertexts_travel() -> None:
    for x in (X, TWO, LOW, WIDE, COEFFICIENTS):
        back = load_ciphertext(B, dump_ciphertext(B, x), C.params)
        assert np.array_equal(back.data, x.data)
        for name in ("level", "scale", "fingerprint", "noise", "bound", "evaluations"):
            assert getattr(back, name) == getattr(x, name)
    data = dump_ciphertext(B, X)
    assert len(data) < X.data.nbytes
    with pytest.raises(FormatError, match="other parameters"):
        load_ciphertext(B, data, DEEP.params)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(data[: rng.integers(len(data))] if rng.integers(2) else data)
        if damaged:
            damaged[rng.integers(min(len(damaged), 3000))] ^= 1 << rng.integers(8)
        with contextlib.suppress(FormatError):
            load_ciphertext(B, bytes(damaged), C.params)


LOOP = """
import resource, sys
sys.path.insert(0, "tests/ckks")
from world import world
c = world()
ev, x = c.evaluator, c.encrypt(c.slots(0, ()))
def work(times):
    for _ in range(times):
        y = ev.rotate(ev.multiply(x, x), 1)
        ev.add(y, 0.5), ev.rotate_many(y, [1, 2]), ev.at_level(y, 1), c.decrypt(y)
work(300)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
work(1500)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


PEAK = """
import sys
sys.path.insert(0, "tests/ckks")
from world import world
from hegpu import _cpu
from hegpu.backend import pool
def resident(name):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name)))
c = world("ckks-16", ())
ev, x, y = c.evaluator, c.encrypt(c.slots(0, ())), c.encrypt(c.slots(1, ()))
open("/proc/self/clear_refs", "w").write("5")
free = _cpu.pool_bytes() + sum(block.size for block in pool._free)
before = resident("VmRSS") - free // 1024
ev.multiply(x, y)
key = c.keys.held[0]
print(resident("VmHWM") - before, (x.data.nbytes + y.data.nbytes + key.first.nbytes + key.second.nbytes) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_product_stays_below_its_operands_and_key() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    added, held = (int(v) for v in done.stdout.split())
    assert added < 2 * held, f"a product at n = 2^16 took {added} KiB beside {held} KiB of operands and key"


def test_a_loop_leaks_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1500, f"grew by {done.stdout} KiB in 1500 rounds"
