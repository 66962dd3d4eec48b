"""client-relu over HTTP with a shipped network: servers and clients that die, lines that break, disks that are full, many
clients at once, and what a server can be found to hold."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from processes import BreakingLine, Server, wait_for

from hegpu.backend.cpu import CpuBackend
from hegpu.ct.dicom import example_slice_path, read_slice
from hegpu.ct.hounsfield import clip
from hegpu.errors import HegpuError
from hegpu.nets.family import make
from hegpu.nets.file import load_network, save_network
from hegpu.nets.plaintext import run
from hegpu.nets.torch_net import round_weights
from hegpu.protocols.client_relu import client as protocol_client
from hegpu.protocols.client_relu.plan import Plan, plan_network
from hegpu.service.client import Task, denoise, finish
from hegpu.service.http import Connection

CLI = ("-c", "from hegpu.cli import main; main()")
NETWORK = load_network("redcnn-16")  # ten rounds of three groups
TASK = Task("redcnn-16", "client-relu", "compact", True)
SMALL = round_weights(make("redcnn", 16, 4, seed=1, name="small"), 10)
WIDE = round_weights(make("redcnn", 64, 4, seed=1, name="wide"), 10)


class RealServer(Server):
    """Without the fake protocol of the other tests."""

    script = CLI

    def add_models(self, folder: Path) -> None:
        for net in (SMALL, WIDE):
            save_network(net, folder / f"{net.name}.safetensors")


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[RealServer]:
    server = RealServer(folder, *options)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def connected(server: Server, token: str = "partner", **options) -> Iterator[Connection]:
    connection = Connection(server.url, server.tokens[token], **options)
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture(scope="module")
def expected():
    hu = read_slice(example_slice_path()).hu
    return hu, clip(run(NETWORK, hu))[0]


def client(server: Server, folder: Path, *prefix: str) -> subprocess.Popen:
    """The command line; ``prefix`` may restrict it."""
    token = folder / "token"
    token.write_text(server.tokens["partner"])
    command = [
        *prefix, sys.executable, *CLI, "client", "denoise", "--server", server.url, "--model", TASK.model, "--protocol",
        TASK.protocol, "--preset", TASK.preset, "--accept-model-disclosure", "--token-file", str(token), "--out",
        str(folder / "out.dcm"), str(example_slice_path()),
    ]  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env={**os.environ, "HEGPU_THREADS": "1"}, stdout=pipe, stderr=pipe)


def finished(process: subprocess.Popen, folder: Path, expected) -> str:
    """What the client printed, when it has written the right image and left nothing behind."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    # Whole HU in a DICOM; compact errs by less than half of one.
    assert np.abs(read_slice(folder / "out.dcm").hu - expected[1]).max() <= 0.5 + 0.5
    assert not (folder / ".out.dcm.hegpu").exists()
    return output.decode()


def answered(server: Server) -> int:
    return len(re.findall(r"PUT /v1/sessions/{session}/rounds\S* 200", server.log.read_text()))


def groups_from(first: int) -> int:
    plan = plan_network(NETWORK, TASK.preset, (128, 128))
    return sum(r.groups for r in plan.rounds[first:])


def test_a_killed_server_goes_on(tmp_path, expected) -> None:
    with serving(tmp_path) as server:
        process = client(server, tmp_path)
        wait_for(lambda: answered(server) >= 4, 60, "four groups")
        assert process.poll() is None
        server.kill()
        server.start()
        output = finished(process, tmp_path, expected)
        assert "bytes up" in output
        assert "100 Mbit/s" in output
        assert answered(server) <= groups_from(0) + 2  # what was under way is sent again, nothing else
        with server.http() as http:
            assert 'hegpu_stage_seconds_count{stage="plan"}' not in http.get("/metrics").text
        assert server.log.read_text().count("POST /v1/sessions 201") == 1


def test_a_plan_survives_its_server(tmp_path, expected) -> None:
    asked = {
        "model": "redcnn-16",
        "protocol": "client-relu",
        "height": 64,
        "width": 96,
        "accept_model_disclosure": True,
    }
    with serving(tmp_path) as server:
        plans = []
        for restart in (False, True):
            if restart:
                server.kill()
                server.start()
            with server.http("partner") as http:
                plans.append(http.post("/v1/sessions", json=asked).json()["plan"])
                made = 'hegpu_stage_seconds_count{stage="plan"}' in http.get("/metrics").text
                assert made is not restart
        assert plans[0] == plans[1]


def test_a_killed_client_goes_on_without_finished_rounds(tmp_path, expected) -> None:
    with serving(tmp_path) as server:
        progress = tmp_path / ".out.dcm.hegpu" / "rounds" / "progress.json"
        process = client(server, tmp_path)
        wait_for(progress.exists, 60, "the first finished round")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "out.dcm").exists()
        time.sleep(1)  # what was under way is answered and logged
        before = answered(server)
        finished(client(server, tmp_path), tmp_path, expected)
        assert answered(server) - before <= groups_from(1)
        assert server.log.read_text().count("POST /v1/sessions 201") == 1


def test_a_result_that_could_not_be_written_is_not_lost(tmp_path, expected) -> None:
    """All rounds are kept until the output has its name: only the last one is repeated."""
    out = tmp_path / "out.dcm"
    with serving(tmp_path) as server:
        (out / "in the way").mkdir(parents=True)
        process = client(server, tmp_path)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert b"out.dcm" in errors
        (out / "in the way").rmdir()
        out.rmdir()
        before = answered(server)
        finished(client(server, tmp_path), tmp_path, expected)
        assert answered(server) - before == groups_from(len(NETWORK.layers) - 1)


@pytest.mark.parametrize("answers", [False, True])
def test_a_line_cut_in_the_middle_of_a_body_costs_nothing_but_time(tmp_path, expected, answers) -> None:
    with serving(tmp_path) as server:
        line = BreakingLine(server.port, cuts=3, after=300_000, answers=answers)
        connection = Connection(f"http://127.0.0.1:{line.port}", server.tokens["partner"])
        try:
            got = denoise(CpuBackend(threads=1), connection, TASK, expected[0], tmp_path / "client")
            assert line.broken == 3
            assert np.sqrt(np.mean((got - expected[1]) ** 2)) < 0.1
        finally:
            connection.close()
            line.close()


def test_a_full_disk_of_the_server(tmp_path, expected) -> None:
    """The first rounds are answered. The operator gives more room and starts the server again."""
    with serving(tmp_path) as server:
        server.stop()
        server.start(prefix=("prlimit", "--fsize=150000"))
        with (
            connected(server, patience=2) as connection,
            pytest.raises(HegpuError, match=r"507.*full.*start the same command again"),
        ):
            denoise(CpuBackend(threads=1), connection, TASK, expected[0], tmp_path / "client")
        before = answered(server)
        assert 3 <= before < groups_from(0)
        server.stop()
        server.start()
        with connected(server) as connection:
            got = denoise(CpuBackend(threads=1), connection, TASK, expected[0], tmp_path / "client")
        assert np.sqrt(np.mean((got - expected[1]) ** 2)) < 0.1
        assert answered(server) - before <= groups_from(1)


def test_a_full_disk_of_the_client(tmp_path, expected) -> None:
    with serving(tmp_path) as server:
        process = client(server, tmp_path, "prlimit", "--fsize=500000")  # a session fits, a round does not
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert b"no room" in errors
        assert b"start the same command again" in errors
        assert not (tmp_path / "out.dcm").exists()
        finished(client(server, tmp_path), tmp_path, expected)


def test_two_clients_and_eight_in_a_queue(tmp_path, expected) -> None:
    """Each with a slice of its own; few jobs and bodies fit, so that some clients are told to come again."""
    task = Task("small", "client-relu", "lossless", True)
    slices = [expected[0][10 * i :, 8 * i :][:40, :48] for i in range(8)]
    with serving(tmp_path, "--max-queue", "3", "--body-memory-mib", "4") as server:

        def one(number: int) -> np.ndarray:
            hu, state = slices[number], tmp_path / f"client-{number}"
            with connected(server) as connection:
                result = denoise(CpuBackend(threads=1), connection, task, hu, state)
                finish(connection, task, hu, state)
            return result

        for clients in (2, 8):
            with ThreadPoolExecutor(clients) as pool:
                results = list(pool.map(one, range(clients)))
        assert all(np.sqrt(np.mean((r - run(SMALL, s)) ** 2)) < 1e-3 for r, s in zip(results, slices, strict=True))
        assert " 429 " in server.log.read_text()


def test_the_server_holds_no_secret_of_the_client(tmp_path, expected, monkeypatch) -> None:
    """Every 16-byte window of every secret is looked for in the server's memory, log and files; the public mask seeds,
    which the server was sent, are found by the same search."""
    drawn: list[bytes] = []

    def recording() -> bytes:
        drawn.append(os.urandom(32))
        return drawn[-1]

    monkeypatch.setattr(protocol_client, "fresh_key", recording)
    with serving(tmp_path) as server, connected(server) as connection:
        got = denoise(CpuBackend(threads=1), connection, TASK, expected[0], tmp_path / "client")
        assert np.sqrt(np.mean((got - expected[1]) ** 2)) < 0.1
        assert len(drawn) == 3 * len(NETWORK.layers)  # mask seed, noise key and secret of each round
        public, secret = drawn[0::3], [key for i, key in enumerate(drawn) if i % 3]
        held = memory(server.process.pid) + server.log.read_bytes()
        held += b"".join(f.read_bytes() for f in server.state.rglob("*") if f.is_file())
        assert found([seed.hex().encode() for seed in public], held), "the search finds nothing"
        parts = [part for key in secret for part in (key[8:16], key[16:24])]  # one of the two in every 16 bytes
        assert not found(parts + [part.hex().encode() for part in parts], held)
        finish(connection, TASK, expected[0], tmp_path / "client")


def found(needles: list[bytes], held: bytes) -> list[bytes]:
    """Those that occur, in one pass for all: first by two bytes, then whole."""
    table = np.zeros(1 << 16, bool)
    table[[int.from_bytes(needle[:2], "little") for needle in needles]] = True
    places = []
    for offset in (0, 1):
        pairs = np.frombuffer(held, "<u2", (len(held) - offset) // 2, offset)
        places.append(2 * np.flatnonzero(table[pairs]) + offset)
    at = np.concatenate(places)
    at = at[at <= len(held) - 8]
    data, starts = np.frombuffer(held, np.uint8), [np.frombuffer(needle[:8], "<u8")[0] for needle in needles]
    words = np.zeros(len(at), np.uint64)
    for byte in range(8):
        words |= data[at + byte].astype(np.uint64) << np.uint64(8 * byte)
    hits = at[np.isin(words, starts)].tolist()
    return [needle for needle in needles if any(held[i : i + len(needle)] == needle for i in hits)]


def memory(pid: int) -> bytes:
    """What a process holds in writable memory."""
    parts = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, access = line.split()[:2]
            if "w" not in access or "[v" in line:
                continue
            first, last = (int(x, 16) for x in span.split("-"))
            mem.seek(first)
            try:
                parts.append(mem.read(last - first))
            except OSError:
                continue
    return b"".join(parts)


def held_bytes(pid: int, what: str) -> int:
    """``VmRSS``: now; ``VmHWM``: at most since the peak was reset."""
    return 1024 * int(re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def test_eight_clients_of_wide_requests_do_not_fill_the_memory(tmp_path) -> None:
    """Sixteen bodies of 13 MB at once, all but their last byte: two are let in, the others are sent back by their heads."""
    limit = 60 << 20
    asked = {"model": "wide", "protocol": "client-relu", "height": 256, "width": 256, "accept_model_disclosure": True}
    with serving(tmp_path, "--body-memory-mib", str(limit >> 20)) as server, server.http("partner") as http:
        sessions = [http.post("/v1/sessions", json=asked).json() for _ in range(8)]
        plan = Plan.from_json(sessions[0]["plan"])
        size, answer = plan.request_bytes(1, 0), plan.answer_bytes(1, 0)
        fitting = limit // (size + answer)
        assert fitting == 2
        assert 16 * size > 3 * limit
        body, pid = os.urandom(size), server.process.pid
        before = held_bytes(pid, "VmRSS")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
        lines = []
        for number in range(16):
            line = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            path = f"/v1/sessions/{sessions[number // 2]['session']}/rounds/1/groups/0/{os.urandom(8).hex()}"
            head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.tokens['partner']}\r\n"
            line.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
            with suppress(ConnectionError):  # sent back
                line.sendall(memoryview(body)[:-1])
            lines.append(line)
        gauge = re.search(r"hegpu_body_memory_bytes ([\d.e+]+)", http.get("/metrics").text)
        assert float(gauge[1]) == fitting * (size + answer)
        for line in lines[fitting:]:
            told = line.recv(1 << 12).lower()
            assert told.startswith(b"http/1.1 429")
            assert b"retry-after: 1" in told
        assert held_bytes(pid, "VmHWM") - before < limit
        for line in lines[:fitting]:
            line.sendall(body[-1:])
            assert line.recv(1 << 12).startswith(b"HTTP/1.1 400")  # noise is no ciphertext
        wait_for(lambda: "hegpu_body_memory_bytes 0.0" in http.get("/metrics").text, 5, "the memory to be free")
        for line in lines:
            line.close()


def test_who_may_hold_the_model(tmp_path, expected) -> None:
    silent = Task(TASK.model, TASK.protocol, TASK.preset, False)
    with serving(tmp_path) as server:
        for token, task in (("clinic", TASK), ("partner", silent)):
            with connected(server, token) as connection, pytest.raises(HegpuError, match="model"):
                denoise(CpuBackend(threads=1), connection, task, expected[0], tmp_path / token)
