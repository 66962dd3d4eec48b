"""Convolution of encrypted planes with plain integer weights: one matrix product of residues at every NTT point.

CKKS is linear over Z_q, so the identity of polynomials holds for both halves of a ciphertext; its noise is multiplied
by the small integer weights only. No taps are left in the NTT domain: a K x K convolution of C_in planes to C_out
costs C_out C_in products a point, whatever K (25 times fewer than im2col for 5 x 5).
"""

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32, Backend, Moduli, Points
from hegpu.errors import ParameterError
from hegpu.ring.random import UNIFORM
from hegpu.tensor.tiles import Tiling, kernel_positions


def transform_weights(backend: Backend, weights: npt.NDArray[np.int64], tiling: Tiling, moduli: Moduli) -> Points:
    """Integer weights ``[C_out, C_in, K, K]`` (|w| < 2^31) in the point layout."""
    outputs, inputs, rows, size = weights.shape
    if rows != size or np.abs(weights).max(initial=0) >= 1 << 31:
        raise ParameterError(f"transform_weights: weights {weights.shape} are not square kernels below 2^31")
    points = backend.empty_points(outputs, inputs, tiling.n, moduli)
    taps = weights.reshape(outputs, inputs, -1).astype(np.int32)
    backend.store_sparse(points, taps, kernel_positions(size, tiling), 0, 1)
    return points


def load_seeded(backend: Backend, c0: U32, seed: bytes, objects: U32, moduli: Moduli) -> Points:
    """Fresh ciphertexts ``c0`` ``[channels, tiles, limb, n]`` (coefficients) and their seeded halves, as the matrix
    channels x (2 tiles): column 2t is c0 of tile t, column 2t+1 its c1, expanded from the seed in place."""
    channels, tiles, _, n = c0.shape
    points = backend.empty_points(channels, 2 * tiles, n, moduli)
    backend.store_points(points, c0, 0, 2, transform=True)
    backend.expand_points(points, seed, UNIFORM, objects, 1, 2)
    return points


def convolve(backend: Backend, weights: Points, planes: Points) -> Points:
    """C_out x C_in weights times C_in x (2 tiles) ciphertext halves -> C_out x (2 tiles)."""
    return backend.point_matmul(weights, planes)


def unload(backend: Backend, points: Points) -> U32:
    """The matrix channels x (2 tiles) -> ciphertexts ``[channels, tiles, 2, limb, n]`` in coefficients."""
    halves = backend.load_points(points, 0, 1, points.columns, transform=True)
    return halves.reshape(points.rows, points.columns // 2, 2, len(points.moduli), points.n)
