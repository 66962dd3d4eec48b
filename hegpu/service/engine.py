"""Runs jobs: knows the networks, keeps plans on disk and the transformed weights of the last rounds in memory."""

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
from hegpu.service.store import Store

KEPT = 2  # prepared rounds; about 300 MB each for a 96-channel layer
_Key = tuple[str, str, str, int]


class Engine:
    """``timed(stage)`` is a context manager that measures a stage. Jobs may run in any number of threads."""

    def __init__(
        self, backend: Backend, catalogue: Catalogue, store: Store, timed: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        self._backend, self._catalogue, self._store, self._timed = backend, catalogue, store, timed
        self._prepared: OrderedDict[_Key, Any] = OrderedDict()
        self._lock = threading.Lock()

    def holds(self, job: Job) -> bool:
        """Whether the job's weights are at hand."""
        return isinstance(job, RoundJob) and _key(job) in self._prepared

    def run(self, job: Job) -> Body:
        """Errors: those of the protocol, and 410 for a network that is no longer offered."""
        if isinstance(job, PlanJob):
            return (self._store.plan(job.key) or self._plan(job)).encode()
        prepared = self._prepare(job, self._model(job.model))
        with self._timed("compute"):
            protocol = self._catalogue.protocols[job.protocol]
            return protocol.answer(self._backend, prepared, job.nonce, job.group, job.body)

    def _plan(self, job: PlanJob) -> str:
        with self._timed("plan"):
            protocol = self._catalogue.protocols[job.protocol]
            plan = protocol.plan(self._backend, self._model(job.model).net, job.preset, job.shape)
        text = json.dumps(plan.to_json(), sort_keys=True)
        self._store.keep_plan(job.key, text)
        return text

    def _prepare(self, job: RoundJob, model: Model) -> Any:
        """The round's weights. The oldest ones go before new ones are made: their memory is used again."""
        key = _key(job)
        with self._lock:
            if key not in self._prepared:
                if len(self._prepared) >= KEPT:
                    self._prepared.popitem(last=False)
                protocol = self._catalogue.protocols[job.protocol]
                plan = protocol.load_plan(json.loads(job.plan))
                with self._timed("prepare"):
                    self._prepared[key] = protocol.prepare(self._backend, model.net, plan, job.round)
            self._prepared.move_to_end(key)
            return self._prepared[key]

    def _model(self, digest: str) -> Model:
        if digest not in self._catalogue.by_digest:
            raise ServiceError(410, "answer", "this session's network is no longer offered", "open a new session")
        return self._catalogue.by_digest[digest]


def _key(job: RoundJob) -> _Key:
    return job.protocol, job.model, hashlib.blake2b(job.plan.encode(), digest_size=16).hexdigest(), job.round
