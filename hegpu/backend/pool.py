"""Large host arrays from memory that was used before: a fresh page costs more than most passes over it."""

import threading
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

SMALLEST = 1 << 20
LINE = 64
"""Bytes of a cache line, on which the arrays begin: a vector that straddles two costs twice."""
KEPT = 1 << 29
"""Bytes of free memory that the pool keeps; the oldest goes first."""

_Block = npt.NDArray[np.uint8]
_returned: deque[_Block] = deque()  # a finaliser may run anywhere, so it only appends
_free: list[_Block] = []
_lock = threading.Lock()


class _Lease:
    """What the arrays are views of; with the last one it gives the block back."""

    def __init__(self, block: _Block) -> None:
        self.block, self.__array_interface__ = block, block.__array_interface__

    def __del__(self, returned: deque[_Block] = _returned) -> None:
        returned.append(self.block)
        if _lock.acquire(blocking=False):
            try:
                _collect()
            finally:
                _lock.release()


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """``numpy.empty``; from 1 MiB on its memory returns to the pool when the last view of it is gone."""
    kind, count = np.dtype(dtype), 1
    for extent in shape:
        count *= int(extent)
    size = count * kind.itemsize
    if size < SMALLEST:
        return np.empty(shape, kind)
    lease = _Lease(_take(size))
    return np.asarray(lease)[:size].view(kind).reshape(shape)


def _take(size: int) -> _Block:
    with _lock:
        _collect()
        fitting = [i for i, block in enumerate(_free) if size <= block.size <= size + size // 4]
        if fitting:
            return _free.pop(min(fitting, key=lambda i: _free[i].size))
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % LINE
    return raw[start : start + size]


def _collect() -> None:
    while _returned:
        _free.append(_returned.popleft())
    while sum(block.size for block in _free) > KEPT:
        del _free[0]
