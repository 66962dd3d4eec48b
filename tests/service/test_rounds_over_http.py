"""client-relu over HTTP, with real servers and clients that die, and what a server can be found to hold."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import BreakingLine, Server, wait_for

from hegpu.backend.cpu import CpuBackend
from hegpu.ct.dicom import example_slice_path, read_slice
from hegpu.ct.hounsfield import clip
from hegpu.errors import HegpuError
from hegpu.nets.family import make
from hegpu.nets.file import save_network
from hegpu.nets.plaintext import run
from hegpu.protocols.client_relu import client as protocol_client
from hegpu.protocols.client_relu.plan import plan_network
from hegpu.service.client import Task, denoise, finish
from hegpu.service.http import Connection

CLI = ("-c", "from hegpu.cli import main; main()")
NETWORK = make("redcnn", 16, 6, seed=1, name="small")  # six rounds of three groups
TASK = Task("small", "client-relu", "compact", True)


class RealServer(Server):
    """Without the fake protocol of the other tests."""

    script = CLI

    def add_models(self, folder: Path) -> None:
        save_network(NETWORK, folder / "small.safetensors")


@pytest.fixture(scope="module")
def expected():
    hu = read_slice(example_slice_path()).hu
    return hu, clip(run(NETWORK, hu))[0]


def client(server: Server, folder: Path, *options: str) -> subprocess.Popen:
    token = folder / "token"
    token.write_text(server.tokens["partner"])
    arguments = [
        "client", "denoise", "--server", server.url, "--model", "small", "--protocol", "client-relu", "--preset",
        "compact", "--accept-model-disclosure", "--token-file", str(token), "--out", str(folder / "out.dcm"), *options,
        str(example_slice_path()),
    ]  # fmt: skip
    command = [sys.executable, *CLI, *arguments]
    return subprocess.Popen(command, env={**os.environ, "HEGPU_THREADS": "1"}, stdout=subprocess.PIPE)


def answered(server: Server) -> int:
    return server.log.read_text().count("PUT /v1/sessions/{session}/rounds")


def test_a_killed_server_goes_on(tmp_path, expected) -> None:
    server = RealServer(tmp_path)
    try:
        process = client(server, tmp_path)
        wait_for(lambda: answered(server) >= 4, 60, "four groups")
        assert process.poll() is None
        server.kill()
        server.start()
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert b"bytes up" in output
        assert b"100 Mbit/s" in output
        error = read_slice(tmp_path / "out.dcm").hu - expected[1]
        assert np.abs(error).max() <= 0.5 + 0.5  # whole HU in a DICOM; compact errs by less than half of one
    finally:
        server.stop()


def test_a_killed_client_goes_on_without_finished_rounds(tmp_path, expected) -> None:
    server = RealServer(tmp_path)
    try:
        progress = tmp_path / ".out.dcm.hegpu" / "rounds" / "progress.json"
        process = client(server, tmp_path)
        wait_for(progress.exists, 60, "the first finished round")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(1)  # what was under way is answered and logged
        before = answered(server)
        process = client(server, tmp_path)
        process.communicate(timeout=120)
        assert process.returncode == 0
        plan = plan_network(NETWORK, "compact", expected[0].shape)
        assert answered(server) - before <= sum(r.groups for r in plan.rounds[1:])
        assert np.abs(read_slice(tmp_path / "out.dcm").hu - expected[1]).max() <= 1
        assert not progress.parent.parent.exists()
    finally:
        server.stop()


def test_a_broken_line_costs_nothing_but_time(tmp_path, expected) -> None:
    server = RealServer(tmp_path)
    line = BreakingLine(server.port, cuts=3, after=300_000)
    connection = Connection(f"http://127.0.0.1:{line.port}", server.tokens["partner"], None)
    try:
        got = denoise(CpuBackend(threads=1), connection, TASK, expected[0], tmp_path / "client")
        assert line.broken == 3
        assert np.sqrt(np.mean((got - expected[1]) ** 2)) < 0.1
    finally:
        connection.close()
        line.close()
        server.stop()


def test_the_server_holds_no_secret_of_the_client(tmp_path, expected, monkeypatch) -> None:
    """Every 16-byte window of every secret is looked for in the server's memory, log and files; the public mask seeds,
    which the server was sent, are found by the same search."""
    server = RealServer(tmp_path)
    drawn: list[bytes] = []

    def recording() -> bytes:
        drawn.append(os.urandom(32))
        return drawn[-1]

    monkeypatch.setattr(protocol_client, "fresh_key", recording)
    connection = Connection(server.url, server.tokens["partner"], None)
    try:
        got = denoise(CpuBackend(threads=1), connection, TASK, expected[0], tmp_path / "client")
        assert np.sqrt(np.mean((got - expected[1]) ** 2)) < 0.1
        assert len(drawn) == 18  # mask seed, noise key and secret of six rounds
        public, secret = drawn[0::3], [key for i, key in enumerate(drawn) if i % 3]
        held = memory(server.process.pid) + server.log.read_bytes()
        held += b"".join(f.read_bytes() for f in server.state.rglob("*") if f.is_file())
        assert any(seed.hex().encode() in held for seed in public), "the search finds nothing"
        for key in secret:
            for part in (key[8:16], key[16:24]):  # one of the two lies in every 16-byte window
                assert part not in held
                assert part.hex().encode() not in held
        finish(connection, TASK, expected[0], tmp_path / "client")
    finally:
        connection.close()
        server.stop()


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


def test_who_may_hold_the_model(tmp_path, expected) -> None:
    server = RealServer(tmp_path)
    try:
        for token, task in (
            ("clinic", TASK),
            ("partner", Task("small", "client-relu", "compact", False)),
        ):
            connection = Connection(server.url, server.tokens[token], None)
            with pytest.raises(HegpuError, match="model"):
                denoise(CpuBackend(threads=1), connection, task, expected[0], tmp_path / token)
            connection.close()
    finally:
        server.stop()
