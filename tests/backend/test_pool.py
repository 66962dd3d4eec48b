import gc
import threading

import numpy as np
import pytest

from hegpu.backend import pool
from hegpu.backend.cpu import CpuBackend


@pytest.fixture(autouse=True)
def emptied():
    pool._free.clear()
    yield
    pool._free.clear()


def address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


def test_memory_is_used_again_once_the_last_view_is_gone():
    x = pool.empty((1 << 20,), np.uint32)
    first, view = address(x), x[5:7].reshape(1, 2)
    del x
    assert address(other := pool.empty((1 << 20,), np.uint32)) != first
    del view
    gc.collect()
    assert address(pool.empty((1 << 21,), np.uint16)) == first
    assert other.flags.c_contiguous
    assert other.flags.writeable


def test_a_block_much_too_large_is_not_taken():
    big = address(pool.empty((1 << 24,), np.uint8))
    assert address(pool.empty((1 << 22,), np.uint8)) != big


def test_the_pool_keeps_no_more_than_its_bound(monkeypatch):
    monkeypatch.setattr(pool, "KEPT", 1 << 22)
    held = [pool.empty((1 << 20,), np.uint8) for _ in range(9)]
    held.clear()
    assert sum(block.size for block in pool._free) <= 1 << 22


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)])
def test_small_shapes_are_numpys(shape):
    assert pool.empty(shape, np.int64).shape == shape


def test_threads_never_share_a_block():
    wrong = []

    def work(me: int) -> None:
        for _ in range(200):
            x = pool.empty((1 << 18,), np.uint32)
            x[::4096] = me
            y = pool.empty((1 << 18,), np.uint32)
            y[::4096] = me + 100
            if not ((x[::4096] == me).all() and (y[::4096] == me + 100).all()):
                wrong.append(me)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_the_multiply_ceiling_is_measured():
    assert CpuBackend(threads=1).multiply_ceiling() > 1e8
