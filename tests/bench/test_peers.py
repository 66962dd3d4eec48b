"""The worker protocol with a fake peer, the stored samples, and peers that are missing."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers import client, install
from bench.peers.client import Clock, Peer, PeerError, record


@pytest.fixture
def fake() -> Iterator[Peer]:
    p = Peer("fake", [sys.executable, str(Path(__file__).parent / "fake_worker.py")])
    yield p
    p.close()


def test_samples_and_version_come_back(fake: Peer) -> None:
    answer = fake.call("double", value=2, rounds=4, iterations=3)
    assert len(answer["samples"]) == 4 and min(answer["samples"]) > 0
    assert answer["version"] == "fake 1.0" and answer["check"] == 0.0


def test_a_wrong_result_is_an_error_and_the_worker_lives_on(fake: Peer) -> None:
    with pytest.raises(PeerError, match=r"fake: wrong: ValueError: wrong result, error 0\.5"):
        fake.call("wrong", rounds=1, iterations=1)
    with pytest.raises(PeerError, match="KeyError"):
        fake.call("unknown", rounds=1, iterations=1)
    assert len(fake.call("double", value=1, rounds=1, iterations=1)["samples"]) == 1


def test_a_dead_worker_is_an_error(fake: Peer) -> None:
    with pytest.raises(PeerError, match="the worker died in die"):
        fake.call("die")


@pytest.mark.benchmark(min_rounds=1)
def test_the_peers_own_samples_are_stored(benchmark) -> None:  # type: ignore[no-untyped-def]
    record(benchmark, Clock(), {"samples": [0.25, 0.5, 1.0], "check": 0.0, "version": "fake 1.0"})
    if benchmark.stats is not None:  # None under --benchmark-disable
        assert benchmark.stats.stats.data == pytest.approx([0.25, 0.5, 1.0])
    assert benchmark.extra_info["system"] == "fake 1.0"


def test_a_missing_peer_is_a_skip_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client, "python_of", lambda name: tmp_path / name)
    with pytest.raises(
        pytest.skip.Exception, match=r"peer openfhe is missing: python -m bench\.peers\.install openfhe"
    ):
        client.peer("openfhe")


def test_a_missing_interpreter_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "python_of", lambda name: tmp_path / name / "bin" / "python")
    monkeypatch.setattr(install, "interpreter", lambda version: None)
    assert install.install("openfhe") == "openfhe needs CPython 3.10, which is not on the PATH"
    assert not (tmp_path / "openfhe").exists()
