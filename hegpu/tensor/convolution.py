"""Convolution of encrypted planes with plain integer weights: one matrix product of residues at every NTT point.

CKKS is linear over Z_q, so the identity of polynomials holds for both halves of a ciphertext; its noise is multiplied
by the small integer weights only. No taps are left in the NTT domain: a K x K convolution of C_in planes to C_out
costs C_out C_in products a point, whatever K (25 times fewer than im2col for 5 x 5).
"""

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32, Backend, Moduli, Points
from hegpu.ring.random import UNIFORM
from hegpu.tensor.tiles import Tiling, kernel_polynomials

_ROW_BLOCK = 16  # output or input channels moved at once: bounds the memory beside the point matrices


def transform_weights(backend: Backend, weights: npt.NDArray[np.int64], tiling: Tiling, moduli: Moduli) -> Points:
    """Integer weights ``[C_out, C_in, K, K]`` (|w| < 2^62) in the point layout, made block by block of C_in."""
    outputs, inputs = weights.shape[:2]
    points = backend.empty_points(outputs, inputs, tiling.n, moduli)
    for first in range(0, inputs, _ROW_BLOCK):
        block = kernel_polynomials(weights[:, first : first + _ROW_BLOCK], tiling)
        backend.store_points(points, backend.from_signed(block, moduli), first, 1, transform=True)
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
