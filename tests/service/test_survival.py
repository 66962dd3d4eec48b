"""Nothing is lost: servers and clients that are killed, lines that break, disks that are full, sessions that expire."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_relu import GROUPS, ROUNDS, fake_client
from processes import TLS, BreakingLine, Server, start, wait_for
from test_server import encrypted, opened, put, refused

import hegpu
from hegpu.ct.dicom import example_slice_path, read_slice
from hegpu.errors import HegpuError
from hegpu.nets.plaintext import run
from hegpu.service.client import CLIENTS, Task, denoise, finish
from hegpu.service.http import Connection

RELU = Task("linear", "client-relu", None, True)


def test_a_server_killed_in_the_middle_goes_on(tmp_path, backend, hu, monkeypatch) -> None:
    """Computed answers are computed again, kept answers are given again, and what was refused stays refused."""
    monkeypatch.setitem(CLIENTS, "client-relu", fake_client)
    server = Server(tmp_path, FAKE_SECONDS="0.1")
    connection = Connection(server.url, server.tokens["partner"])
    try:
        with server.http() as http:
            session = opened(http)
            body = encrypted(backend, hu, session)
            answer = put(http, session, body).content
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(denoise, backend, connection, RELU, hu, tmp_path / "client")
            wait_for((tmp_path / "client" / "round-0").exists, what="the first round")
            server.kill()
            server.start()
            assert np.array_equal(running.result(30), hu + ROUNDS)
        with server.http() as http:
            assert put(http, session, body).content == answer
            refused(put(http, session, encrypted(backend, hu, session)), 409)
    finally:
        connection.close()
        server.stop()


def test_a_killed_client_resends_the_stored_bytes(server: Server, tmp_path) -> None:
    line = BreakingLine(server.port, cuts=1000, after=20_000)  # a session gets through, a slice does not
    image, out, state = example_slice_path(), tmp_path / "out.dcm", tmp_path / ".out.dcm.hegpu"

    def client(port: int) -> subprocess.Popen:
        return start(
            "client", "denoise", "--server", f"http://127.0.0.1:{port}", "--model", "linear", "--token-file",
            str(server.token_file("clinic")), "--out", str(out), str(image), log=tmp_path / "client.log",
        )  # fmt: skip

    before = server.log.read_text().count("POST /v1/sessions 201")
    process = client(line.port)
    wait_for(lambda: (state / "slice.ct").exists() and line.broken > 0, what="a slice under way")
    process.send_signal(signal.SIGKILL)
    process.wait()
    line.close()
    assert state.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in state.iterdir())
    stored = (state / "slice.ct").read_bytes()
    blocked = Connection(server.url, "wrong")  # a run that ends in an error leaves everything as it was
    with pytest.raises(HegpuError, match="401"):
        denoise(None, blocked, Task("linear"), read_slice(image).hu, state)
    blocked.close()
    assert (state / "slice.ct").read_bytes() == stored

    process = client(server.port)
    assert process.wait(30) == 0, (tmp_path / "client.log").read_text()
    assert server.log.read_text().count("POST /v1/sessions 201") == before + 1  # the same session
    assert not state.exists()
    shown = (tmp_path / "client.log").read_text()
    assert "bytes up" in shown and "100 Mbit/s" in shown and "1 Gbit/s" in shown
    expected = np.clip(np.rint(run(hegpu.load_model("linear"), read_slice(image).hu)), -1024, 3071)
    assert (read_slice(out).hu == expected).mean() > 0.99


def test_a_killed_client_repeats_no_finished_round(tmp_path, backend, hu) -> None:
    server = Server(tmp_path, FAKE_SECONDS="0.15")
    out, state = tmp_path / "out.dcm", tmp_path / ".out.dcm.hegpu"

    def client() -> subprocess.Popen:
        return start(
            "client", "denoise", "--server", server.url, "--model", "linear", "--protocol", "client-relu",
            "--accept-model-disclosure", "--token-file", str(server.token_file("partner")), "--out", str(out),
            str(example_slice_path()), log=tmp_path / "client.log",
        )  # fmt: skip

    try:
        process = client()
        wait_for((state / "round-0").exists, what="the first round")
        process.send_signal(signal.SIGKILL)
        process.wait()
        sent = server.log.read_text().count("PUT")
        assert client().wait(30) == 0
        assert server.log.read_text().count("PUT") - sent <= (ROUNDS - 1) * GROUPS + 2  # two were in flight
        assert out.exists() and not state.exists()
    finally:
        server.stop()


def test_a_line_that_breaks_in_the_middle_of_a_body(server: Server, backend, hu, tmp_path) -> None:
    line = BreakingLine(server.port, cuts=3, after=40_000)
    connection = Connection(f"http://127.0.0.1:{line.port}", server.tokens["clinic"])
    result = denoise(backend, connection, Task("linear"), hu, tmp_path / "client")
    connection.close()
    line.close()
    assert line.broken == 3
    assert np.abs(result - run(hegpu.load_model("linear"), hu)).max() < 0.02


def test_an_opening_whose_answer_is_lost_is_the_same_opening(server: Server, backend, hu, tmp_path) -> None:
    def sessions() -> float:
        with server.http() as http:
            return float(re.search(r"hegpu_sessions ([\d.]+)", http.get("/metrics").text)[1])

    before, logged = sessions(), server.log.read_text().count("POST /v1/sessions 201")
    line = BreakingLine(server.port, cuts=2, after=0, answers=True)
    connection = Connection(f"http://127.0.0.1:{line.port}", server.tokens["clinic"])
    denoise(backend, connection, Task("linear"), hu, tmp_path / "client")
    assert line.broken == 2
    assert server.log.read_text().count("POST /v1/sessions 201") == logged + 3
    assert sessions() == before + 1
    finish(connection, Task("linear"), hu, tmp_path / "client")
    assert sessions() == before
    connection.close()
    line.close()


@contextlib.contextmanager
def small_disk(folder: Path):
    """A file system of one MiB. Needs root; the other variant of the test does not."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"may not mount a tmpfs ({mounted.stderr.decode().strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(tmp_path, backend, hu) -> None:
    with small_disk(tmp_path / "disk"):
        server = Server(tmp_path, state=tmp_path / "disk" / "state")
        filler = tmp_path / "disk" / "filler"
        try:
            with server.http() as http:
                session = opened(http)
                body = encrypted(backend, hu, session)
                with contextlib.suppress(OSError), filler.open("wb", 0) as file:
                    while True:
                        file.write(bytes(4096))
                assert "full" in refused(put(http, session, body), 507)["error"]
                refused(
                    http.post("/v1/sessions", json={"model": "linear", "protocol": "linear", "height": 9, "width": 9}),
                    507,
                )
                blob = os.urandom(9000)
                name = hashlib.blake2b(blob, digest_size=16).hexdigest()
                refused(http.put(f"/v1/keys/{name}", content=blob), 507)
                left = [f for folder in ("answers", "keys") for f in (server.state / folder).rglob("*") if f.is_file()]
                assert not left
                assert server.alive()
                filler.unlink()
                assert put(http, session, body).status_code == 200
                assert http.put(f"/v1/keys/{name}", content=blob).status_code == 204
        finally:
            server.stop()


def test_a_file_size_limit_acts_like_a_full_disk(tmp_path, backend) -> None:
    """Needs no rights. The operator gives more room and starts the server again; the client never notices."""
    server = Server(tmp_path)
    server.stop()
    server.start(prefix=("prlimit", "--fsize=150000"))
    hu = np.zeros((128, 128))
    connection = Connection(server.url, server.tokens["clinic"], patience=2)
    try:
        with pytest.raises(HegpuError, match=r"507.*start the same command again"):
            denoise(backend, connection, Task("linear"), hu, tmp_path / "client")
        assert server.alive()
        server.stop()
        server.start()
        result = denoise(backend, connection, Task("linear"), hu, tmp_path / "client")
        assert np.abs(result - run(hegpu.load_model("linear"), hu)).max() < 0.02
        finish(connection, Task("linear"), hu, tmp_path / "client")
    finally:
        connection.close()
        server.stop()


def test_tls_and_expiry(tmp_path, backend, hu) -> None:
    server = Server(tmp_path, "--session-hours", "0.0008", tls=True)
    try:
        stranger = Connection(server.url, server.tokens["clinic"])
        with pytest.raises(HegpuError, match="--ca"):
            denoise(backend, stranger, Task("linear"), hu, tmp_path / "client")
        stranger.close()
        trusted = Connection(server.url, server.tokens["clinic"], TLS / "cert.pem")
        denoise(backend, trusted, Task("linear"), hu, tmp_path / "client")
        (answer,) = (server.state / "answers").glob("*/*")
        (session,) = (server.state / "answers").iterdir()
        wait_for(lambda: not answer.exists(), 8, "expiry")
        with server.http() as http:
            refused(http.get(f"/v1/sessions/{session.name}"), 404)
            assert "hegpu_sessions 0.0" in http.get("/metrics").text
        denoise(backend, trusted, Task("linear"), hu, tmp_path / "client")  # a new session, a new key
        trusted.close()
    finally:
        server.stop()
