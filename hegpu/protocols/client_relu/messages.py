"""The two messages of a round: safetensors files whose every byte is accounted for before it is used.

Request: header {plan, nonce, round, group, seed}, ``c0`` ``[inputs, tiles, bytes]`` (see ``Backend.mask_and_pack``; the
uniform halves are expanded from the seed under the streams of ``Round.objects``). Answer: header {plan, nonce, round,
group}, ``c0`` ``[planes, tiles, bytes]`` at valid coefficients, ``c1`` ``[planes, tiles, bytes]`` (``Backend.load_packed``; in
the last round whole residues). Sizes follow from the plan alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hegpu.backend.checks import value_bits
from hegpu.ckks.wire import Body, dump, frame_start, load
from hegpu.errors import FormatError

if TYPE_CHECKING:
    from hegpu.protocols.client_relu.plan import Plan

U8 = npt.NDArray[np.uint8]
MAX_BYTES = 1 << 30
REQUEST, ANSWER = "relu-request", "relu-answer"


def _request_shapes(plan: Plan, index: int, group: int) -> dict[str, tuple[int, ...]]:
    r, p = plan.rounds[index], plan.params
    row = (p.n * value_bits("request", p.q_primes, p.c0_drop_up) + 7) // 8
    return {"c0": (r.inputs, len(r.tiles_of(group)), row)}


def _answer_shapes(plan: Plan, index: int, group: int) -> dict[str, tuple[int, ...]]:
    r = plan.rounds[index]
    first, second = r.answer_bytes(plan.params.q_primes)
    tiles = len(r.tiles_of(group))
    return {"c0": (r.planes, tiles, first), "c1": (r.planes, tiles, second)}


def _header(plan: Plan, nonce: bytes, index: int, group: int) -> dict[str, Any]:
    return {"plan": plan.hash, "nonce": nonce.hex(), "round": index, "group": group}


@lru_cache(maxsize=4096)
def _size(plan_hash: str, kind: str, index: int, group: int, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> int:
    header: dict[str, Any] = {"plan": plan_hash, "nonce": bytes(16).hex(), "round": index, "group": group}
    if kind == REQUEST:
        header["seed"] = bytes(32).hex()
    body = sum(int(np.prod(shape, dtype=object)) for _, shape in shapes)
    return len(frame_start(kind, header, dict(shapes))) + body


def request_size(plan: Plan, index: int, group: int) -> int:
    return _size(plan.hash, REQUEST, index, group, tuple(_request_shapes(plan, index, group).items()))


def answer_size(plan: Plan, index: int, group: int) -> int:
    return _size(plan.hash, ANSWER, index, group, tuple(_answer_shapes(plan, index, group).items()))


def dump_request(plan: Plan, nonce: bytes, index: int, group: int, seed: bytes, c0: U8) -> memoryview:
    return dump(REQUEST, {**_header(plan, nonce, index, group), "seed": seed.hex()}, {"c0": c0})


def load_request(plan: Plan, nonce: bytes, index: int, group: int, data: Body) -> tuple[bytes, U8]:
    """(seed, c0). Errors: :class:`FormatError` for another session's, round's or group's message and for damage."""
    shapes = _request_shapes(plan, index, group)
    header, arrays = load(data, REQUEST, lambda _: {k: (np.uint8, s) for k, s in shapes.items()}, MAX_BYTES)
    _compare(header, _header(plan, nonce, index, group))
    try:
        seed = bytes.fromhex(header["seed"])
    except (KeyError, TypeError, ValueError) as cause:
        raise FormatError("client-relu: the request has no seed; it is damaged") from cause
    if len(seed) != 32:
        raise FormatError("client-relu: the request's seed is not 32 bytes; it is damaged")
    return seed, arrays["c0"]


def dump_answer(plan: Plan, nonce: bytes, index: int, group: int, c0: U8, c1: U8) -> memoryview:
    return dump(ANSWER, _header(plan, nonce, index, group), {"c0": c0, "c1": c1})


def load_answer(plan: Plan, nonce: bytes, index: int, group: int, data: Body) -> tuple[U8, U8]:
    """(c0, c1). Errors: :class:`FormatError`, by the same rules."""
    shapes = _answer_shapes(plan, index, group)
    header, arrays = load(data, ANSWER, lambda _: {k: (np.uint8, s) for k, s in shapes.items()}, MAX_BYTES)
    _compare(header, _header(plan, nonce, index, group))
    return arrays["c0"], arrays["c1"]


def _compare(header: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, value in expected.items():
        if header.get(key) != value:
            raise FormatError(
                f"client-relu: the message's {key} is {header.get(key)!r:.40}, {value!r} is expected; it belongs to "
                "another session, round or group"
            )
