"""The two-image game: air or metal is encrypted, the server's whole view is given to distinguishers."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.privacy.distinguish import F32, RAW, Score, features, ternary_share, trained
from bench.privacy.play import NONCE, Server, request_values
from hegpu.backend.protocol import Backend
from hegpu.nets.description import INPUT, Network
from hegpu.nets.plaintext import prepare as prepare_planes
from hegpu.protocols.client_relu.activations import Planes, scale_for
from hegpu.protocols.client_relu.client import _Round
from hegpu.protocols.client_relu.plan import Plan, plan_network
from hegpu.protocols.client_relu.tiling import cut
from hegpu.ring.random import fresh_key

AIR, METAL = -1024.0, 3000.0
I64 = npt.NDArray[np.int64]


def untruncated(plan: Plan) -> Plan:
    """The same plan with whole c0: a client without noise would be hidden a little by the rounding of c0."""
    return dataclasses.replace(plan, params=dataclasses.replace(plan.params, c0_drop_up=0))


@dataclass
class Table:
    b: Backend
    net: Network
    plan: Plan

    @staticmethod
    def lay(b: Backend, net: Network, side: int, preset: str = "compact", whole: bool = False) -> "Table":
        plan = plan_network(net, preset, (side, side))
        return Table(b, net, untruncated(plan) if whole else plan)

    def image(self, label: int) -> npt.NDArray[np.float64]:
        return np.full(self.plan.shape, METAL if label else AIR)

    def planes(self, label: int) -> Planes:
        """What round 0 encrypts: known to everyone, since the image is."""
        scale, limit = scale_for(self.plan, INPUT, self.plan.input_range)
        x = np.rint(np.clip(prepare_planes(self.plan.outline, self.image(label)) * scale, -limit, limit))
        r = self.plan.rounds[0]
        return Planes(x.astype(self.plan.dtype), scale, limit).at(self.b, r.in_scale, r.limit)

    def round(self, client: Any, label: int) -> _Round:
        return _Round(client, self.plan, self.plan.rounds[0], NONCE, self.planes(label), None)

    @cached_property
    def messages(self) -> list[Any]:
        """The integers of the first group's tiles of both images."""
        with ThreadPoolExecutor(1) as pool:
            both = [self.round(self.b, label) for label in (0, 1)]
            return [cut(r.planes, r.margin, r.round, 0, pool) for r in both]

    def transcripts(self, client: Any, count: int, rng: np.random.Generator) -> tuple[F32, list[F32], I64]:
        """Labels, features of whole transcripts and raw residues of each polynomial of a transcript."""
        server, rows, raws = Server(self.b, self.net, self.plan), [], []
        labels = rng.integers(0, 2, count)  # coins: labels balanced over all games would tell of those held back
        for label in labels.tolist():
            server.play(client, self.image(label))
            row, raw = features(self.b, server)
            rows.append(row)
            raws.append(raw)
        return np.stack(rows), raws, labels

    def first_rounds(self, client: Any, count: int, rng: np.random.Generator) -> tuple[list[bytes], I64]:
        """First requests alone: all that the algebra looks at."""
        labels = rng.integers(0, 2, count)
        with ThreadPoolExecutor(1) as pool:
            return [self.round(client, int(label)).encrypt(0, pool) for label in labels], labels

    def solve(self, bodies: list[bytes], labels: I64, rng: np.random.Generator) -> Score:
        """Guess by algebra, and by a coin where neither hypothesis gives a ternary secret."""
        hits = 0
        for body, label in zip(bodies, labels.tolist(), strict=True):
            shares = [ternary_share(self.b, self.plan, body, m) for m in self.messages]
            guess = int(rng.integers(0, 2)) if max(shares) < 0.5 else int(np.argmax(shares))
            hits += guess == label
        return Score(hits, len(bodies))

    def pairs(self, count: int, rng: np.random.Generator, *, reuse: bool) -> Score:
        """Two slices after each other: (air, air) or (air, metal)? The attacker subtracts the c0 of equal seeds' streams.

        ``reuse``: seed and secret of the second are those of the first (its noise is fresh).
        """
        hits, labels = 0, rng.integers(0, 2, count)
        q, drop = self.plan.modulus, self.plan.params.c0_drop_up
        expected = (self.messages[1] - self.messages[0])[0, 0].astype(np.int64)
        with ThreadPoolExecutor(1) as pool:
            for label in labels.tolist():
                first, second = self.round(self.b, 0), self.round(self.b, label)
                if reuse:
                    first_body = first.encrypt(0, pool)
                    first.planes, first._noise = second.planes, fresh_key()
                    bodies = [first_body, first.encrypt(0, pool)]
                else:
                    bodies = [first.encrypt(0, pool), second.encrypt(0, pool)]
                a, c = (request_values(self.b, self.plan, 0, 0, body)[1][0, 0].astype(np.int64) for body in bodies)
                difference = ((c - a) << drop) % q
                misfit = [np.abs(_centre(difference - m, q)).mean() for m in (0 * expected, expected)]
                small = min(misfit) < q / 16
                guess = int(np.argmin(misfit)) if small else int(rng.integers(0, 2))
                hits += guess == label
        return Score(hits, count)


def _centre(x: I64, q: int) -> I64:
    x = x % q
    return np.asarray(np.where(x > q // 2, x - q, x))


def guess_polynomials(raws: list[F32], labels: I64) -> Score:
    """The trained distinguisher on raw residues of every polynomial of a transcript, one guess a transcript."""
    games = np.repeat(np.arange(len(raws)), [len(raw) for raw in raws])
    return trained(np.concatenate(raws), labels[games], games=games, steps=400)


def guess_requests(table: Table, bodies: list[bytes], labels: I64, steps: int = 400) -> Score:
    """The same on the first polynomial of each of many first requests."""
    values = [request_values(table.b, table.plan, 0, 0, body)[1][0, :1, :RAW] for body in bodies]
    unit = np.concatenate(values) / float(table.plan.modulus >> table.plan.params.c0_drop_up)
    return trained(unit.astype(np.float32), labels.astype(np.int64), steps=steps)
