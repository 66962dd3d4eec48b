"""The parts of a running server, put together once and handed to the routes."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from hegpu.backend.protocol import Backend
from hegpu.service.bodies import Room
from hegpu.service.catalogue import Catalogue
from hegpu.service.client_relu import ClientReluServer
from hegpu.service.engine import Engine
from hegpu.service.jobs import Jobs
from hegpu.service.key_store import KeyStore
from hegpu.service.limits import Limits
from hegpu.service.linear import LinearServer
from hegpu.service.metrics import Metrics
from hegpu.service.protocols import Plan, ServerProtocol
from hegpu.service.store import Session, Store
from hegpu.service.tokens import Caller, Tokens

PROTOCOLS: Mapping[str, ServerProtocol] = {"linear": LinearServer(), "client-relu": ClientReluServer()}
NOBODY = Caller("nobody")  # every caller of a server without tokens


class Service:
    """``tokens`` None: everyone is :data:`NOBODY`."""

    def __init__(
        self, backend: Backend, catalogue: Catalogue, tokens: Tokens | None, state: Path, limits: Limits
    ) -> None:
        self.catalogue, self.tokens, self.limits = catalogue, tokens, limits
        self.metrics = Metrics()
        self.store = Store(state)
        self.keys = KeyStore(self.store)
        self.memory = Room("the memory for bodies", limits.body_memory)
        self._in_flight: dict[str, Room] = {}
        engine = Engine(backend, catalogue, self.store, self.metrics.timed)
        self.jobs = Jobs(engine.run, engine.holds, limits.queue)
        self.plan_from = functools.lru_cache(maxsize=256)(self._plan_from)
        progress = self.jobs.progress
        for name in ("waiting", "running", "done", "failed"):
            self.metrics.gauge(f"jobs_{name}", f"jobs {name}", functools.partial(getattr, progress, name))
        self.metrics.gauge("sessions", "open sessions", self.store.open_sessions)
        self.metrics.gauge("body_memory_bytes", "memory reserved for bodies", lambda: self.memory.used)

    def in_flight(self, caller: Caller) -> Room:
        """How many bodies a token may have under way."""
        return self._in_flight.setdefault(caller.name, Room("this token's share of requests", self.limits.requests))

    def plan_of(self, session: Session) -> Plan:
        return self.plan_from(session.protocol, session.plan)

    def _plan_from(self, protocol: str, text: str) -> Plan:
        return self.catalogue.protocols[protocol].load_plan(json.loads(text))

    def close(self) -> None:
        self.jobs.close()
        self.store.close()
