"""The same attack on ``client-relu``: the last image is shared, the target is the key of the round before the last."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.privacy.broken import compose
from bench.privacy.negacyclic import Products, estimate, to_trits
from bench.privacy.play import NONCE, Server, Spy, backend
from bench.privacy.result import Experiment
from bench.privacy.stats import clopper_pearson, trits_right
from hegpu.backend.protocol import Backend
from hegpu.ct.phantom import phantom
from hegpu.nets.description import Network
from hegpu.nets.file import load_network
from hegpu.nets.plaintext import execute, finish, prepare
from hegpu.protocols.client_relu.messages import load_answer, load_request
from hegpu.protocols.client_relu.plan import Plan, plan_network
from hegpu.protocols.client_relu.rounds import Round
from hegpu.protocols.client_relu.tiling import rectangles
from hegpu.ring.random import UNIFORM

F64 = npt.NDArray[np.float64]


def rounding(b: Backend, server: Server, r: Round) -> tuple[F64, F64, list[tuple[int, int]]]:
    """What the server knows of its own rounding of round ``r``: of c1 ``[planes, tiles, n]``, of c0 at valid
    coefficients, and (group, position) of each tile."""
    plan, q = server.plan, server.plan.params.q_primes
    first, second, where = [], [], []
    replies = {(i, g): reply for i, g, reply in server.answers}
    for index, group, body in server.requests:
        if index != r.index:
            continue
        seed, packed = load_request(plan, NONCE, index, group, body)
        tiles, prepared = packed.shape[1], server.prepared[index]
        x = b.empty_points(r.inputs, 2 * tiles, plan.params.n, q)
        b.store_packed(x, packed, 0, 2, plan.params.c0_drop_up)
        b.expand_points(x, seed, UNIFORM, r.objects(group), 1, 2)
        y = b.point_matmul(prepared.weights, x)
        c0, c1 = load_answer(plan, NONCE, index, group, replies[index, group])
        bias = np.broadcast_to(prepared.constants[:, None, :, None], (r.planes, tiles, len(q), plan.params.n))
        exact0 = compose(b.add(b.load_points(y, 0, 2, tiles, transform=True), bias, q), q)[..., r.c0_form.positions]
        exact1 = compose(b.load_points(y, 1, 2, tiles, transform=True), q)
        words0 = b.unpack_bits(c0, r.bits - r.drop, len(r.c0_form.positions)) << np.uint64(r.drop)
        words1 = b.unpack_bits(c1, r.bits, plan.params.n)
        first.append(_difference(words1, exact1, plan, r))
        second.append(_difference(words0, exact0, plan, r))
        where += [(group, position) for position in range(tiles)]
    return np.concatenate(first, axis=1), np.concatenate(second, axis=1), where


def _difference(words: Any, exact: Any, plan: Plan, r: Round) -> F64:
    """word - exact 2^bits / Q, centred modulo 2^bits."""
    size = 2.0**r.bits
    d = words.astype(np.float64) - exact.astype(np.float64) * (size / plan.modulus)
    return np.asarray(d - size * np.rint(d / size))


class Tail:
    """The linear way from the words of the round before the last to the shared image, HU, on this slice."""

    def __init__(self, server: Server, r: Round, where: list[tuple[int, int]], hu: F64) -> None:
        self.r, self.where, self.plan, self.hu = r, where, server.plan, hu
        net, seen = server.net, {}
        execute(net, prepare(net, hu), lambda index, output: seen.update({index: output}))
        self.gate = torch.from_numpy((seen[r.index] > 0).astype(np.float64))
        last = net.layers[-1]
        assert last.op == "conv_transpose2d" and net.layers[r.index].activation == "relu"
        self.weight = torch.from_numpy(net.weights[f"{last.name}.weight"].astype(np.float64))
        self.open = (seen[r.index + 1] > 0) if last.activation == "relu" else np.ones_like(seen[r.index + 1])
        self.scale = net.hu_scale * r.unit(server.plan.modulus)

    def _rectangles(self) -> list[tuple[int, slice, slice, tuple[int, int]]]:
        found = []
        for tile, (group, position) in enumerate(self.where):
            found += [(tile, *rest) for at, *rest in rectangles(self.r, group) if at == position]
        return found  # type: ignore[return-value]

    def apply(self, words: F64) -> F64:
        t = self.r.tiling
        plane = np.zeros((len(words), t.height, t.width))
        for tile, rows, columns, (height, width) in self._rectangles():
            plane[:, rows, columns] = words[:, tile].reshape(-1, t.step_h, t.step_w)[:, :height, :width]
        out = torch.nn.functional.conv_transpose2d((torch.from_numpy(plane) * self.gate)[None], self.weight)[0].numpy()
        return np.asarray(self._crop(out * self.open) * self.scale)

    def adjoint(self, y: F64) -> F64:
        t, full = self.r.tiling, np.zeros(self.open.shape)
        self._crop(full)[...] = y * self.scale
        plane = torch.nn.functional.conv2d(torch.from_numpy(full * self.open)[None], self.weight)[0] * self.gate
        words = np.zeros((len(plane), len(self.where), t.step_h, t.step_w))
        for tile, rows, columns, (height, width) in self._rectangles():
            words[:, tile, :height, :width] = plane[:, rows, columns].numpy()
        return words.reshape(len(plane), len(self.where), -1)

    def _crop(self, x: Any) -> Any:
        top, left = (x.shape[1] - self.hu.shape[0]) // 2, (x.shape[2] - self.hu.shape[1]) // 2
        return x[0, top : top + self.hu.shape[0], left : left + self.hu.shape[1]]


@dataclass(frozen=True)
class Recovered:
    """Trits right of the round's own key and of the others', of how many; the leak of one pixel in units of the bound."""

    own: tuple[int, int]
    others: tuple[int, int]
    leak: float


def attack(result: Experiment, preset_name: str, side: int, times: int) -> None:
    """The same slice again and again, every time under new keys."""
    b, net = backend(), load_network("redcnn-16")
    plan = plan_network(net, preset_name, (side, side))
    found = [_once(b, net, plan) for _ in range(times)]
    text = f"client-relu {preset_name}, one {side} x {side} slice shared ({times} times): trits right of"
    for name, counts in (
        ("the round's own key", [f.own for f in found]),
        ("the other rounds' keys", [f.others for f in found]),
    ):
        right, of = (sum(c) for c in zip(*counts, strict=True))
        low, high = clopper_pearson(right, of)
        if name == "the round's own key":
            expected = float(np.mean([trits_right(side * side * f.leak) for f in found]))
            claim, good = f"not above the formula's {expected:.4f} (1/3 is a guess)", low <= expected
        else:
            claim, good = "interval holds 1/3", low <= 1 / 3 <= high
        result.add(f"{text} {name}", right / of, claim, good, (low, high))
    whole = 512 * 512 * float(np.mean([f.leak for f in found]))
    name = f"client-relu {preset_name}, 512 x 512: leak of that round's key in units of the bound"
    result.add(name, whole, "reported: the key opens nothing but this round of this slice", True)


def _once(b: Backend, net: Network, plan: Plan) -> Recovered:
    side = plan.shape[0]
    noise = np.random.default_rng(11).normal(0, 30, (side, side))
    hu = np.rint(np.clip(phantom((512, 512), seed=3)[200 : 200 + side, 200 : 200 + side] + noise, -1024, 3071))
    server, spy = Server(b, net, plan), Spy(b)
    shared = np.rint(server.play(spy, hu))
    r = plan.rounds[-2]
    r1, r0, where = rounding(b, server, r)
    tail, products = Tail(server, r, where, hu), Products.of(r1, r.tiling.valid_coefficients())
    clear = finish(net, execute(net, prepare(net, hu)), hu)
    observed = shared - clear - tail.apply(r0)
    truth = spy.ternary[r.index].astype(np.int64)
    signal = float(np.mean(tail.apply(products.apply(truth.astype(np.float64))) ** 2))
    leak = signal / ((2 * plan.params.n / 3) / 12)
    x = estimate(
        lambda s: tail.apply(products.apply(s)), lambda y: products.adjoint(tail.adjoint(y)), observed, 1 / 12,
        plan.params.n, 25,
    )  # fmt: skip
    trits = to_trits(x, hu.size * leak)
    others = np.concatenate([t for i, t in enumerate(spy.ternary) if i != r.index]).astype(np.int64)
    elsewhere = np.tile(trits, len(spy.ternary) - 1) == others
    return Recovered((int((trits == truth).sum()), len(truth)), (int(elsewhere.sum()), len(others)), leak)
