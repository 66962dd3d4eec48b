"""Nothing is gained: what a server holds of a ``linear`` client, in files, log and memory, is searched for secrets."""

import contextlib
import re

import numpy as np
import pytest
from processes import Server
from test_server import opened, put

from hegpu.ckks import keys as ckks_keys
from hegpu.ckks.params import preset
from hegpu.protocols import linear
from hegpu.protocols.linear import MasterKey, encrypt_slice
from hegpu.protocols.messages import dump_slice
from hegpu.ring.random import derive_key, fresh_key


def everything_held(server: Server) -> dict[str, bytes]:
    """Files of the state and the log by name, and all writable memory of the process."""
    held = {str(file): file.read_bytes() for file in [server.log, *server.state.rglob("*")] if file.is_file()}
    parts = []
    with open(f"/proc/{server.process.pid}/maps") as maps, open(f"/proc/{server.process.pid}/mem", "rb", 0) as memory:
        for line in maps:
            low, high, access = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
            if "w" in access:
                with contextlib.suppress(OSError):  # a guard page
                    memory.seek(int(low, 16))
                    parts.append(memory.read(int(high, 16) - int(low, 16)))
    return {**held, "memory": b"".join(parts)}


def found(secret: bytes, held: dict[str, bytes]) -> list[str]:
    """Where any 16 bytes in a row of ``secret`` lie: every such run holds one of its aligned eights whole."""
    places = []
    for name, data in held.items():
        for at in range(0, len(secret) - 7, 8):
            where = data.find(secret[at : at + 8])
            while where >= 0:
                surrounding = data[max(0, where - 8) : where + 16]
                if any(
                    secret[i : i + 16] in surrounding for i in range(max(0, at - 8), at + 1) if i + 16 <= len(secret)
                ):
                    places.append(name)
                    break
                where = data.find(secret[at : at + 8], where + 1)
    return places


def test_a_linear_clients_secrets_stay_with_it(server: Server, backend, monkeypatch) -> None:
    derived: list[bytes] = []
    drawn: list[bytes] = []

    def recording_derive(*arguments) -> bytes:
        derived.append(derive_key(*arguments))
        return derived[-1]

    def recording_fresh() -> bytes:
        drawn.append(fresh_key())
        return drawn[-1]

    monkeypatch.setattr(linear, "derive_key", recording_derive)
    monkeypatch.setattr(ckks_keys, "derive_key", recording_derive)
    monkeypatch.setattr(linear, "fresh_key", recording_fresh)
    keys = MasterKey(preset("linear"), fresh_key())
    hu = np.random.default_rng().uniform(-1000, 1000, (48, 48))
    with server.http() as http:
        session = opened(http)
        nonce = bytes.fromhex(session["nonce"])
        sent = encrypt_slice(backend, hu, keys, session["plan"]["halo"], nonce)
        body = dump_slice(backend, sent)
        assert put(http, session, body).status_code == 200
    secret_key, _ = keys.slice_keys(backend, sent.slice_id, nonce)
    seed, noise = drawn
    assert seed == sent.seed  # public
    held = {**everything_held(server), "request": body}

    # What is public is found, so the search works.
    places = found(nonce, held)
    assert "memory" in places
    assert any(name.endswith(("sqlite", "sqlite-wal")) for name in places)
    assert found(seed.hex().encode(), {"request": body})

    residues = np.ascontiguousarray(secret_key.evaluations).tobytes()
    assert len(set(derived)) == 3  # the slice's key and what makes its secret and its noise
    files = {name: data for name, data in held.items() if name != "memory"}
    for secret in (keys.secret, noise, *set(derived), residues[:32], residues[-32:], hu.tobytes()[:32]):
        assert not found(secret, held)
        assert not found(secret.hex().encode(), files)
    for token in server.tokens.values():
        assert not found(token.encode(), files)


def test_the_log_names_only_what_it_should(server: Server) -> None:
    """Method, route template, status, seconds, bytes and the token's name: no path, so no session, id or fingerprint."""
    lines = server.log.read_text().splitlines()
    requests = [line for line in lines if " hegpu.service: " in line and "bytes in" in line]
    if not requests:
        pytest.fail("the log holds no request")
    form = re.compile(
        r"\S+ \S+ INFO hegpu\.service: (-|GET|PUT|POST|DELETE|HEAD) (-|/[\w/{}.]*) \d{3} [\d.]+ s, \d+ bytes in, \d+ out, "
        r"(-|clinic|other|partner)"
    )
    assert not [line for line in requests if not form.fullmatch(line)]
    assert "Traceback" not in "".join(lines)
    assert not re.search(r"[0-9a-f]{16}", "".join(lines))
