"""Runs jobs: knows the networks, keeps plans on disk and the transformed weights of the last rounds in memory."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from hegpu.backend.protocol import Backend
from hegpu.ckks.wire import Body
from hegpu.service.catalogue import Catalogue, Model
from hegpu.service.errors import ServiceError
from hegpu.service.jobs import Job, PlanJob, RoundJob
from hegpu.service.store import Store

KEPT = 2  # prepared rounds; about 300 MB each for a 96-channel layer
_Key = tuple[str, str, str, int]


@dataclass
class _Held:
    prepared: Any
    users: int = 0


class Engine:
    """``timed(stage)`` is a context manager that measures a stage. The oldest weights give their memory to the next ones,
    but not while a job uses them: jobs may run in any number of threads."""

    def __init__(
        self, backend: Backend, catalogue: Catalogue, store: Store, timed: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        self._backend, self._catalogue, self._store, self._timed = backend, catalogue, store, timed
        self._held: OrderedDict[_Key, _Held] = OrderedDict()
        self._change = threading.Condition()

    def holds(self, job: Job) -> bool:
        """Whether the job's weights are at hand."""
        return isinstance(job, RoundJob) and _key(job) in self._held

    def run(self, job: Job) -> Body:
        """Errors: those of the protocol, and 410 for a network that is no longer offered."""
        if isinstance(job, PlanJob):
            return (self._store.plan(job.key) or self._plan(job)).encode()
        with self._lease(job, self._model(job.model)) as prepared, self._timed("compute"):
            protocol = self._catalogue.protocols[job.protocol]
            return protocol.answer(self._backend, prepared, job.nonce, job.group, job.body)

    def _plan(self, job: PlanJob) -> str:
        with self._timed("plan"):
            protocol = self._catalogue.protocols[job.protocol]
            plan = protocol.plan(self._backend, self._model(job.model).net, job.preset, job.shape)
        text = json.dumps(plan.to_json(), sort_keys=True)
        self._store.keep_plan(job.key, text)
        return text

    @contextmanager
    def _lease(self, job: RoundJob, model: Model) -> Iterator[Any]:
        """The round's weights; nobody overwrites them meanwhile. Waits where ``KEPT`` others are in use."""
        key = _key(job)
        with self._change:
            self._change.wait_for(lambda: key in self._held or len(self._held) < KEPT or self._idle())
            if key not in self._held:
                self._held[key] = _Held(self._prepare(job, model))
            self._held.move_to_end(key)
            held = self._held[key]
            held.users += 1
        try:
            yield held.prepared
        finally:
            with self._change:
                held.users -= 1
                self._change.notify_all()

    def _idle(self) -> list[_Key]:
        return [key for key, held in self._held.items() if not held.users]

    def _prepare(self, job: RoundJob, model: Model) -> Any:
        recycle = None
        if len(self._held) >= KEPT:  # before, not after: never more than KEPT in memory
            oldest = self._idle()[0]
            old = self._held.pop(oldest).prepared
            recycle = old if oldest[0] == job.protocol else None
            del old
        protocol = self._catalogue.protocols[job.protocol]
        with self._timed("prepare"):
            return protocol.prepare(
                self._backend, model.net, protocol.load_plan(json.loads(job.plan)), job.round, recycle
            )

    def _model(self, digest: str) -> Model:
        if digest not in self._catalogue.by_digest:
            raise ServiceError(410, "answer", "this session's network is no longer offered", "open a new session")
        return self._catalogue.by_digest[digest]


def _key(job: RoundJob) -> _Key:
    return job.protocol, job.model, hashlib.blake2b(job.plan.encode(), digest_size=16).hexdigest(), job.round
