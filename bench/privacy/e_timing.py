"""(e) Length, number and timing of what a client sends do not depend on the image (after dudect, DATE 2017)."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.privacy.play import NONCE, Server, backend
from bench.privacy.result import Experiment
from bench.privacy.stats import robust_welch
from hegpu.backend.protocol import Backend
from hegpu.ckks.params import preset
from hegpu.ct.hounsfield import clip
from hegpu.nets.description import INPUT
from hegpu.nets.file import load_network
from hegpu.nets.plaintext import prepare
from hegpu.protocols.client_relu.activations import Planes, scale_for
from hegpu.protocols.client_relu.client import _Round, denoise
from hegpu.protocols.client_relu.plan import Plan, plan_network
from hegpu.protocols.linear import MasterKey, encrypt_slice
from hegpu.protocols.messages import dump_slice
from hegpu.ring.random import fresh_key

F64 = npt.NDArray[np.float64]
LIMIT = 4.5  # dudect's; the largest of five tests is compared, which is stricter
DELAY = "control, tiles of air are not encrypted"


@dataclass(frozen=True)
class Size:
    side: int = 96
    rounds: int = 3000
    whole: int = 160
    control: int = 200


def air(shape: tuple[int, int], rng: np.random.Generator) -> F64:
    """The fixed class."""
    del rng
    return np.full(shape, -1024.0)


def busy(shape: tuple[int, int], rng: np.random.Generator) -> F64:
    """The random class: every pixel anew, far over the ends of the scale, where values are clipped and saturated."""
    return np.asarray(rng.uniform(-2000, 5000, shape))


@dataclass
class Clocked:
    """The steps of a client between having a slice and having sent it."""

    b: Backend
    plan: Plan
    keys: MasterKey

    def linear(self, hu: F64) -> bytes:
        return dump_slice(self.b, encrypt_slice(self.b, clip(hu)[0], self.keys, 6))

    def relu(self, hu: F64) -> bytes:
        scale, limit = scale_for(self.plan, INPUT, self.plan.input_range)
        x = np.rint(np.clip(prepare(self.plan.outline, clip(hu)[0]) * scale, -limit, limit)).astype(self.plan.dtype)
        r = self.plan.rounds[0]
        source = Planes(x, scale, limit).at(self.b, r.in_scale, r.limit)
        with ThreadPoolExecutor(1) as pool:
            return _Round(self.b, self.plan, r, NONCE, source, None).encrypt(0, pool)

    def lazy(self, hu: F64) -> bytes:
        """The control: an encoder that spares itself the work where there is only air."""
        return self.linear(hu) if (hu > -1024).any() else bytes(16)

    def branching(self, hu: F64) -> bytes:
        """A subtler control: values are clipped only where needed, pixel by pixel."""
        hu = hu.copy()
        for y, x in zip(*np.nonzero((hu < -1024) | (hu > 3071)), strict=True):
            hu[y, x] = min(max(hu[y, x], -1024), 3071)
        return self.linear(hu)


def race(step: Callable[[F64], object], shape: tuple[int, int], rounds: int, rng: np.random.Generator) -> float:
    """|t| of both classes, in random order; images are made and touched before the clock starts."""
    labels, times = rng.permutation(np.arange(rounds) % 2), np.empty(rounds)
    for at, label in enumerate(labels.tolist()):
        hu = (busy if label else air)(shape, rng)
        hu.sum()
        start = time.perf_counter()
        step(hu)
        times[at] = time.perf_counter() - start
    keep = slice(min(10, rounds // 10), None)  # the first runs meet cold caches
    labels, times = labels[keep], times[keep]
    return robust_welch(times[labels == 0], times[labels == 1])


def between_rounds(b: Backend, plan: Plan, server: Server, hu: F64) -> float:
    """Seconds that the client spends on a whole slice while it owes the server something: what the server can time.

    From the last answer of each round to the first request of the next.
    """
    first: dict[int, float] = {}
    last: dict[int, float] = {}

    def exchange(index: int, group: int, message_id: str, body: bytes) -> bytes:
        first.setdefault(index, time.perf_counter())
        reply = server(index, group, message_id, body)
        last[index] = time.perf_counter()
        return reply

    denoise(b, plan, hu, exchange, nonce=NONCE)
    return sum(first[i + 1] - last[i] for i in range(len(plan.rounds) - 1))


def views(b: Backend, server: Server, images: list[F64]) -> set[tuple[tuple[int, int, int], ...]]:
    """(round, group, length) of every request: one element if the image plays no part."""
    found = set()
    for hu in images:
        server.play(b, hu)
        found.add(tuple(sorted((index, group, len(body)) for index, group, body in server.requests)))
    return found


def run(size: Size | None = None) -> Experiment:
    size = size or Size()
    b, net, rng = backend(), load_network("redcnn-16"), np.random.default_rng()
    shape = (size.side, size.side)
    plan = plan_network(net, "compact", shape)
    client, server = Clocked(b, plan, MasterKey(preset("linear"), fresh_key())), Server(b, net, plan)
    result = Experiment("e", "Length and timing of the client's messages")
    result.facts |= {"network": net.name, "side": size.side, "threads": 1}
    _lengths(result, client, server, shape, rng)
    for name, step, rounds in (
        ("linear, encryption of a slice", client.linear, size.rounds),
        ("client-relu, encryption of the first request", client.relu, size.rounds),
        (
            "client-relu, between rounds: decryption, activation, encryption",
            lambda hu: between_rounds(b, plan, server, hu),
            0,
        ),
        (DELAY, client.lazy, size.control),
        ("control, clipping pixel by pixel", client.branching, size.control),
    ):
        control = name.startswith("control")
        if rounds:
            t = race(step, shape, rounds, rng)
        else:
            t, rounds = _whole(b, plan, server, shape, size.whole, rng), size.whole
        claim = f"above {LIMIT}: caught" if control else f"below {LIMIT}"
        result.add(f"{name}: |t| ({rounds} runs)", t, claim, (t > LIMIT) == control, control=control)
    return result


def _whole(
    b: Backend, plan: Plan, server: Server, shape: tuple[int, int], runs: int, rng: np.random.Generator
) -> float:
    labels = rng.permutation(np.arange(runs) % 2)
    times = np.array([between_rounds(b, plan, server, (busy if c else air)(shape, rng)) for c in labels.tolist()])
    return robust_welch(times[4:][labels[4:] == 0], times[4:][labels[4:] == 1])


def _lengths(
    result: Experiment, client: Clocked, server: Server, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    images = [air(shape, rng), *[busy(shape, rng) for _ in range(3)], np.full(shape, 3000.0), np.full(shape, 1e9)]
    different = len(views(client.b, server, images))
    result.add(f"client-relu, sequences of lengths seen over {len(images)} images", different, "1", different == 1)
    different = len({len(client.linear(hu)) for hu in images})
    result.add(f"linear, lengths seen over {len(images)} images", different, "1", different == 1)
    different = len({len(client.lazy(hu)) for hu in images})
    result.add(
        "control, lengths of an encoder that skips air", different, "above 1: caught", different > 1, control=True
    )
