"""The ``client-relu`` protocol as the service runs it: many rounds, each a stream of groups of tiles."""

import functools
import json
from typing import Any

from hegpu.backend.protocol import Backend
from hegpu.ckks.wire import Body
from hegpu.nets.description import Network
from hegpu.protocols.client_relu import server
from hegpu.protocols.client_relu.plan import Plan, plan_network
from hegpu.service.protocols import Plan as AnyPlan


class ClientReluServer:
    name = "client-relu"
    presets: tuple[str, ...] = ("lossless", "compact")
    discloses_model = True
    keeps_answers = False
    disclosure = (
        "The server sees ciphertexts and the image's size. THE CLIENT LEARNS THE WHOLE NETWORK: the inputs and outputs of "
        "each layer are linear equations in its weights, and one slice has enough of them."
    )

    def supports(self, net: Network) -> bool:
        return True

    def plan(self, backend: Backend, net: Network, preset: str, shape: tuple[int, int]) -> Plan:
        return plan_network(net, preset, shape)

    def load_plan(self, data: dict[str, Any]) -> Plan:
        return _load(json.dumps(data, sort_keys=True))

    def prepare(self, backend: Backend, net: Network, plan: AnyPlan, round: int) -> server.Prepared:
        assert isinstance(plan, Plan)
        return server.prepare(backend, net, plan, round)

    def answer(self, backend: Backend, prepared: server.Prepared, nonce: bytes, group: int, body: Body) -> Body:
        return server.answer(backend, prepared, group, nonce, body)


@functools.lru_cache(maxsize=64)
def _load(text: str) -> Plan:
    return Plan.from_json(json.loads(text))
