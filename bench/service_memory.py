"""``python -m bench.service_memory [SECONDS]``: the most that a server of the default limits holds while eight clients, each
in another round of the 96-channel network, send lossless requests of a 512x512 slice without a pause. Ends with 1 at 2 GB.

The requests are encryptions of zero, the same again and again under new ids: only their size matters here.
"""

import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

from hegpu.backend.cpu import CpuBackend
from hegpu.backend.protocol import Stream
from hegpu.protocols.client_relu.messages import dump_request
from hegpu.protocols.client_relu.plan import Plan
from hegpu.ring.random import NOISE, SECRET, UNIFORM, fresh_key
from hegpu.service.tokens import make_token

CLIENTS, CONNECTIONS, LIMIT = 8, 2, 2_000_000_000
ASKED = {"model": "redcnn-96", "protocol": "client-relu", "height": 512, "width": 512, "accept_model_disclosure": True}


def request(plan: Plan, index: int, nonce: bytes) -> bytes:
    backend, r, q = CpuBackend(threads=1), plan.rounds[index], plan.params.q_primes
    small = backend.sample_ternary(fresh_key(), SECRET, np.zeros((), np.uint32), plan.params.n)
    secret = backend.ntt(backend.from_signed(small.astype(np.int64), q), q)
    objects, seed = r.objects(0), fresh_key()
    tiles = np.zeros((r.inputs, len(r.tiles_of(0)), plan.params.n), np.int64)
    mask, noise = Stream(seed, UNIFORM, objects), Stream(fresh_key(), NOISE, objects)
    c0 = backend.mask_and_pack(tiles, secret, mask, noise, q, plan.params.c0_drop_up)
    return bytes(dump_request(plan, nonce, index, 0, seed, c0))


def client(http: httpx.Client, index: int, until: float, statuses: Counter[int]) -> None:
    session = http.post("/v1/sessions", json=ASKED).raise_for_status().json()
    body = request(Plan.from_json(session["plan"]), index, bytes.fromhex(session["nonce"]))

    def send() -> None:
        while time.monotonic() < until:
            path = f"/v1/sessions/{session['session']}/rounds/{index}/groups/0/{secrets.token_hex(8)}"
            answer = http.put(path, content=body, headers={"Content-Type": "application/octet-stream"})
            statuses[answer.status_code] += 1
            if answer.status_code == 429:
                time.sleep(float(answer.headers["Retry-After"]))

    threads = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(seconds: float) -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder, statuses = Path(name), Counter[int]()
        tokens = [make_token(f"client-{i}", folder / "tokens", True) for i in range(CLIENTS)]
        command = [
            sys.executable, "-c", "from hegpu.cli import main; main()", "serve", "--models", str(folder), "--shipped",
            "--tokens", str(folder / "tokens"), "--state", str(folder / "state"), "--port", str(port), "--threads", "2",
        ]  # fmt: skip
        with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
            base = f"http://127.0.0.1:{port}"
            try:
                transport = httpx.HTTPTransport(retries=10)
                httpx.Client(transport=transport).get(f"{base}/healthz")
                threads = []
                for i, token in enumerate(tokens):
                    http = httpx.Client(base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=600)
                    arguments = (http, 1 + i, time.monotonic() + seconds, statuses)
                    threads.append(threading.Thread(target=client, args=arguments))
                    threads[-1].start()
                for thread in threads:
                    thread.join()
                status = Path(f"/proc/{server.pid}/status").read_text()
            finally:
                server.terminate()
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])
    print(f"{statuses[200]} requests answered, {statuses[429]} sent back; the server held at most {peak / 1e9:.2f} GB")
    return int(peak >= LIMIT or set(statuses) != {200, 429})


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]) if sys.argv[1:] else 60.0))
