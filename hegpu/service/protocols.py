"""What the service asks of a protocol; everything that is not transport is behind these two interfaces."""

from collections.abc import Sequence
from typing import Any
from typing import Protocol as Interface

from hegpu.backend.protocol import Backend
from hegpu.ckks.wire import Body
from hegpu.errors import ParameterError
from hegpu.nets.description import Network


class Round(Interface):
    @property
    def groups(self) -> int:
        """Requests that make up the round; they are independent of each other."""
        ...


class Plan(Interface):
    """What both sides agree on before a slice is sent: pure data, so sizes are known before a byte is read."""

    @property
    def rounds(self) -> Sequence[Round]: ...

    def request_bytes(self, round: int, group: int) -> int:
        """Exactly."""
        ...

    def answer_bytes(self, round: int, group: int) -> int:
        """At most."""
        ...

    def to_json(self) -> dict[str, Any]: ...


class ServerProtocol(Interface):
    """``discloses_model``: the client learns the network, so its token must allow it and it must agree.
    ``keeps_answers``: an answer holds fresh randomness, so the server stores it and gives it out again; otherwise an
    answer is a function of the request and is computed again."""

    name: str
    presets: tuple[str, ...]  # the first is the default
    discloses_model: bool
    keeps_answers: bool
    disclosure: str

    def supports(self, net: Network) -> bool: ...

    def plan(self, backend: Backend, net: Network, preset: str, shape: tuple[int, int]) -> Plan:
        """Errors: any :class:`~hegpu.errors.HegpuError` that says why this network or size can not be run."""
        ...

    def load_plan(self, data: dict[str, Any]) -> Plan:
        """The inverse of ``Plan.to_json``."""
        ...

    def prepare(self, backend: Backend, net: Network, plan: Plan, round: int) -> Any:
        """What is made once a round and kept while it is served."""
        ...

    def answer(self, backend: Backend, prepared: Any, nonce: bytes, group: int, body: Body) -> Body:
        """Needs no secret. Errors: any :class:`~hegpu.errors.HegpuError` for a bad body."""
        ...


def choose_preset(protocol: ServerProtocol, preset: str | None) -> str:
    """Errors: :class:`ParameterError` that lists the presets."""
    if preset is not None and preset not in protocol.presets:
        raise ParameterError(
            f"plan: {protocol.name} has no preset {preset!r:.40}; choose one of {', '.join(protocol.presets)}"
        )
    return preset or protocol.presets[0]
