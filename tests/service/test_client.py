"""The client believes nothing: sizes, plans, texts and answers of a server are checked before they are used."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from test_server import encrypted

from hegpu.ckks.params import preset
from hegpu.errors import FormatError, HegpuError, KeyMismatchError, ParameterError
from hegpu.protocols.linear import MasterKey, denoise_slice
from hegpu.protocols.messages import dump_result, load_slice
from hegpu.ring.random import fresh_key
from hegpu.service.client import Task, denoise
from hegpu.service.client_state import ClientSession, ClientState
from hegpu.service.http import MAX_JSON, Connection, Refused, Traffic, clean
from hegpu.service.linear import LinearServer


class Liar:
    """A server whose answers a test writes: (method, path) -> (status, headers, body), in turn if there are several."""

    def __init__(self) -> None:
        self.answers: dict[str, list] = {}
        self.bodies: list[tuple[str, bytes]] = []
        liar = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                liar.bodies.append((self.path, body))
                waiting = liar.answers[self.command]
                status, headers, answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_DELETE = do

            def log_message(self, *_) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # the client hangs up on lies
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.connection = Connection(f"http://127.0.0.1:{self._server.server_port}", "t" * 43, patience=5)

    def close(self) -> None:
        self.connection.close()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def liar():
    it = Liar()
    yield it
    it.close()


@pytest.fixture
def session(backend, hu):
    """What an honest server would answer."""
    from hegpu.nets.file import load_network

    plan = LinearServer().plan(backend, load_network("linear"), "linear", hu.shape)
    return {"session": "ab" * 16, "nonce": "cd" * 16, "protocol": "linear", "plan": plan.to_json()}


def created(session: dict) -> list:
    return [(201, {}, json.dumps(session).encode())]


@pytest.mark.parametrize(
    "change",
    [
        {"session": "../../etc"}, {"session": "AB" * 16}, {"nonce": "cd"}, {"protocol": "client-relu"}, {"plan": []},
        {"plan": {}}, {"nonce": None}, {"session": None},
    ],
)  # fmt: skip
def test_sessions_that_are_none(liar, backend, hu, session, tmp_path, change) -> None:
    liar.answers["POST"] = created({**session, **change})
    with pytest.raises(FormatError):
        denoise(backend, liar.connection, Task("linear"), hu, tmp_path / "state")
    assert len(liar.bodies) == 1  # no ciphertext was sent


@pytest.mark.parametrize(
    "change",
    [
        {"preset": "insecure_test"}, {"height": 64}, {"halo": 21}, {"halo": -1}, {"halo": 6.0}, {"answer_bytes": 1 << 40},
        {"request_bytes": 1}, {"request_bytes": 1 << 40, "answer_bytes": 1 << 40}, {"width": True}, {"more": 1},
    ],
)  # fmt: skip
def test_plans_that_are_not_executed(liar, backend, hu, session, tmp_path, change) -> None:
    liar.answers["POST"] = created({**session, "plan": {**session["plan"], **change}})
    with pytest.raises(FormatError):
        denoise(backend, liar.connection, Task("linear"), hu, tmp_path / "state")
    assert len(liar.bodies) == 1


def answer_to(backend, body: bytes) -> bytes:
    return dump_result(backend, denoise_slice(backend, load_slice(backend, body), np.eye(1), 0.0)[0])


def test_answers_that_are_not_decrypted(liar, backend, hu, session, tmp_path) -> None:
    liar.answers["POST"] = created(session)
    other = answer_to(backend, encrypted(backend, hu, session))  # of another slice
    for answer in (b"", b"x" * 100, other, bytes(session["plan"]["answer_bytes"] + 1)):
        liar.answers["PUT"] = [(200, {}, answer)]
        liar.answers["GET"] = [(200, {}, b"{}")]
        with pytest.raises(HegpuError):
            denoise(backend, liar.connection, Task("linear"), hu, tmp_path / "state")
    sent = {body for path, body in liar.bodies if "rounds" in path}
    assert len(sent) == 1  # every run resent the stored bytes


def test_a_repetition_is_the_same_request(liar, backend, hu, session, tmp_path) -> None:
    liar.answers["POST"] = created(session)
    slow = (429, {"Retry-After": "0"}, b"")
    liar.answers["PUT"] = [slow, (503, {}, b""), (0, {}, b""), (408, {}, b""), (400, {}, b"")]
    with pytest.raises(Refused, match="400"):
        denoise(backend, liar.connection, Task("linear"), hu, tmp_path / "state")
    puts = [entry for entry in liar.bodies if "rounds" in entry[0]]
    assert len(puts) == 5
    assert len(set(puts)) == 1  # path, and so id, and bytes


def test_a_new_session_gets_a_new_encryption_under_a_new_key(liar, backend, hu, session, tmp_path) -> None:
    """A session the server has forgotten: nothing of the old slice meets the new nonce."""
    liar.answers["POST"] = created(session)
    liar.answers["PUT"] = [(404, {}, b'{"error": "expired", "what_to_do": "open a new one"}')]
    for nonce in ("cd" * 16, "ef" * 16):
        liar.answers["POST"] = created({**session, "nonce": nonce})
        with pytest.raises(HegpuError, match="opens a new session"):
            denoise(backend, liar.connection, Task("linear"), hu, tmp_path / "state")
    one, two = (load_slice(backend, body) for path, body in liar.bodies if "rounds" in path)
    assert one.nonce != two.nonce
    assert one.seed != two.seed
    assert one.fingerprint != two.fingerprint


def test_what_a_server_writes_is_shown_harmlessly(liar) -> None:
    liar.answers["GET"] = [(400, {}, json.dumps({"error": "\x1b[2J\nroot#", "what_to_do": "x" * 9999}).encode())]
    with pytest.raises(Refused) as caught:
        liar.connection.json("GET", "/v1/models")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    for body in (b"\xff\x00<html>", b"[1]", b"", b'{"error": null, "what_to_do": {}}', b"[" * 60000):
        liar.answers["GET"] = [(404, {}, body)]
        with pytest.raises(Refused):
            liar.connection.json("GET", "/")
    for status, body in ((200, b"no json"), (200, b"[]"), (200, bytes(MAX_JSON + 1)), (400, bytes(1 << 20))):
        liar.answers["GET"] = [(status, {}, body)]
        with pytest.raises(FormatError):
            liar.connection.json("GET", "/")
    liar.answers["GET"] = [(302, {"Location": "http://elsewhere/"}, b"")]
    with pytest.raises(Refused, match="302"):
        liar.connection.json("GET", "/")
    assert clean("a\u202eb\x00") == "a?b?"


@pytest.mark.parametrize(
    "url", ["http://example.org", "ftp://localhost", "localhost:8443", "https://u:p@localhost", "http://127.evil.org",
            "https://localhost:99999", "https://", "http://localhost?x"],
)  # fmt: skip
def test_urls_that_would_give_the_token_away(url) -> None:
    with pytest.raises(ParameterError):
        Connection(url, "token")


def test_traffic_and_a_missing_authority(tmp_path) -> None:
    assert Traffic(up=10**7, down=25 * 10**5).seconds(1e8) == 1.0
    with pytest.raises(ParameterError, match="--ca"):
        Connection("https://localhost", None, tmp_path / "none.pem")


def test_a_state_folder_belongs_to_one_run(tmp_path, liar, backend, hu) -> None:
    with ClientState(tmp_path / "s", {"image": "a", "model": "m"}) as state:
        key = state.opening_key()
    with ClientState(tmp_path / "s", {"image": "a", "model": "m"}) as state:
        assert state.opening_key() == key  # killed before the answer
        state.keep_session(None)
        assert state.opening_key() != key
        state.keep_session(ClientSession("ab" * 16, bytes(16), {}))
        with pytest.raises(ParameterError, match="another run"):
            ClientState(tmp_path / "s", {"image": "a", "model": "m"}).__enter__()
    with ClientState(tmp_path / "s", {"image": "a", "model": "m"}) as again:
        assert again.session == ClientSession("ab" * 16, bytes(16), {})
    with (
        pytest.raises(ParameterError, match="another image"),
        ClientState(tmp_path / "s", {"image": "b", "model": "m"}),
    ):
        pass
    (tmp_path / "s" / "state.json").write_text("{")
    with pytest.raises(FormatError, match="damaged"), ClientState(tmp_path / "s", {}):
        pass
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(ParameterError, match=r"thesis\.tex"), ClientState(tmp_path / "home", {}):
        pass
    with pytest.raises(ParameterError, match="levelled"):
        denoise(backend, liar.connection, Task("m", "levelled"), hu, tmp_path / "x")


def test_keys_of_another_preset(liar, backend, hu, session, tmp_path) -> None:
    liar.answers["POST"] = created(session)
    with pytest.raises(KeyMismatchError, match="keygen --preset linear"):
        denoise(backend, liar.connection, Task("linear"), hu, tmp_path, MasterKey(preset("compact"), fresh_key()))
