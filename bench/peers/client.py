"""Talking to a peer's worker, and giving its own timings to pytest-benchmark."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.peers.install import python_of

HERE = Path(__file__).parent


class PeerError(Exception):
    """The peer failed, or its result is wrong."""


class Peer:
    """A worker process of one peer."""

    def __init__(self, name: str, command: list[str] | None = None) -> None:
        self.name = name
        command = command or [str(python_of(name)), str(HERE / f"{name}_worker.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """The worker's answer, with ``samples`` in seconds per call. Errors: :class:`PeerError`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"{self.name}: the worker died in {op}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.name}: {op}: {answer['error']}")
        return answer

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout:
            self._process.stdout.close()


def peer(name: str) -> Peer:
    """The peer, or a skip that names the command which installs it."""
    if not python_of(name).exists():
        pytest.skip(f"peer {name} is missing: python -m bench.peers.install {name}")
    return Peer(name)


class Clock:
    """A timer that a peer's own samples advance: pytest-benchmark reads it before and after each call."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(benchmark: Any, clock: Clock, answer: dict[str, Any]) -> None:
    """Store a peer's samples as this benchmark's rounds."""
    samples = iter(answer["samples"])

    def step() -> None:
        clock.now += next(samples)

    benchmark._timer = clock
    benchmark.pedantic(step, rounds=len(answer["samples"]), iterations=1, warmup_rounds=0)
    benchmark.extra_info.update(system=answer["version"], check=answer["check"])
