"""A peer that needs nothing: it serves the line protocol with one good and one wrong operation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "peers"))

from protocol import sample, serve


def double(value, rounds, iterations):
    return {"samples": sample(lambda: value + value, rounds, iterations), "check": 0.0}


def wrong(**_):
    raise ValueError("wrong result, error 0.5")


def die(**_):
    raise SystemExit(3)


if __name__ == "__main__":
    serve({"double": double, "wrong": wrong, "die": die}, "fake 1.0")
