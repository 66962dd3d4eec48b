"""Planes of integers into tiles and back, several channels at once."""

from collections.abc import Iterator
from concurrent.futures import Executor

from hegpu.backend import pool
from hegpu.backend.protocol import SignedInts
from hegpu.protocols.client_relu.rounds import Round


def cut(planes: SignedInts, margin: int, r: Round, group: int, executor: Executor) -> SignedInts:
    """``[channels, y, x]`` and ``margin`` zeros around it -> the group's tiles ``[channels, tiles, n]``; beyond is 0."""
    t, tiles = r.tiling, r.tiles_of(group)
    out = pool.empty((planes.shape[0], len(tiles), t.n), planes.dtype)

    def one(position: int) -> None:
        y, x = (corner - margin for corner in _corner(r, tiles[position]))
        part = planes[:, max(y, 0) : y + t.tile_h, max(x, 0) : x + t.tile_w]
        target = out[:, position, : t.tile_w * t.tile_h].reshape(-1, t.tile_h, t.tile_w)
        whole = part.shape[1:] == (t.tile_h, t.tile_w)
        out[:, position, t.tile_w * t.tile_h if whole else 0 :] = 0
        top, left = max(-y, 0), max(-x, 0)
        target[:, top : top + part.shape[1], left : left + part.shape[2]] = part

    list(executor.map(one, range(len(tiles))))
    return out


def rectangles(r: Round, group: int) -> Iterator[tuple[int, slice, slice, tuple[int, int]]]:
    """(position in the group, rows, columns, size): where each tile's outputs lie in the plane, cut at its edge."""
    t = r.tiling
    for position, tile in enumerate(r.tiles_of(group)):
        y, x = _corner(r, tile)
        rows, columns = min(t.step_h, t.height - y), min(t.step_w, t.width - x)
        yield position, slice(y, y + rows), slice(x, x + columns), (rows, columns)


def _corner(r: Round, tile: int) -> tuple[int, int]:
    return tile // r.tiling.columns * r.tiling.step_h, tile % r.tiling.columns * r.tiling.step_w
