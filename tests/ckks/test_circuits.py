"""Inner sums, matrices, polynomials and the vector type, against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import B, World, world

from hegpu.backend.reference import ReferenceBackend
from hegpu.ckks import circuits
from hegpu.ckks.evaluator import Evaluator
from hegpu.ckks.vector import Vector, encrypt, period_of, rotations_for
from hegpu.errors import BudgetError, MissingKeyError, ParameterError


def vectors() -> World:
    return world("insecure_ckks_deep", tuple(sorted({*rotations_for(16), *circuits.matrix_rotations(64)})))


def encrypted(values, bound=4.0) -> Vector:
    c = vectors()
    return encrypt(B, c.public, values, c.evaluator, bound)


def check(x: Vector, expected) -> None:
    got = x.decrypt(B, vectors().secret)
    assert got.shape == np.shape(expected)
    assert np.abs(got - expected).max() < 2.0**-x.ciphertext.noise_budget


def test_operators_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    v, w = rng.uniform(-1, 1, (2, 3, 11))
    x, y = encrypted(v), encrypted(w)
    for ours, wanted in [
        (x + y, v + w), (x - y, v - w), (-x, -v), (x * y + 3, v * w + 3), (2 * x - 1, 2 * v - 1), (1 - x, 1 - v),
        (w + x, w + v), (w * x, w * v), (w - x, w - v), (x * w[0], v * w[0]), (x.square(), v * v),
        (x * True + np.float32(2), v + 2), (x.polynomial([1, 0, -2]), 1 - 2 * v**2),
    ]:  # fmt: skip
        check(ours, wanted)
    filled = np.concatenate([v, np.zeros((3, 5))], axis=1)
    for steps in (1, -1, 3 - 16, 15):
        if steps % 16 in vectors().keys.rotations:
            check(x.rotate(steps), np.roll(filled, -steps, axis=1))
    check((x + 0.5).sum(), (v + 0.5).sum(1, keepdims=True))
    check(x.polynomial([1.5, 1]).sum(), (v + 1.5).sum(1, keepdims=True))
    check(x.dot(y), (v * w).sum(1, keepdims=True))
    check(x.dot(w), (v * w).sum(1, keepdims=True))
    check(x @ w[0], (v @ w[0])[:, None])


@pytest.mark.parametrize(("rows", "columns"), [(11, 11), (16, 3), (5, 16), (1, 7), (3, 64), (64, 1)])
def test_matrix_products(rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows)
    v, w = rng.uniform(-1, 1, (2, rows)), rng.uniform(-1, 1, (rows, columns))
    y = encrypted(v) @ w
    check(y, v @ w)
    if columns in (3, 11):
        check((y + 1).sum(), (v @ w + 1).sum(1, keepdims=True))  # the filling of the result is zero
    assert y.ciphertext.level == vectors().params.depth - 1


def test_matrix_leaves_out_what_is_zero_and_has_the_reference_s_bits() -> None:
    c = vectors()
    m = np.zeros((16, 16), complex)
    m[np.arange(16), (np.arange(16) + 5) % 16] = 1 + 2j
    matrix = circuits.encode_matrix(c.evaluator, m, 3)
    assert (matrix.babies, matrix.giants) == ((1,), (4,))
    x = c.encrypt(np.tile(np.random.default_rng(0).uniform(-1, 1, 16), c.params.n // 32))
    y = circuits.matrix_vector(c.evaluator, matrix, x)
    other = circuits.matrix_vector(Evaluator(ReferenceBackend(), c.keys), matrix, x)
    assert np.array_equal(y.data, other.data)
    assert c.error(y, (m @ c.decrypt(x)[:16])[np.arange(c.params.n // 2) % 16]) < 2.0**-y.noise_budget
    zero = circuits.matrix_vector(c.evaluator, circuits.encode_matrix(c.evaluator, 0 * m, 9), x)
    assert c.error(zero, 0 * c.decrypt(x)) < 2.0**-20


def test_sums_of_rotations() -> None:
    c = vectors()
    z = c.slots(0)
    x = c.encrypt(z)
    steps = [4, 0, 1, -512 + 2]
    rng = np.random.default_rng(0)
    for weights in (rng.uniform(-1, 1, 4), rng.uniform(-1, 1, (4, c.params.n // 2)), [0, 0, 0, 0]):
        y = circuits.sum_of_rotations(c.evaluator, x, steps, weights)
        expected = sum(np.asarray(w) * np.roll(z, -s, -1) for w, s in zip(weights, steps, strict=True))
        assert c.error(y, expected) < 2.0**-y.noise_budget
    assert y.level == x.level - 1
    bits = [circuits.sum_of_rotations(Evaluator(b, c.keys), x, steps, [1] * 4).data for b in (B, ReferenceBackend())]
    assert np.array_equal(*bits)
    for wrong in ([1, 1], [[1]]):
        with pytest.raises(ParameterError, match="do not match"):
            circuits.sum_of_rotations(c.evaluator, x, steps, wrong)
    with pytest.raises(ParameterError, match="must differ"):
        circuits.sum_of_rotations(c.evaluator, x, [1, 513], [1, 1])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.integers(0, 9))
def test_polynomials(coefficients: list[float], level: int) -> None:
    c = vectors()
    z = np.random.default_rng(0).uniform(-1, 1, c.params.n // 2)
    x = c.encrypt(z)
    x = c.evaluator.at_level(x, level) if level < x.level else x
    degree = max([k for k, v in enumerate(coefficients) if v], default=0)
    depth = circuits.polynomial_depth(degree) if degree else 0
    if depth > level:
        with pytest.raises(BudgetError, match="levels"):
            circuits.evaluate_polynomial(c.evaluator, x, coefficients)
        return
    y = circuits.evaluate_polynomial(c.evaluator, x, coefficients)
    assert c.error(y, np.polynomial.Polynomial(coefficients)(z)) < max(2.0**-y.noise_budget, 2.0**-24)


def test_polynomial_depth_is_the_logarithm() -> None:
    assert [circuits.polynomial_depth(d) for d in (1, 2, 3, 4, 7, 8, 15, 16)] == [1, 2, 2, 3, 3, 4, 4, 5]


def test_misfits_are_named() -> None:
    x = encrypted(np.zeros(5))
    with pytest.raises(ParameterError, match="5 and 4 numbers"):
        x + encrypted(np.zeros(4))
    for wrong in (np.zeros(4), np.zeros(5, complex), 1j, np.array(["a"] * 5)):
        with pytest.raises(ParameterError):
            x * wrong
    with pytest.raises(ParameterError, match="does not match a vector of 5"):
        x @ np.zeros((4, 2))
    with pytest.raises(ParameterError, match="finite"):
        x @ np.full((5, 2), np.nan)
    with pytest.raises(MissingKeyError, match="rotation by 3 "):
        encrypt(B, world().public, np.zeros(8), world().evaluator).rotate(3)
    with pytest.raises(ParameterError, match="power of two"):
        circuits.inner_sum(vectors().evaluator, x.ciphertext, 12)
    with pytest.raises(ParameterError, match="finite"):
        x.polynomial([1, np.inf])
    with pytest.raises(ParameterError, match="no coefficients"):
        x.polynomial([])
    assert [period_of(k) for k in (1, 2, 3, 4, 5)] == [1, 2, 4, 4, 8]
