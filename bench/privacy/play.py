"""``client-relu`` in one process, with ears: what the server receives, and what only the judge of a game may know."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hegpu.backend.cpu import CpuBackend
from hegpu.backend.protocol import Backend
from hegpu.nets.description import Network
from hegpu.protocols.client_relu.client import denoise
from hegpu.protocols.client_relu.messages import load_request
from hegpu.protocols.client_relu.plan import Plan
from hegpu.protocols.client_relu.server import Prepared, answer, prepare

NONCE = bytes(16)
F64 = npt.NDArray[np.float64]
U64 = npt.NDArray[np.uint64]


def backend() -> CpuBackend:
    return CpuBackend(threads=1)


@dataclass
class Server:
    """The honest server; ``requests`` and ``answers`` are its view of one slice."""

    backend: Backend
    net: Network
    plan: Plan
    prepared: dict[int, Prepared] = field(default_factory=dict)
    requests: list[tuple[int, int, bytes]] = field(default_factory=list)
    answers: list[tuple[int, int, bytes]] = field(default_factory=list)

    def __call__(self, index: int, group: int, message_id: str, body: bytes) -> bytes:
        self.requests.append((index, group, body))
        if index not in self.prepared:
            self.prepared[index] = prepare(self.backend, self.net, self.plan, index)
        reply = answer(self.backend, self.prepared[index], group, NONCE, body)
        self.answers.append((index, group, reply))
        return reply

    def play(self, client: Any, hu: F64) -> F64:
        """One slice from a client that computes with the backend ``client``; earlier views are forgotten."""
        self.requests.clear()
        self.answers.clear()
        return denoise(client, self.plan, hu, self, nonce=NONCE)[0]


def request_values(b: Backend, plan: Plan, index: int, group: int, body: bytes) -> tuple[bytes, U64]:
    """Seed and the composed, truncated c0 ``[inputs, tiles, n]`` of a request."""
    seed, packed = load_request(plan, NONCE, index, group, body)
    bits = packed.shape[-1] * 8 // plan.params.n
    return seed, b.unpack_bits(packed, bits, plan.params.n)


class Spy:
    """A backend that does the same and notes what the client never shows: for the judge, and for the client itself
    where the client is the attacker."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.ternary: list[Any] = []
        self.encrypted: list[Any] = []
        self.masked: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def sample_ternary(self, *arguments: Any) -> Any:
        self.ternary.append(self.inner.sample_ternary(*arguments))
        return self.ternary[-1]

    def mask_and_pack(self, x: Any, *rest: Any) -> Any:
        self.encrypted.append(x.copy())
        return self.inner.mask_and_pack(x, *rest)
