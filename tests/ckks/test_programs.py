"""Random programs: hypothesis builds them, NumPy runs them in the clear, errors stay within what is foreseen."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import B, world

from hegpu.backend.reference import ReferenceBackend
from hegpu.ckks.evaluator import Evaluator

STEPS = (1, 2, 4, 5, -3)
OPERATION = st.one_of(
    st.tuples(st.sampled_from(["add", "sub", "multiply"]), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("sum"), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.sampled_from(["square", "negate", "conjugate"]), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("rotate"), st.integers(0, 9), st.sampled_from(STEPS)),
    st.tuples(st.sampled_from(["add number", "multiply number"]), st.integers(0, 9), st.floats(-1, 1)),
    st.tuples(st.just("multiply values"), st.integers(0, 9), st.integers(0, 100)),
)


def run(ev, program, ciphertexts, clear, check):
    """Each operation adds a result to those that the next ones may take."""
    for name, i, argument in program:
        i %= len(ciphertexts)
        x, z = ciphertexts[i], clear[i]
        if name in ("add", "sub", "multiply", "sum"):
            y, w = ciphertexts[argument % len(ciphertexts)], clear[argument % len(ciphertexts)]
        if (
            name in ("multiply", "square", "multiply number", "multiply values", "sum")
            and min(x.level, y.level if name in ("multiply", "sum") else x.level) < 1
        ):
            continue
        if name == "add":
            x, z = ev.add(x, y), z + w
        elif name == "sub":
            x, z = ev.sub(x, y), z - w
        elif name == "multiply":
            x, z = ev.multiply(x, y), z * w
        elif name == "sum":  # lazily relinearised
            low = min(x.level, y.level)
            a, b = ev.at_level(x, low), ev.at_level(y, low)
            lazy = ev.add(ev.multiply(a, b, relinearise=False), ev.square(b, relinearise=False))
            x, z = ev.relinearise(lazy), z * w + w * w
        elif name == "square":
            x, z = ev.square(x), z * z
        elif name == "negate":
            x, z = ev.negate(x), -z
        elif name == "conjugate":
            x, z = ev.conjugate(x), z.conj()
        elif name == "rotate":
            x, z = ev.rotate(x, argument), np.roll(z, -argument, -1)
        elif name == "add number":
            x, z = ev.add(x, argument), z + argument
        elif name == "multiply number":
            x, z = ev.multiply(x, argument), z * argument
        else:
            v = np.random.default_rng(argument).uniform(-1, 1, z.shape[-1])
            x, z = ev.multiply(x, v), z * v
        if x.bound > 16:
            continue
        check(x, z)
        ciphertexts.append(x)
        clear.append(z)


@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATION, min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_programs_stay_within_the_estimate(program, seed: int) -> None:
    c = world()
    clear = [c.slots(seed, ()), c.slots(seed + 1, ())]

    def check(x, z) -> None:
        assert np.abs(z).max() <= x.bound * (1 + 1e-9)
        assert c.error(x, z) <= 2.0**-x.noise_budget

    run(c.evaluator, program, [c.encrypt(z) for z in clear], clear, check)


@settings(max_examples=5, deadline=None)
@given(st.lists(OPERATION, min_size=3, max_size=5))
def test_programs_have_the_same_bits_on_the_reference(program) -> None:
    c = world()
    clear = [c.slots(0, ()), c.slots(1, ())]
    fresh = [c.encrypt(z) for z in clear]
    results: list[list[np.ndarray]] = []
    for backend in (B, ReferenceBackend()):
        results.append([])
        run(Evaluator(backend, c.keys), program, list(fresh), list(clear), lambda x, z: results[-1].append(x.data))
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", ["ckks-13", "ckks-16"])
def test_a_program_in_a_secure_ring(name: str) -> None:
    c = world(name, (1,), compact=name == "ckks-16")
    ev, z, w = c.evaluator, c.slots(1, ()), c.slots(2, ())
    x = ev.rotate(ev.multiply(c.encrypt(z), c.encrypt(w)), 1)
    assert c.error(x, np.roll(z * w, -1)) < 2.0**-x.noise_budget
    x = ev.at_level(x, 1) if x.level > 1 else x
    x = ev.square(ev.add(x, replace(x)))
    assert x.level == 0
    assert c.error(x, np.roll(2 * z * w, -1) ** 2) < 2.0**-x.noise_budget


def test_threads_share_an_evaluator() -> None:
    c = world()
    x, y = c.encrypt(c.slots(1)), c.encrypt(c.slots(2))

    def work() -> np.ndarray:
        return c.evaluator.rotate(c.evaluator.multiply(x, y), 5).data

    expected = work()
    with ThreadPoolExecutor(6) as pool:
        assert all(np.array_equal(f.result(), expected) for f in [pool.submit(work) for _ in range(60)])
