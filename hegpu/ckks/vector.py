"""Encrypted vectors with operators, for people who come from TenSEAL.

A vector of m numbers is stored with period d, the next power of two: slot j holds entry j mod d, zeros fill up. So
``rotate`` is cyclic and ``sum`` and ``@`` need only rotations below d.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import Backend
from hegpu.ckks import circuits, slots
from hegpu.ckks.ciphertext import Ciphertext
from hegpu.ckks.evaluator import Evaluator
from hegpu.ckks.keys import PublicKey, SecretKey
from hegpu.errors import ParameterError


def period_of(length: int) -> int:
    """The next power of two."""
    return 1 << max(0, length - 1).bit_length()


def rotations_for(length: int) -> list[int]:
    """Steps whose keys let vectors of ``length`` be summed, multiplied by matrices and rotated by powers of two."""
    period = period_of(length)
    steps = {*circuits.sum_rotations(period), *circuits.matrix_rotations(period)}
    return sorted(steps)


def encrypt(
    backend: Backend,
    key: PublicKey | SecretKey,
    values: npt.ArrayLike,
    evaluator: Evaluator,
    bound: float | None = None,
) -> "Vector":
    """One vector ``[m]`` or a batch ``[..., m]`` of real numbers. ``bound``: see :func:`hegpu.ckks.slots.encrypt`."""
    v = np.asarray(values, np.float64)
    if v.ndim < 1 or not 1 <= v.shape[-1] <= key.params.n // 2:
        raise ParameterError(f"encrypt: shape {v.shape} does not end in 1..{key.params.n // 2} numbers")
    length = v.shape[-1]
    return Vector(evaluator, slots.encrypt(backend, key, _periodic(v, key.params.n // 2), bound), length)


def _periodic(v: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    period = period_of(v.shape[-1])
    padded = np.concatenate([v, np.zeros((*v.shape[:-1], period - v.shape[-1]))], axis=-1)
    return np.tile(padded, size // period)


@dataclass(frozen=True, eq=False)
class Vector:
    """An encrypted vector, or a batch of them. ``+ - * @`` take vectors, NumPy arrays and numbers."""

    evaluator: Evaluator
    ciphertext: Ciphertext
    length: int

    # NumPy would otherwise take each of its elements for an operand.
    __array_ufunc__ = None

    def decrypt(self, backend: Backend, secret: SecretKey) -> npt.NDArray[np.float64]:
        """The real parts ``[..., m]``."""
        return np.ascontiguousarray(slots.decrypt(backend, secret, self.ciphertext).real[..., : self.length])

    def _with(self, ciphertext: Ciphertext, length: int | None = None) -> "Vector":
        return Vector(self.evaluator, ciphertext, self.length if length is None else length)

    def _operand(self, operation: str, other: "Vector | npt.ArrayLike") -> Ciphertext | npt.NDArray[np.float64] | float:
        if isinstance(other, Vector):
            if other.length != self.length:
                raise ParameterError(
                    f"{operation}: vectors of {self.length} and {other.length} numbers; make them equally long"
                )
            return other.ciphertext
        v = np.asarray(other)
        if v.ndim == 0:
            if np.iscomplexobj(v):
                raise ParameterError(f"{operation}: a Vector holds real numbers; use the Evaluator for complex ones")
            if operation == "multiply" or self.length == period_of(self.length):
                return float(v)
            v = np.full(self.length, v)  # the filling stays zero
        if v.shape[-1] != self.length or v.dtype.kind not in "fiub":
            raise ParameterError(
                f"{operation}: {v.dtype}{v.shape} does not match a vector of {self.length} real numbers"
            )
        return _periodic(v.astype(np.float64), self.ciphertext.params.n // 2)

    def __add__(self, other: "Vector | npt.ArrayLike") -> "Vector":
        return self._with(self.evaluator.add(self.ciphertext, self._operand("add", other)))

    __radd__ = __add__

    def __sub__(self, other: "Vector | npt.ArrayLike") -> "Vector":
        return self._with(self.evaluator.sub(self.ciphertext, self._operand("sub", other)))

    def __rsub__(self, other: npt.ArrayLike) -> "Vector":
        return (-self) + other

    def __neg__(self) -> "Vector":
        return self._with(self.evaluator.negate(self.ciphertext))

    def __mul__(self, other: "Vector | npt.ArrayLike") -> "Vector":
        return self._with(self.evaluator.multiply(self.ciphertext, self._operand("multiply", other)))

    __rmul__ = __mul__

    def square(self) -> "Vector":
        return self._with(self.evaluator.square(self.ciphertext))

    def rotate(self, steps: int) -> "Vector":
        """``np.roll(v, -steps)`` of the vector filled with zeros to a power of two."""
        period = period_of(self.length)
        return self._with(self.evaluator.rotate(self.ciphertext, steps % period), period)

    def sum(self) -> "Vector":
        """The sum of the entries, as a vector of one."""
        return self._with(circuits.inner_sum(self.evaluator, self.ciphertext, period_of(self.length)), 1)

    def dot(self, other: "Vector | npt.ArrayLike") -> "Vector":
        """The sum of products, as a vector of one."""
        return (self * other).sum()

    def __matmul__(self, other: npt.ArrayLike) -> "Vector":
        """``v @ w`` for a plain matrix ``[m, k]``, k up to the period of m, or a plain vector ``[m]``."""
        w = np.asarray(other)
        if w.ndim == 1:
            return self.dot(w)
        most = self.ciphertext.params.n // 2
        if w.ndim != 2 or w.shape[0] != self.length or not 1 <= w.shape[1] <= most:
            raise ParameterError(
                f"matmul: a matrix {w.shape} does not match a vector of {self.length}; it is [{self.length}, 1..{most}]"
            )
        columns, period = w.shape[1], period_of(w.shape[1])
        size = max(period_of(self.length), period)
        rows = np.zeros((period, size))
        rows[:columns, : self.length] = w.T
        matrix = circuits.encode_matrix(self.evaluator, np.tile(rows, (size // period, 1)), self.ciphertext.level)
        return self._with(circuits.matrix_vector(self.evaluator, matrix, self.ciphertext), columns)

    def polynomial(self, coefficients: Sequence[float]) -> "Vector":
        """``sum_k coefficients[k] v^k``, entry by entry."""
        c = [float(v) for v in coefficients]
        if not c:
            raise ParameterError("polynomial: no coefficients; give at least one")
        powers = circuits.evaluate_polynomial(self.evaluator, self.ciphertext, [0.0, *c[1:]])
        return self._with(powers) + c[0]
