"""Keys for relinearisation, rotation and conjugation: hybrid key switching (Han and Ki, CT-RSA 2020).

A key for the digits D_d of the q primes encrypts ``P [q in D_d] t`` under s', d by d. What is decomposed then loses no
level's meaning: any subset of the q primes uses the same key, restricted. A Galois key for g encrypts s under
``s(X^(1/g))``, so that the automorphism comes after the product with the key and a decomposition serves every rotation
(Bossuat, Mouchet, Troncoso-Pastoriza, Hubaux, EUROCRYPT 2021, section 4). Uniform halves are given by seeds.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from hegpu.backend.protocol import U32, Backend, Gadget, GadgetKey
from hegpu.ckks.keys import SecretKey
from hegpu.ckks.params import Parameters
from hegpu.errors import MissingKeyError, ParameterError
from hegpu.ring.random import KEY_NOISE, UNIFORM, fresh_key

RELINEARISE = 0  # the place of the relinearisation key among the Galois elements, which are odd


def rotation_element(n: int, steps: int) -> int:
    """The Galois element of a rotation to the left by ``steps`` slots (any integer, modulo n/2)."""
    return pow(5, steps % (n // 2), 2 * n)


def conjugation_element(n: int) -> int:
    return 2 * n - 1


@lru_cache(maxsize=256)
def gadget_at(params: Parameters, level: int) -> Gadget:
    """How ciphertexts of ``level`` meet the keys of ``params``."""
    moduli, primes = params.levels[level], params.q_primes + params.p_primes
    sizes, numbers, at = [], [], 0
    for number, size in enumerate(params.digits):
        here = sum(q in moduli for q in params.q_primes[at : at + size])
        if here:
            sizes.append(here)
            numbers.append(number)
        at += size
    rows = tuple(primes.index(q) for q in moduli + params.p_primes)
    return Gadget(moduli, params.p_primes, tuple(sizes), rows, tuple(numbers))


@dataclass(frozen=True, eq=False)
class EvaluationKeys:
    """A key set: what a server needs to multiply and to rotate. Not secret.

    ``held`` maps Galois elements (0: relinearisation) to keys, ``elements`` says which there are; those not held yet
    are fetched by ``load`` when they are first used.
    """

    params: Parameters
    fingerprint: bytes
    elements: tuple[int, ...]
    held: dict[int, GadgetKey] = field(repr=False)
    load: Callable[[int], GadgetKey] | None = field(default=None, repr=False)

    def key(self, operation: str, element: int, wanted: str) -> GadgetKey:
        """Errors: :class:`MissingKeyError` that says what is ``wanted`` and what there is."""
        key = self.held.get(element)
        if key is None:
            if element not in self.elements or self.load is None:
                raise MissingKeyError(f"{operation}: there is no key for {wanted}; the set holds {self.describe()}")
            key = self.held[element] = self.load(element)
        return key

    def relinearisation(self, operation: str) -> GadgetKey:
        """Errors: :class:`MissingKeyError`."""
        return self.key(operation, RELINEARISE, "relinearisation")

    def galois(self, operation: str, element: int) -> GadgetKey:
        """Errors: :class:`MissingKeyError` that lists the rotations there are."""
        n = self.params.n
        steps = "conjugation" if element == conjugation_element(n) else f"a rotation by {_steps(n).get(element)}"
        return self.key(operation, element, f"{steps} (Galois element {element})")

    @property
    def rotations(self) -> list[int]:
        """The steps there are keys for, in [1, n/2)."""
        known = _steps(self.params.n)
        return sorted(known[g] for g in self.elements if g in known)

    def describe(self) -> str:
        parts = ["relinearisation"] * (RELINEARISE in self.elements)
        parts += ["conjugation"] * (conjugation_element(self.params.n) in self.elements)
        return ", ".join([*parts, f"rotations by {self.rotations} (modulo {self.params.n // 2})"])


@lru_cache(maxsize=8)
def _steps(n: int) -> dict[int, int]:
    """Galois element -> steps, for every rotation but by 0."""
    out, g = {}, 5
    for steps in range(1, n // 2):
        out[g] = steps
        g = g * 5 % (2 * n)
    return out


def make_keys(
    backend: Backend, secret: SecretKey, rotations: Iterable[int] = (), *, relinearisation: bool = True,
    conjugation: bool = False, compact: bool = False,
) -> EvaluationKeys:  # fmt: skip
    """Fresh keys for products, for rotations to the left by the given steps (negative: to the right), for conjugation.

    ``compact``: uniform halves are made from their seeds where they are used, half the memory, more work.
    Errors: :class:`ParameterError` for parameters without special primes.
    """
    params = secret.params
    n, primes = params.n, params.q_primes + params.p_primes
    if not params.levels:
        raise ParameterError(f"make_keys: preset {params.name!r} has no levels to compute on; use a 'ckks-' preset")
    elements = {rotation_element(n, steps) for steps in rotations} - {1}
    elements |= {RELINEARISE} if relinearisation else set()
    elements |= {conjugation_element(n)} if conjugation else set()
    s = secret.limbs(primes)
    held = {}
    for element in sorted(elements):
        if element == RELINEARISE:
            under, hidden = s, backend.mul(s, s, primes)
        else:
            under, hidden = backend.automorphism(s, pow(element, -1, 2 * n), primes, evaluations=True), s
        key = _make(backend, params, under, hidden)
        held[element] = replace(key, second=None) if compact else key
    return EvaluationKeys(params, secret.fingerprint, tuple(sorted(elements)), held)


def _make(backend: Backend, params: Parameters, under: U32, hidden: U32) -> GadgetKey:
    n, primes, digits = params.n, params.q_primes + params.p_primes, len(params.digits)
    seed, objects = fresh_key(), np.arange(digits, dtype=np.uint32)
    second = backend.sample_uniform(seed, UNIFORM, objects, n, primes)
    noise = backend.sample_cbd(fresh_key(), KEY_NOISE, objects, n)
    first = backend.ntt(backend.from_signed(noise.astype(np.int64), primes), primes)
    first = backend.sub(first, backend.mul(second, under, primes), primes)
    lifted = backend.mul_scalar(hidden, [math.prod(params.p_primes)] * len(primes), primes)
    at = 0
    for digit, size in enumerate(params.digits):
        own = primes[at : at + size]
        first[digit, at : at + size] = backend.add(
            np.ascontiguousarray(first[digit, at : at + size]), np.ascontiguousarray(lifted[at : at + size]), own
        )
        at += size
    return GadgetKey(primes, first, second, seed, UNIFORM)
