"""The one door through which all work goes: ``submit(job) -> Future``. A job is pure data, so that a cluster can stand
behind the same door."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import astuple, dataclass, field
from importlib.metadata import version
from time import perf_counter

from hegpu.ckks.wire import Body
from hegpu.service.errors import ServiceError

MAX_PASSED_OVER = 16


@dataclass(frozen=True, slots=True)
class PlanJob:
    """Agree on a plan; the result is its JSON."""

    protocol: str
    model: str  # digest
    preset: str
    shape: tuple[int, int]

    @property
    def key(self) -> str:
        """Stands for the plan, which another version of hegpu may make otherwise."""
        return json.dumps([version("hegpu"), *astuple(self)])


@dataclass(frozen=True, slots=True)
class RoundJob:
    """Answer one group of a round; the result is the answer's bytes."""

    protocol: str
    model: str  # digest
    plan: str
    round: int
    group: int
    nonce: bytes
    body: Body = field(repr=False)


Job = PlanJob | RoundJob


@dataclass
class Progress:
    """Counters since the start; ``seconds`` were spent in finished jobs."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass
class _Entry:
    job: Job
    future: "Future[Body]"
    passed_over: int = 0


class Jobs:
    """A queue and a thread for each kind of job: one for rounds, since the kernels are threaded themselves, and one for
    plans, which may take seconds and must not keep a slice waiting.

    ``prefers`` marks jobs whose weights are at hand. They go first, or clients in different rounds would have the
    weights transformed anew for every request; nobody is passed over more than ``MAX_PASSED_OVER`` times.
    """

    def __init__(self, run: Callable[[Job], Body], prefers: Callable[[Job], bool], limit: int) -> None:
        self._run, self._prefers, self._limit = run, prefers, limit
        self._waiting: list[_Entry] = []
        self._change = threading.Condition()
        self._closed = False
        self.progress = Progress()
        self._threads = [
            threading.Thread(target=self._work, args=(kind,), name=kind.__name__, daemon=True)
            for kind in (RoundJob, PlanJob)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> "Future[Body]":
        """Errors: 429 where the queue is full, 503 where the server is going down."""
        with self._change:
            self._refuse_if_full()
            entry = _Entry(job, Future())
            self._waiting.append(entry)
            self.progress.waiting += 1
            self._change.notify_all()
        return entry.future

    def check(self) -> None:
        """Refuses early what :meth:`submit` would refuse, before a body is received."""
        with self._change:
            self._refuse_if_full()

    def close(self) -> None:
        """Finishes what runs; what waits fails, and its client sends it again to the next server."""
        with self._change:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self.progress.waiting = 0
            self._change.notify_all()
        for entry in waiting:
            entry.future.set_exception(_going_down())
        for thread in self._threads:
            thread.join()

    def _refuse_if_full(self) -> None:
        if self._closed:
            raise _going_down()
        if len(self._waiting) >= self._limit:
            p = self.progress
            seconds = len(self._waiting) * p.seconds / max(1, p.done)
            raise ServiceError(
                429, "queue", f"{len(self._waiting)} jobs are waiting, the limit", "send it again later",
                retry_after=min(30, max(1, round(seconds))),
            )  # fmt: skip

    def _take(self, kind: type[Job]) -> _Entry | None:
        with self._change:
            while not (mine := [e for e in self._waiting if isinstance(e.job, kind)]):
                if self._closed:
                    return None
                self._change.wait()
            oldest = entry = mine[0]
            if oldest.passed_over < MAX_PASSED_OVER:
                entry = next((e for e in mine if self._prefers(e.job)), oldest)
            if entry is not oldest:
                oldest.passed_over += 1
            self._waiting.remove(entry)
            self.progress.waiting -= 1
            self.progress.running += 1
        return entry

    def _work(self, kind: type[Job]) -> None:
        while (entry := self._take(kind)) is not None:
            started = perf_counter()
            error: BaseException | None = None
            try:
                result = self._run(entry.job)
            except BaseException as caught:  # a worker never dies; the caller gets the error
                error = caught
            with self._change:
                self.progress.running -= 1
                self.progress.seconds += perf_counter() - started
                if error is None:
                    self.progress.done += 1
                else:
                    self.progress.failed += 1
            if error is None:
                entry.future.set_result(result)
            else:
                entry.future.set_exception(error)
            del entry  # its body, while the worker waits


def _going_down() -> ServiceError:
    return ServiceError(503, "queue", "the server is going down", "send it again later", retry_after=2)
