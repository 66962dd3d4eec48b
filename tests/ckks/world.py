"""Keys and ciphertexts that the tests of the evaluator share."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from hegpu.backend.cpu import CpuBackend
from hegpu.backend.protocol import Backend
from hegpu.ckks.ciphertext import Ciphertext
from hegpu.ckks.evaluation_keys import EvaluationKeys, make_keys
from hegpu.ckks.evaluator import Evaluator
from hegpu.ckks.keys import PublicKey, SecretKey, generate
from hegpu.ckks.params import Parameters, preset
from hegpu.ckks.slots import decrypt, encrypt
from hegpu.ring.random import fresh_key

B = CpuBackend(threads=2)


@dataclass(frozen=True)
class World:
    params: Parameters
    secret: SecretKey
    public: PublicKey
    keys: EvaluationKeys
    backend: Backend

    @property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.backend, self.keys)

    def encrypt(self, values, bound=1.0) -> Ciphertext:
        return encrypt(self.backend, self.public, values, bound)

    def decrypt(self, x: Ciphertext) -> np.ndarray:
        return decrypt(self.backend, self.secret, x)

    def slots(self, seed=0, batch=(2,)) -> np.ndarray:
        rng = np.random.default_rng(seed)
        shape = (*batch, self.params.n // 2)
        return (rng.uniform(-1, 1, shape) + 1j * rng.uniform(-1, 1, shape)) / np.sqrt(2)

    def error(self, x: Ciphertext, expected: np.ndarray) -> float:
        return float(np.abs(self.decrypt(x) - expected).max())


@cache
def world(name="insecure_ckks", rotations=(1, 2, 4, 5, -3), compact=False, backend: Backend = B) -> World:
    params = preset(name)
    secret, public = generate(backend, params, fresh_key(), fresh_key())
    keys = make_keys(backend, secret, rotations, conjugation=True, compact=compact)
    return World(params, secret, public, keys, backend)
