"""ChaCha20 (RFC 8439) in NumPy, many blocks side by side."""

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)
_ROUNDS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip


def _rotate(x: U32, bits: int) -> U32:
    return np.asarray((x << np.uint32(bits)) | (x >> np.uint32(32 - bits)))


def chacha_blocks(key: bytes, counters: U32, nonce: tuple[int, int, int]) -> U32:
    """Blocks ``[len(counters), 16]`` of the ChaCha20 function (RFC 8439, section 2.3) as 32-bit words."""
    start = np.empty((16, len(counters)), np.uint32)
    start[:4] = np.array(_CONSTANTS, np.uint32)[:, None]
    start[4:12] = np.frombuffer(key, "<u4")[:, None]
    start[12] = counters
    start[13:] = np.array(nonce, np.uint32)[:, None]
    x = start.copy()
    for _ in range(10):
        for a, b, c, d in _ROUNDS:
            for first, second, third, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[first] += x[second]
                x[third] = _rotate(x[third] ^ x[first], bits)
    return np.ascontiguousarray((x + start).T)


def stream_words(key: bytes, domain: int, item: int, index: int, first: int, count: int) -> U32:
    """Words ``first .. first + count - 1`` (multiples of 256) of stream (domain, item, index), interleaved by 16."""
    blocks = chacha_blocks(key, np.arange(first // 16, (first + count) // 16, dtype=np.uint32), (domain, item, index))
    return np.asarray(blocks.reshape(-1, 16, 16).transpose(0, 2, 1).ravel())
