"""The line protocol of a peer's worker: one JSON request a line, one JSON answer a line. Standard library only."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def sample(call: Callable[[], Any], rounds: int, iterations: int) -> list[float]:
    """Seconds per call, ``rounds`` samples of ``iterations`` calls after two warm ones."""
    call()
    call()
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(iterations):
            call()
        samples.append((time.perf_counter() - start) / iterations)
    return samples


def serve(operations: dict[str, Callable[..., dict[str, Any]]], version: str) -> None:
    """Answer requests until the input ends. An operation checks its result before it times anything."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"version": version, **operations[request.pop("op")](**request)}
        except Exception as error:  # the other side reports it as this peer's failure
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
