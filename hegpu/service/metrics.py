"""Counters for Prometheus: sums over all callers, without names of tokens or networks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("hegpu_requests", "requests", ["method", "route", "status"], registry=self._registry)
        self._bytes = Counter("hegpu_body_bytes", "bytes of bodies", ["direction"], registry=self._registry)
        self._stages = Histogram(
            "hegpu_stage_seconds", "seconds of each stage of a request", ["stage"], registry=self._registry,
            buckets=(0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )  # fmt: skip

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A value that is asked for when it is shown."""
        Gauge(f"hegpu_{name}", text, registry=self._registry).set_function(value)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self._stages.labels(stage).observe(perf_counter() - started)

    def count(self, method: str, route: str, status: int, received: int, sent: int) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._bytes.labels("in").inc(received)
        self._bytes.labels("out").inc(sent)

    def text(self) -> bytes:
        return generate_latest(self._registry)
