"""The client of ``client-relu``: encrypt, let the server convolve, decrypt, add the skip, activate, encrypt anew.

Every round has a fresh secret key, mask seed and noise key; a polynomial's streams are numbered by its channel and
tile, so no stream is used twice. What is sent depends on the slice through ciphertexts only: sizes, order and number of
messages are the plan's. Values beyond the range are saturated, never reported.
"""

import contextlib
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hegpu.backend import pool
from hegpu.backend.protocol import U32, Backend, SignedInts, Stream
from hegpu.ckks.encrypt import decode
from hegpu.ckks.wire import Body, unpack_residues
from hegpu.ct.hounsfield import clip
from hegpu.errors import ImageError
from hegpu.nets.description import INPUT
from hegpu.nets.plaintext import finish, pad_for, prepare, zeros_around
from hegpu.protocols.client_relu.activations import Planes, activated, finish_words, output_scale, scale_for
from hegpu.protocols.client_relu.messages import dump_request, load_answer
from hegpu.protocols.client_relu.plan import Plan
from hegpu.protocols.client_relu.rounds import Round
from hegpu.protocols.client_relu.state import ClientState
from hegpu.protocols.client_relu.tiling import cut, rectangles
from hegpu.ring.random import NOISE, SECRET, UNIFORM, fresh_key

F64 = npt.NDArray[np.float64]
Values = npt.NDArray[Any]  # integers between rounds, float64 at the end
IN_FLIGHT = 2
_ONE = np.zeros((), np.uint32)


class Exchange(Protocol):
    """Send a body, get the answer's bytes. Called from threads; the same ``message_id`` always has the same body."""

    def __call__(self, index: int, group: int, message_id: str, body: Body) -> Body: ...


@dataclass(frozen=True)
class Report:
    """``saturated``: values that left the network's recorded range and were clipped; ``clipped``: pixels of the slice
    outside [-1024, 3071] HU. Neither is told to the server."""

    saturated: int
    clipped: int


def denoise(
    backend: Backend,
    plan: Plan,
    hu: F64,
    exchange: Exchange,
    *,
    nonce: bytes,
    state: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[F64, Report]:
    """Denoise ``hu`` ``[y, x]``: float64 of the same shape, in HU.

    ``progress(groups done, groups in all)``. ``state``: a folder of this client (0700) that keeps finished rounds;
    calling again with the same slice, plan and folder goes on after them, in another session too. It stays: remove it
    when the result is safe, until then a repetition costs the last round only. Errors: those of ``exchange``,
    :class:`~hegpu.errors.FormatError` for an answer that is not what the plan says.
    """
    plane, clipped = clip(hu)
    if plane.shape != plan.shape:
        raise ImageError(f"client-relu: the slice is {plane.shape}, the plan is for {plan.shape}; ask for another plan")
    lines = plan.outline
    scale, limit = scale_for(plan, INPUT, plan.input_range)
    values: Values = np.rint(np.clip(prepare(lines, plane) * scale, -limit, limit)).astype(plan.dtype)
    outputs = {INPUT: Planes(values, scale, limit)}
    kept = ClientState(state, plan, plane) if state is not None else None
    with contextlib.ExitStack() as stack:
        if kept:
            stack.callback(kept.close)
        done = kept.load(outputs) if kept else 0
        last_use, saturated = lines.last_use(), 0
        total, sent = sum(r.groups for r in plan.rounds), sum(r.groups for r in plan.rounds[:done])
        result: F64 | None = None
        for r in plan.rounds[done:]:

            def advance() -> None:
                nonlocal sent
                sent += 1
                if progress:
                    progress(sent, total)

            name = lines.layers[r.index].name
            source_name = lines.source_of(r.index)
            source = outputs[source_name].at(backend, r.in_scale, r.limit)
            if last_use[source_name] == r.index and lines.layers[r.index].skip != source_name:
                del outputs[source_name]  # before the round, which holds a padded copy
            skip_name = lines.layers[r.index].skip
            skip = outputs[skip_name] if skip_name else None
            now = _Round(backend, plan, r, nonce, source, skip)
            del source
            received = now.run(exchange, advance)
            del now
            if r.bits:
                outputs[name] = Planes(received, *output_scale(plan, r.index))
                saturated += _count_at(received, outputs[name].limit)
            else:
                result = received[0]
            for old in [o for o in outputs if last_use.get(o, r.index) <= r.index and o != name]:
                del outputs[old]
            if kept and r.bits:
                kept.save(r.index + 1, outputs)
        assert result is not None
        if kept:
            kept.settle()
    return finish(lines, result, plane), Report(saturated, clipped)


def _count_at(values: Values, limit: int) -> int:
    """How many saturated; a channel at a time, since a plane of flags for all of them is large."""
    return sum(int(np.count_nonzero(v == limit)) + int(np.count_nonzero(v == -limit)) for v in values)


class _Round:
    """One round with keys of its own: they are made here and forgotten with it."""

    def __init__(
        self, backend: Backend, plan: Plan, r: Round, nonce: bytes, source: Planes, skip: Planes | None
    ) -> None:
        self.backend, self.plan, self.round, self.nonce, self.skip = backend, plan, r, nonce, skip
        self.attempt = secrets.token_hex(12)
        self.seed, self._noise = fresh_key(), fresh_key()
        q = plan.params.q_primes
        small = backend.sample_ternary(fresh_key(), SECRET, _ONE, plan.params.n)
        self._secret: U32 = backend.ntt(backend.from_signed(small.astype(np.int64), q), q)
        wraps = plan.outline.phases is not None
        self.planes: SignedInts = pad_for(plan.outline, r.index, source.values) if wraps else source.values
        self.margin = 0 if wraps else zeros_around(plan.outline, r.index)
        layer = plan.outline.layers[r.index]
        shape = (layer.outputs, r.tiling.height, r.tiling.width)
        self.out: Values = pool.empty(shape, plan.dtype if r.bits else np.float64)
        self.skip_values = None if skip is None else _fit(skip.values, shape[1], shape[2])

    def run(self, exchange: Exchange, advance: Callable[[], None]) -> Values:
        """Groups stream through: while the server computes some, the next is encrypted and the last decrypted."""
        pending: deque[tuple[int, Future[Body]]] = deque()
        with ThreadPoolExecutor(IN_FLIGHT) as senders, ThreadPoolExecutor(2) as copiers:
            try:
                for group in range(self.round.groups):
                    body = self.encrypt(group, copiers)
                    message = f"{self.attempt}{group:08x}"
                    pending.append((group, senders.submit(exchange, self.round.index, group, message, body)))
                    if len(pending) > IN_FLIGHT - 1:
                        self._receive(*pending.popleft(), advance)
                while pending:
                    self._receive(*pending.popleft(), advance)
            except BaseException:
                for _, future in pending:
                    future.cancel()
                raise
        return self._cropped()

    def encrypt(self, group: int, copiers: ThreadPoolExecutor) -> memoryview:
        r, p = self.round, self.plan.params
        objects = r.objects(group)
        tiles = cut(self.planes, self.margin, r, group, copiers)
        mask, noise = Stream(self.seed, UNIFORM, objects), Stream(self._noise, NOISE, objects)
        c0 = self.backend.mask_and_pack(tiles, self._secret, mask, noise, p.q_primes, p.c0_drop_up)
        return dump_request(self.plan, self.nonce, r.index, group, self.seed, c0)

    def _receive(self, group: int, future: "Future[Body]", advance: Callable[[], None]) -> None:
        c0, c1 = load_answer(self.plan, self.nonce, self.round.index, group, future.result())
        values = self._words(c0, c1) if self.round.bits else self._exact(c0, c1)
        for position, rows, columns, (height, width) in rectangles(self.round, group):
            tile: Values = values[:, position].reshape(-1, self.round.tiling.step_h, self.round.tiling.step_w)
            self._activate(tile[:, :height, :width], rows, columns)
        advance()

    def _words(self, c0: npt.NDArray[np.uint8], c1: npt.NDArray[np.uint8]) -> SignedInts:
        q = self.plan.params.q_primes
        return self.backend.unpack_products(c0, c1, self._secret, q, self.round.c0_form)

    def _exact(self, c0: npt.NDArray[np.uint8], c1: npt.NDArray[np.uint8]) -> F64:
        """Pre-activations of the last round, in network units."""
        b, q, n = self.backend, self.plan.params.q_primes, self.plan.params.n
        second = b.ntt(unpack_residues(b, c1, q, n), q)
        total = b.add(unpack_residues(b, c0, q, n), b.intt(b.mul(second, self._secret, q), q), q)
        valid = np.ascontiguousarray(total[..., self.round.tiling.valid_coefficients()])
        return decode(valid, q, Fraction(1)) * self.round.unit(self.plan.modulus)

    def _activate(self, words: Values, rows: slice, columns: slice) -> None:
        skip = None if self.skip_values is None else self.skip_values[:, rows, columns]
        scaled, out = (skip, 1.0 if self.skip is None else self.skip.scale), self.out[:, rows, columns]
        if self.round.bits:
            finish_words(self.backend, self.plan, self.round.index, words, scaled, out)
        else:
            out[...] = activated(self.plan, self.round.index, words, scaled)

    def _cropped(self) -> Values:
        """To the size of a smaller skip, about the centre."""
        if self.skip is None:
            return self.out
        rows, columns = (min(a, b) for a, b in zip(self.out.shape[1:], self.skip.values.shape[1:], strict=True))
        top, left = (self.out.shape[1] - rows) // 2, (self.out.shape[2] - columns) // 2
        return np.ascontiguousarray(self.out[:, top : top + rows, left : left + columns])


def _fit(planes: SignedInts, rows: int, columns: int) -> SignedInts:
    """``[c, y, x]`` about the centre of ``rows`` x ``columns``: cropped where larger, zeros where smaller."""
    top, left = (planes.shape[1] - rows) // 2, (planes.shape[2] - columns) // 2
    if top >= 0 and left >= 0:
        return planes[:, top : top + rows, left : left + columns]
    result = np.zeros((planes.shape[0], rows, columns), planes.dtype)
    part = planes[:, max(top, 0) : max(top, 0) + rows, max(left, 0) : max(left, 0) + columns]
    # A result larger than its skip is cropped afterwards at (result - skip) // 2: put the skip just there.
    y, x = (rows - part.shape[1]) // 2, (columns - part.shape[2]) // 2
    result[:, y : y + part.shape[1], x : x + part.shape[2]] = part
    return result
