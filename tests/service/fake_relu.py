"""A protocol of many rounds with no cryptography, whose pace a test sets, in place of ``client-relu``.

Run as a script it is the command line with this protocol added, for servers and clients that a test kills.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from hegpu.errors import FormatError
from hegpu.service.client import Link

ROUNDS, GROUPS, SIZE = 3, 4, 1 << 16
MAGIC = b"no ciphertext at"


@dataclass(frozen=True)
class FakeRound:
    groups: int = GROUPS


@dataclass(frozen=True)
class FakePlan:
    height: int
    width: int
    rounds: tuple[FakeRound, ...] = (FakeRound(),) * ROUNDS

    def request_bytes(self, round: int, group: int) -> int:
        return SIZE

    def answer_bytes(self, round: int, group: int) -> int:
        return SIZE

    def to_json(self) -> dict[str, Any]:
        return {"height": self.height, "width": self.width}


def place(round: int, group: int) -> bytes:
    return MAGIC + bytes([round, group])


def computed(body: bytes) -> bytes:
    return (np.frombuffer(body, np.uint8) + 1).astype(np.uint8).tobytes()


class FakeServer:
    name = "client-relu"
    presets = ("lossless", "compact")
    discloses_model = True
    keeps_answers = False
    disclosure = "By this protocol the client learns the whole network."

    def supports(self, net) -> bool:
        return True

    def plan(self, backend, net, preset, shape) -> FakePlan:
        return FakePlan(*shape)

    def load_plan(self, data) -> FakePlan:
        return FakePlan(**data)

    def prepare(self, backend, net, plan, round) -> int:
        return round

    def answer(self, backend, prepared, nonce, group, body) -> bytes:
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        if not bytes(body).startswith(place(prepared, group)):
            raise FormatError("answer: the body is no request of this group; encrypt it again")
        return computed(body)


def fake_client(link: Link, hu):
    """Every group is random bytes; finished rounds are kept, others start over with new bytes and ids."""
    plan = FakePlan(**link.session.plan)
    for round in range(ROUNDS):
        if link.state.read(f"round-{round}") is not None:
            continue

        def one(group: int, round: int = round) -> None:
            body = place(round, group) + os.urandom(SIZE - 18)
            answer = link.exchange(round, group, os.urandom(16).hex(), body, plan.answer_bytes(round, group))
            assert answer == computed(body)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, range(GROUPS)))
        link.state.write(f"round-{round}", b"done")
    return hu + ROUNDS


def install() -> None:
    from hegpu.service import client, service

    service.PROTOCOLS["client-relu"] = FakeServer()
    client.CLIENTS["client-relu"] = fake_client


if __name__ == "__main__":
    install()
    from hegpu.cli import main

    main()
