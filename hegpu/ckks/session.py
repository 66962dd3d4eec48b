"""The owner of the data in one object: keys of its own, encryption, decryption."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import Backend
from hegpu.backend.select import select
from hegpu.ckks.evaluation_keys import EvaluationKeys, make_keys
from hegpu.ckks.evaluator import Evaluator
from hegpu.ckks.keys import PublicKey, SecretKey, generate
from hegpu.ckks.params import Parameters, preset
from hegpu.ckks.vector import Vector
from hegpu.ckks.vector import encrypt as encrypt_vector
from hegpu.errors import KeyMismatchError
from hegpu.ring.random import derive_key, fresh_key


@dataclass(frozen=True, eq=False)
class Client:
    """Made by :func:`client`. ``keys`` and ``public`` may be given away, ``secret`` may not."""

    backend: Backend
    secret: SecretKey
    public: PublicKey
    keys: EvaluationKeys

    @property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.backend, self.keys)

    def vector(self, values: npt.ArrayLike, bound: float | None = None) -> Vector:
        """An encrypted vector ``[m]``, or a batch ``[..., m]``; see :func:`hegpu.ckks.slots.encrypt` for ``bound``."""
        return encrypt_vector(self.backend, self.secret, values, self.evaluator, bound)

    def decrypt(self, x: Vector) -> npt.NDArray[np.float64]:
        """Errors: :class:`KeyMismatchError` for a vector under another key."""
        if x.ciphertext.fingerprint != self.public.fingerprint:
            raise KeyMismatchError("decrypt: the vector is under another key; use the client that encrypted it")
        return x.decrypt(self.backend, self.secret)


def key_pair(backend: Backend, params: Parameters, master: bytes) -> tuple[SecretKey, PublicKey]:
    """The key pair that 32 secret bytes determine."""
    return generate(backend, params, derive_key(master, "ckks secret"), derive_key(master, "ckks public"))


def client(
    parameters: Parameters | str = "ckks-13", rotations: Iterable[int] = (), *, backend: Backend | None = None
) -> Client:
    """Fresh keys: for products, and for rotations by ``rotations`` (:func:`hegpu.ckks.vector.rotations_for` lists what
    vectors need). ``parameters``: a preset's name or what :func:`hegpu.ckks.params.levelled` made."""
    params = preset(parameters) if isinstance(parameters, str) else parameters
    chosen = select(None, None) if backend is None else backend
    secret, public = key_pair(chosen, params, fresh_key())
    return Client(chosen, secret, public, make_keys(chosen, secret, rotations))
