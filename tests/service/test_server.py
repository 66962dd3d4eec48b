"""A running server: what it computes, and what it refuses without harm."""

import contextlib
import hashlib
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from fake_relu import GROUPS, ROUNDS, SIZE, computed, place
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import Server

import hegpu
from hegpu.ckks.params import preset
from hegpu.nets.plaintext import run
from hegpu.protocols.linear import MasterKey, decrypt_result, encrypt_slice
from hegpu.protocols.messages import dump_slice, load_result
from hegpu.ring.random import fresh_key
from hegpu.service.client import Task, denoise, finish
from hegpu.service.http import Connection

LINEAR = {"model": "linear", "protocol": "linear", "height": 48, "width": 48}
RELU = {**LINEAR, "protocol": "client-relu", "accept_model_disclosure": True}
BINARY = {"Content-Type": "application/octet-stream"}


def opened(http: httpx.Client, asked=LINEAR) -> dict:
    answer = http.post("/v1/sessions", json=asked)
    assert answer.status_code == 201, answer.text
    return answer.json()


def put(http: httpx.Client, session: dict, body, message: str = "m" * 8, round: int = 0, group: int = 0):
    path = f"/v1/sessions/{session['session']}/rounds/{round}/groups/{group}/{message}"
    return http.put(path, content=body, headers=BINARY)


def encrypted(backend, hu, session: dict, keys: MasterKey | None = None) -> bytes:
    keys = keys or MasterKey(preset("linear"), fresh_key())
    s = encrypt_slice(backend, hu, keys, session["plan"]["halo"], bytes.fromhex(session["nonce"]))
    return dump_slice(backend, s)


def refused(answer: httpx.Response, status: int) -> dict:
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert set(problem) == {"error", "operation", "what_to_do"}
    assert all(problem.values())
    assert "Traceback" not in answer.text
    return problem


def test_eight_clients_at_once_get_the_right_image(server: Server, backend, hu, tmp_path) -> None:
    """With room for four bodies at a time, so that some are told to come again."""
    expected = run(hegpu.load_model("linear"), hu)

    def one(i: int) -> float:
        connection = Connection(server.url, server.tokens["clinic" if i % 2 else "other"])
        result = denoise(backend, connection, Task("linear"), hu, tmp_path / str(i))
        finish(connection, Task("linear"), hu, tmp_path / str(i))
        assert connection.traffic.up > 60_000
        connection.close()
        assert not (tmp_path / str(i)).exists()
        return float(np.abs(result - expected).max())

    for clients in (2, 8):
        with ThreadPoolExecutor(clients) as pool:
            assert max(pool.map(one, range(clients))) < 0.02


def test_rounds_of_a_protocol_that_is_computed_again(server: Server) -> None:
    with server.http("partner") as http:
        session = opened(http, RELU)
        body = place(1, 2) + os.urandom(SIZE - 18)
        answers = [put(http, session, body, "again---", 1, 2).content for _ in range(2)]
        assert answers == [computed(body)] * 2
        status = http.get(f"/v1/sessions/{session['session']}").json()
        assert [r["answered"] for r in status["rounds"]] == [[], [2], []]
        assert [r["groups"] for r in status["rounds"]] == [GROUPS] * ROUNDS
        refused(put(http, session, place(1, 2) + os.urandom(SIZE - 18), "again---", 1, 2), 409)
        refused(put(http, session, body, "again---", 1, 3), 409)
        refused(put(http, session, os.urandom(SIZE), "garbage-", 1, 2), 400)
        refused(put(http, session, body, "no-such-", ROUNDS, 0), 404)
        refused(put(http, session, body, "no-such-", 0, GROUPS), 404)
        assert http.delete(f"/v1/sessions/{session['session']}").status_code == 204
        refused(put(http, session, body, "again---", 1, 2), 404)


def test_a_slice_is_answered_once_and_the_answer_is_kept(server: Server, backend, hu) -> None:
    keys = MasterKey(preset("linear"), fresh_key())
    with server.http() as http:
        session = opened(http)
        body = encrypted(backend, hu, session, keys)
        first, second = (put(http, session, body) for _ in range(2))
        assert first.status_code == 200
        assert first.content == second.content  # though an answer is random
        got = decrypt_result(backend, load_result(backend, first.content), keys, bytes.fromhex(session["nonce"]))
        assert np.abs(got - run(hegpu.load_model("linear"), hu)).max() < 0.02
        refused(put(http, session, encrypted(backend, hu, session)), 409)
        refused(put(http, session, encrypted(backend, hu, session), "another-id"), 409)


def test_one_id_in_flight_twice_is_computed_once(server: Server, backend, hu) -> None:
    with server.http() as http:
        session = opened(http)
        body = encrypted(backend, hu, session)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: put(http, session, body), range(4)))
        good = {a.content for a in answers if a.status_code == 200}
        assert len(good) == 1
        assert {a.status_code for a in answers} <= {200, 429}


def test_who_may_do_what(server: Server) -> None:
    for token in (None, "wrong"):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as http:
            for method, path in (
                ("GET", "/v1/models"), ("POST", "/v1/sessions"), ("GET", f"/v1/sessions/{'0' * 32}"),
                ("PUT", f"/v1/sessions/{'0' * 32}/rounds/0/groups/0/{'m' * 8}"), ("PUT", f"/v1/keys/{'0' * 32}"),
                ("HEAD", f"/v1/keys/{'0' * 32}"), ("DELETE", f"/v1/sessions/{'0' * 32}"),
            ):  # fmt: skip
                answer = http.request(method, path, content=b"x" if method in ("PUT", "POST") else None)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
    with server.http("clinic") as http:
        assert "may-hold-the-model" in refused(http.post("/v1/sessions", json=RELU), 403)["what_to_do"]
        protocols = {m["name"]: m["protocols"] for m in http.get("/v1/models").json()}
        assert protocols["linear"] == ["linear"]
        assert protocols["redcnn-16"] == []
        mine = opened(http)
    with server.http("partner") as http:
        assert "client-relu" in {m["name"]: m["protocols"] for m in http.get("/v1/models").json()}["linear"]
        silent = {k: v for k, v in RELU.items() if k != "accept_model_disclosure"}
        assert "learns the whole network" in refused(http.post("/v1/sessions", json=silent), 400)["error"]
        refused(http.get(f"/v1/sessions/{mine['session']}"), 404)  # another token's
        refused(http.delete(f"/v1/sessions/{mine['session']}"), 404)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "nothing"}, 404), ({"model": "redcnn-16"}, 422), ({"protocol": "levelled"}, 422),
        ({"preset": "insecure_test"}, 422), ({"height": 0}, 422), ({"height": "48"}, 422), ({"extra": 1}, 422),
        ({"width": 4000}, 422), ({"width": 1024, "height": 1024}, 413),
    ],
)  # fmt: skip
def test_sessions_that_cannot_be_opened(server: Server, change, status) -> None:
    with server.http() as http:
        refused(http.post("/v1/sessions", json={**LINEAR, **change}), status)
        for body in (b"", b"{", b"[1]", b"\xff\xfe", b"[" * 4000):
            refused(http.post("/v1/sessions", content=body), 422)


def test_bodies_of_a_wrong_length(server: Server, backend, hu) -> None:
    with server.http() as http:
        session = opened(http)
        body = encrypted(backend, hu, session)
        refused(put(http, session, body[:-1]), 400)
        refused(put(http, session, body + b"x"), 413)
        refused(put(http, session, iter([body, b"x"])), 413)  # chunked
        refused(put(http, session, iter([body[:-1]])), 400)
        assert put(http, session, iter([body[:100], body[100:]])).status_code == 200


def test_a_session_is_opened_once_however_often_it_is_asked_for(server: Server) -> None:
    headers = {"Idempotency-Key": os.urandom(8).hex()}

    def ask(http: httpx.Client, **change) -> httpx.Response:
        return http.post("/v1/sessions", json={**LINEAR, "height": 50, **change}, headers=headers)

    with server.http() as http, server.http("other") as other:
        with ThreadPoolExecutor(8) as pool:
            answers = [a.json() for a in pool.map(lambda _: ask(http), range(8))]
        assert all(answer == answers[0] for answer in answers)
        assert ask(other).json()["session"] != answers[0]["session"]
        assert "Idempotency-Key" in refused(ask(http, width=49), 409)["error"]
        headers["Idempotency-Key"] = os.urandom(8).hex()
        assert ask(http).json()["session"] != answers[0]["session"]
        http.delete(f"/v1/sessions/{ask(http).json()['session']}")
        again = ask(http).json()["session"]
        assert http.get(f"/v1/sessions/{again}").status_code == 200
        headers["Idempotency-Key"] = "short"
        refused(ask(http), 422)


def raw(server: Server, session: dict, headers: str, body: bytes = b"") -> socket.socket:
    s = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    path = f"/v1/sessions/{session['session']}/rounds/0/groups/0/{os.urandom(8).hex()}"
    s.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.tokens['partner']}\r\n{headers}\r\n\r\n"
              .encode() + body)  # fmt: skip
    return s


def test_ten_gigabytes_are_refused_before_they_are_sent(server: Server) -> None:
    with server.http("partner") as http:
        session = opened(http, RELU)
    with raw(server, session, f"Content-Length: {10**10}") as s:
        answer = s.recv(4096)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer.lower()
    with raw(server, session, f"Content-Length: {10**10}\r\nExpect: 100-continue") as s:
        assert s.recv(4096).startswith(b"HTTP/1.1 413")
    with raw(server, session, "Content-Length: -1") as s:
        assert s.recv(4096).startswith(b"HTTP/1.1 400")
    assert server.alive()


def test_a_slow_body_is_given_up(server: Server) -> None:
    with server.http("partner") as http:
        session = opened(http, RELU)
    with raw(server, session, f"Content-Length: {SIZE}", b"some bytes") as s:
        started = time.monotonic()
        assert s.recv(4096).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 5
    assert server.alive()


def ended(s: socket.socket, trickle: bytes = b"", seconds: float = 5.0) -> bool:
    """Whether the server ends the connection within the time, while ``trickle`` is sent again and again."""
    deadline = time.monotonic() + seconds
    s.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            s.sendall(trickle)
            if not s.recv(1 << 16):
                return True
        except TimeoutError:
            pass
        except OSError:
            return True
    return False


def test_heads_that_never_end_lose_the_connection(server: Server) -> None:
    """Nothing at all, a byte now and then, the same after a good request, and the rest of a refused body."""
    with server.http("partner") as http:
        session = opened(http, RELU)
    bodies = f"PUT /v1/keys/{'0' * 32} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()
    for start, trickle in (
        (b"", b""), (b"GET /healthz HTTP/1.1\r\nX-A: ", b"a"), (b"\r\n", b"\r\n"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET / HT", b""),
    ):  # fmt: skip
        crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for s in crowd:
            s.sendall(start)
        assert server.alive()
        assert all(ended(s, trickle) for s in crowd), (start, trickle)
        for s in crowd:
            s.close()
    with raw(server, session, f"Content-Length: {SIZE}", place(0, 0) + bytes(SIZE - 18)) as s:
        assert s.recv(1 << 10).startswith(b"HTTP/1.1 200")  # a good request on a connection that then dawdles
        s.sendall(bodies)
        assert server.alive()
    assert server.alive()


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"GET /healthz HTTP/1.1\r\nX-A: ", b"a" * 65536),
        (b"GET /" , b"a" * 65536),
        (b"GET /healthz HTTP/1.1\r\n", b"X-A: b\r\n" * 8192),
        (b"PUT /v1/keys/0 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n" * 8192),
        (b"PUT /v1/keys/0 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 65536 + b"\r\na\r\n"),
    ],
)  # fmt: skip
def test_heads_of_any_size_lose_the_connection(server: Server, head, more) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as s:
        sent = 0
        with contextlib.suppress(ConnectionError):
            s.sendall(head)
            while sent < 1 << 26:
                s.sendall(more)
                sent += len(more)
        assert sent < 1 << 24  # what the sockets hold, and no more
    assert server.alive()


def test_another_sessions_ciphertext_is_refused(server: Server, backend, hu) -> None:
    with server.http() as http:
        one, two = opened(http), opened(http)
        assert one["nonce"] != two["nonce"]
        assert "another session" in refused(put(http, two, encrypted(backend, hu, one)), 422)["error"]


def test_mutated_frames_are_refused_and_the_server_lives(server: Server, backend, hu) -> None:
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=st.data())
    def mutate(data) -> None:
        with server.http("other") as http:
            session = opened(http)
            body = bytearray(encrypted(backend, hu, session))
            header = 8 + int.from_bytes(body[:8], "little")
            kind = data.draw(st.sampled_from(["length", "header", "residue", "key", "swap", "random"]))
            if kind == "length":
                body[:8] = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
            elif kind == "header":
                body[data.draw(st.integers(8, header - 1))] = data.draw(st.integers(0, 255))
            elif kind == "residue":
                at = data.draw(st.integers(header, len(body) - 64))
                body[at : at + 64] = b"\xff" * 64
            elif kind == "key":
                body[len(body) - data.draw(st.integers(1, 1000))] ^= 1
            elif kind == "swap":
                body[header:] = body[header:][::-1]
            else:
                body = bytearray(os.urandom(len(body)))
            answer = put(http, session, bytes(body))
            if answer.status_code != 200:  # a byte may have been set to itself, or to another valid one
                assert 400 <= answer.status_code < 500
                refused(answer, answer.status_code)
            else:
                assert kind == "header"
            http.delete(f"/v1/sessions/{session['session']}")

    mutate()
    assert server.alive()


def test_key_blobs(server: Server) -> None:
    blob = os.urandom(1 << 20)
    name = hashlib.blake2b(blob, digest_size=16).hexdigest()
    with server.http() as http, server.http("other") as other:
        refused(http.get(f"/v1/keys/{name}"), 404)
        for _ in range(2):
            assert http.put(f"/v1/keys/{name}", content=blob).status_code == 204
        assert http.get(f"/v1/keys/{name}").content == blob
        head = http.head(f"/v1/keys/{name}")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(blob)))
        refused(other.get(f"/v1/keys/{name}"), 404)
        refused(http.put(f"/v1/keys/{'0' * 32}", content=blob), 400)
        refused(http.get(f"/v1/keys/{'0' * 32}"), 404)
        refused(http.put(f"/v1/keys/{name}", content=bytes(2 << 20)), 400)
        refused(http.put(f"/v1/keys/{name}", content=bytes((2 << 20) + 1)), 413)  # one key
        two = bytes(1 << 20)
        assert http.put(f"/v1/keys/{hashlib.blake2b(two, digest_size=16).hexdigest()}", content=two).status_code == 204
        assert "delete" in refused(http.put(f"/v1/keys/{'0' * 32}", content=bytes(2 << 20)), 413)["what_to_do"]  # quota
        refused(http.put(f"/v1/keys/{name}", content=iter([blob])), 411)
        assert http.delete(f"/v1/keys/{name}").status_code == 204
        assert http.head(f"/v1/keys/{name}").status_code == 404
    assert not list((server.state / "keys").glob("*/.*"))


def test_metrics_and_documentation(server: Server) -> None:
    with server.http(None) as http:
        text = http.get("/metrics").text
        assert "hegpu_jobs_waiting" in text
        assert 'hegpu_stage_seconds_count{stage="compute"}' in text
        assert not any(word in text for word in ("clinic", "partner", "redcnn"))
        paths = http.get("/openapi.json").json()["paths"]
        assert "/v1/sessions/{session}/rounds/{round}/groups/{group}/{message_id}" in paths
        page = http.get("/docs")
        assert all(path in page.text for path in paths)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert set(re.findall(r"""(?:src|href|action|url|import)\W+([^"'> ]+)""", page.text)) == {
            "data:,",
            "openapi.json",
        }
        assert "<script" not in page.text
        refused(http.get("/v1/nothing"), 404)
        refused(http.post("/v1/models"), 405)
