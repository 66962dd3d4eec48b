"""Tokens, the queue, and what the server refuses to start with."""

import contextlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from hegpu.errors import FormatError, ModelError, ParameterError
from hegpu.service.catalogue import Catalogue, Model, load_catalogue
from hegpu.service.engine import KEPT, Engine
from hegpu.service.errors import ServiceError, as_service_error
from hegpu.service.jobs import MAX_PASSED_OVER, Jobs, PlanJob, RoundJob
from hegpu.service.service import PROTOCOLS
from hegpu.service.tokens import Caller, Tokens, make_token


def test_tokens(tmp_path) -> None:
    path = tmp_path / "tokens"
    one, two = make_token("one", path, False), make_token("two", path, True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert one not in path.read_text()
    path.write_text("# hospitals\n\n" + path.read_text())
    tokens = Tokens.read(path)
    assert tokens.find(one) == Caller("one", False)
    assert tokens.find(two) == Caller("two", True)
    for wrong in ("", one[:-1], one + "x", "\udcff".encode("utf-8", "surrogatepass").decode("latin-1")):
        assert tokens.find(wrong) is None
    with pytest.raises(ParameterError, match="already"):
        make_token("one", path, False)
    for name in ("a b", "", "../x", "-", "x" * 65):
        with pytest.raises(ParameterError, match="letters"):
            make_token(name, path, False)


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "name\n", "name 123\n", f"n {'0' * 64} other\n", f"n {'0' * 64}\nn {'1' * 64}\n", "\udc80"],
)
def test_damaged_token_files(tmp_path, text) -> None:
    (tmp_path / "tokens").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FormatError):
        Tokens.read(tmp_path / "tokens")


def job(round: int) -> RoundJob:
    return RoundJob("p", "m", "{}", round, 0, b"", b"")


def test_the_queue_keeps_to_the_weights_at_hand_but_nobody_starves() -> None:
    started, go, done = threading.Event(), threading.Event(), []

    def work(j: RoundJob) -> bytes:
        started.set()
        go.wait(10)
        done.append(j.round)
        return b""

    jobs = Jobs(work, lambda j: j.round == 1, limit=64)
    first = jobs.submit(job(0))
    started.wait(10)
    futures = [jobs.submit(job(2)), *(jobs.submit(job(1)) for _ in range(MAX_PASSED_OVER + 4))]
    assert (jobs.progress.waiting, jobs.progress.running) == (MAX_PASSED_OVER + 5, 1)
    go.set()
    wait([first, *futures], 10)
    assert done == [0, *[1] * MAX_PASSED_OVER, 2, *[1] * 4]
    assert (jobs.progress.waiting, jobs.progress.running, jobs.progress.done) == (0, 0, MAX_PASSED_OVER + 6)
    jobs.close()


def test_a_full_queue_a_failing_job_and_the_end() -> None:
    started, go = threading.Event(), threading.Event()

    def work(j: RoundJob) -> bytes:
        started.set()
        go.wait(10)
        if j.round == 7:
            raise MemoryError
        return b"done"

    jobs = Jobs(work, lambda j: False, limit=2)
    failing = jobs.submit(job(7))
    started.wait(10)
    good, late = jobs.submit(job(1)), jobs.submit(job(2))
    for refuse in (jobs.check, lambda: jobs.submit(job(3))):
        with pytest.raises(ServiceError) as full:
            refuse()
        assert full.value.status == 429
        assert 1 <= int(full.value.headers["Retry-After"]) <= 30
    go.set()
    assert isinstance(failing.exception(10), MemoryError)
    assert good.result(10) == late.result(10) == b"done"
    assert jobs.progress.failed == 1
    jobs.close()
    with pytest.raises(ServiceError, match="going down"):
        jobs.submit(job(1))


def test_a_plan_keeps_no_slice_waiting() -> None:
    go = threading.Event()

    def work(j: PlanJob | RoundJob) -> bytes:
        if isinstance(j, PlanJob):
            go.wait(10)
        return b"done"

    jobs = Jobs(work, lambda j: False, limit=64)
    plan = jobs.submit(PlanJob("p", "m", "lossless", (512, 512)))
    assert jobs.submit(job(1)).result(10) == b"done"
    assert not plan.done()
    go.set()
    assert plan.result(10) == b"done"
    jobs.close()


class Weights:
    """A protocol that counts the rounds it prepares."""

    name = "p"

    def __init__(self) -> None:
        self.prepared = 0

    def load_plan(self, data):
        return data

    def prepare(self, backend, net, plan, round) -> int:
        self.prepared += 1
        return round

    def answer(self, backend, prepared, nonce, group, body) -> bytes:
        time.sleep(0.0005)
        return bytes([prepared])


def test_many_threads_in_more_rounds_than_are_kept() -> None:
    weights = Weights()
    catalogue = Catalogue([Model("m", "m", None, ("p",))], {"p": weights})
    engine = Engine(None, catalogue, None, lambda stage: contextlib.nullcontext())
    rounds = KEPT + 2
    with ThreadPoolExecutor(rounds) as pool:
        wanted = [r for _ in range(50) for r in range(rounds)]
        got = list(pool.map(lambda r: engine.run(job(r)), wanted))
        assert got == [bytes([r]) for r in wanted]
        before = weights.prepared
        assert [engine.run(job(r)) for _ in range(3) for r in (0, 1)] == [bytes([r]) for _ in range(3) for r in (0, 1)]
    assert weights.prepared - before <= KEPT
    assert len([r for r in range(rounds) if engine.holds(job(r))]) == KEPT


def test_foreign_errors_tell_only_their_kind() -> None:
    assert "0x5ec3e7" not in str(as_service_error(ValueError("0x5ec3e7")).body())
    assert as_service_error(OSError(28, "No space left", "/var/x")).status == 507
    assert as_service_error(FormatError("load: it is damaged; get it again")).body() == {
        "error": "it is damaged", "operation": "load", "what_to_do": "get it again"
    }  # fmt: skip


def test_models_that_cannot_be_offered(tmp_path) -> None:
    with pytest.raises(ModelError, match="no folder"):
        load_catalogue(tmp_path / "nothing", False, PROTOCOLS)
    with pytest.raises(ModelError, match="--shipped"):
        load_catalogue(tmp_path, False, PROTOCOLS)
    (tmp_path / "linear.safetensors").write_bytes(b"no network")
    with pytest.raises(ModelError, match="rename"):
        load_catalogue(tmp_path, True, PROTOCOLS)
    with pytest.raises(ModelError, match="repair"):
        load_catalogue(tmp_path, False, PROTOCOLS)
    (tmp_path / "linear.safetensors").rename(tmp_path / "a b.safetensors")
    with pytest.raises(ModelError, match="letters"):
        load_catalogue(tmp_path, False, PROTOCOLS)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "--insecure-no-token"),
        (["--insecure-no-token", "--host", "0.0.0.0"], "loopback"),
        (["--tls-cert", "x"], "both"),
    ],
)
def test_servers_that_do_not_start(tmp_path, options, text) -> None:
    command = [sys.executable, "-c", "from hegpu.cli import main; main()", "serve", "--models", ".", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "hegpu-state").exists()
