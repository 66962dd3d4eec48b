"""Layer by layer under encryption, several channels and a skip: the check of the composed filter."""

import math

import numpy as np

from hegpu.backend.cpu import CpuBackend
from hegpu.ckks.encrypt import decode, decrypt, encode_integers, encrypt_symmetric
from hegpu.ckks.keys import generate
from hegpu.ckks.params import preset
from hegpu.ring.random import fresh_key
from hegpu.tensor.convolution import convolve, load_seeded, transform_weights, unload
from hegpu.tensor.tiles import assemble, cut, plan

B = CpuBackend(threads=2)


def test_two_layers_and_a_skip_equal_the_plain_layers() -> None:
    params, scale = preset("insecure_test"), 1 << 50
    q, tiling = params.q_primes, plan(45, 37, 3, params.n)
    secret, _ = generate(B, params, fresh_key(), fresh_key())
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, (45, 37))
    first, second = rng.integers(-20, 20, (4, 1, 5, 5)), rng.integers(-20, 20, (1, 4, 3, 3))
    tiles, seed = np.arange(tiling.tiles, dtype=np.uint32), fresh_key()
    message = encode_integers(B, cut(image.astype(float), tiling).astype(np.int64), scale, q)
    c0 = encrypt_symmetric(B, message, secret, seed, fresh_key(), tiles)

    planes = load_seeded(B, c0[None], seed, tiles[None], q)
    hidden = convolve(B, transform_weights(B, first, tiling, q), planes)
    answer = unload(B, convolve(B, transform_weights(B, second, tiling, q), hidden))[0]
    centred = np.full((1, 1, 1, 1), 77)
    skip_points = convolve(B, transform_weights(B, centred, tiling, q), planes)
    # Two layers shift the valid coefficients twice, the skip once: the second shift is one more 1x1 layer.
    one = np.ones((1, 1, 1, 1), np.int64)
    skip = unload(B, convolve(B, transform_weights(B, one, tiling, q), skip_points))[0]
    total = B.add(answer, skip, q)

    got = decode(decrypt(B, np.ascontiguousarray(total[:, 0]), np.ascontiguousarray(total[:, 1]), secret, q), q, scale)
    # Each layer's kernel is centred on the halo, so the second moves everything by (halo, halo) once more; past n the sign turns.
    places = tiling.valid_coefficients() + tiling.tile_w * tiling.halo + tiling.halo
    padded = np.pad(image, 3, mode="edge")
    view = np.lib.stride_tricks.sliding_window_view
    layer = np.einsum("yxkl,okl->oyx", view(padded, (5, 5)), first[:, 0])
    expected = np.einsum("oyxkl,okl->yx", view(layer, (3, 3), axis=(1, 2)), second[0]) + 77 * image
    values = got[:, places % params.n] * np.where(places < params.n, 1, -1)
    error = assemble(values, tiling) - expected
    assert np.abs(error).max() < 22 * math.prod(np.abs(w).sum() for w in (first, second)) / scale
