"""Runs jobs: knows the networks and keeps the transformed weights of the last rounds."""

import functools
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from hegpu.backend.protocol import Backend
from hegpu.ckks.wire import Body
from hegpu.service.catalogue import Catalogue, Model
from hegpu.service.errors import ServiceError
from hegpu.service.jobs import Job, PlanJob, RoundJob

KEPT = 2  # prepared rounds; about 300 MB each for a 96-channel layer
_Key = tuple[str, str, str, int]


class Engine:
    """``timed(stage)`` is a context manager that measures a stage. Runs one job at a time: the oldest weights give their
    memory to the next ones."""

    def __init__(
        self, backend: Backend, catalogue: Catalogue, timed: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        self._backend, self._catalogue, self._timed = backend, catalogue, timed
        self._prepared: OrderedDict[_Key, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._plan = functools.lru_cache(maxsize=64)(self._make_plan)

    def holds(self, job: Job) -> bool:
        """Whether the job's weights are at hand."""
        return isinstance(job, RoundJob) and _key(job) in self._prepared

    def run(self, job: Job) -> Body:
        """Errors: those of the protocol, and 410 for a network that is no longer offered."""
        if isinstance(job, PlanJob):
            return self._plan(job)
        prepared = self._prepare(job, self._model(job.model))
        with self._timed("compute"):
            protocol = self._catalogue.protocols[job.protocol]
            return protocol.answer(self._backend, prepared, job.nonce, job.group, job.body)

    def _make_plan(self, job: PlanJob) -> bytes:
        with self._timed("plan"):
            protocol = self._catalogue.protocols[job.protocol]
            plan = protocol.plan(self._backend, self._model(job.model).net, job.preset, job.shape)
            return json.dumps(plan.to_json(), sort_keys=True).encode()

    def _prepare(self, job: RoundJob, model: Model) -> Any:
        key = _key(job)
        with self._lock:
            if key not in self._prepared:
                recycle = None
                if len(self._prepared) >= KEPT:  # before, not after: never more than KEPT in memory
                    (of, *_), old = self._prepared.popitem(last=False)
                    recycle = old if of == job.protocol else None
                    del old
                with self._timed("prepare"):
                    protocol = self._catalogue.protocols[job.protocol]
                    plan = protocol.load_plan(json.loads(job.plan))
                    self._prepared[key] = protocol.prepare(self._backend, model.net, plan, job.round, recycle)
            self._prepared.move_to_end(key)
            return self._prepared[key]

    def _model(self, digest: str) -> Model:
        if digest not in self._catalogue.by_digest:
            raise ServiceError(410, "answer", "this session's network is no longer offered", "open a new session")
        return self._catalogue.by_digest[digest]


def _key(job: RoundJob) -> _Key:
    return job.protocol, job.model, hashlib.blake2b(job.plan.encode(), digest_size=16).hexdigest(), job.round
