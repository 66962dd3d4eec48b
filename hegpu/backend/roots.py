"""Roots of unity: the one definition that all backends share."""

from functools import cache

import numpy as np
import numpy.typing as npt


@cache
def primitive_root(n: int, q: int) -> int:
    """The primitive 2n-th root of unity modulo ``q`` that fixes the evaluation order.

    ``psi = g^((q-1)/2n) mod q`` for the smallest g >= 2 with ``psi^n = -1``. ``q`` is a prime, 1 modulo 2n.
    """
    for g in range(2, q):
        psi = pow(g, (q - 1) // (2 * n), q)
        if pow(psi, n, q) == q - 1:
            return psi
    raise ValueError(f"primitive_root: {q} has no primitive {2 * n}-th root; use a prime that is 1 mod {2 * n}")


def bit_reversal(n: int) -> npt.NDArray[np.int64]:
    """The permutation k -> bitrev(k) over log2(n) bits."""
    order = np.zeros(1, np.int64)
    while order.size < n:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order
