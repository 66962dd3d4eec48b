"""Real servers and clients as processes, and a line between them that breaks."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from hegpu.service.tokens import make_token

FAKE = Path(__file__).with_name("fake_relu.py")
TLS = Path(__file__).with_name("tls")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(
    *arguments: str, log: Path, prefix: tuple[str, ...] = (), script: tuple[str, ...] = (str(FAKE),), **environment: str
) -> subprocess.Popen:
    with log.open("ab") as output:
        return subprocess.Popen(
            [*prefix, sys.executable, *script, *arguments], stdout=output, stderr=output,
            env={**os.environ, "HEGPU_THREADS": "1", **environment},
        )  # fmt: skip


def wait_for(condition, seconds: float = 90.0, what: str = "the condition") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


class Server:
    """``hegpu serve`` on loopback with three tokens: two hospitals, and one that may hold the model."""

    script: tuple[str, ...] = (str(FAKE),)

    def __init__(self, folder: Path, *options: str, tls: bool = False, state: Path | None = None, **environment: str):
        self.folder, self.port, self.log = folder, free_port(), folder / "server.log"
        self.state, self.tls = state or folder / "state", tls
        tokens = folder / "tokens"
        self.tokens = {name: make_token(name, tokens, name == "partner") for name in ("clinic", "other", "partner")}
        (folder / "models").mkdir()
        self.add_models(folder / "models")
        self._arguments = (
            "serve", "--models", str(folder / "models"), "--shipped", "--tokens", str(tokens),
            "--state", str(self.state), "--port", str(self.port), *options,
            *(("--tls-cert", str(TLS / "cert.pem"), "--tls-key", str(TLS / "key.pem")) if tls else ()),
        )  # fmt: skip
        self._environment = environment
        self.start()

    def add_models(self, folder: Path) -> None:
        """Beside the shipped ones."""

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self, prefix: tuple[str, ...] = ()) -> None:
        self.process = start(*self._arguments, log=self.log, prefix=prefix, script=self.script, **self._environment)
        wait_for(self._is_up, what="the server")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/healthz", verify=False, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def alive(self) -> bool:
        return self._is_up()

    def http(self, token: str | None = "clinic") -> httpx.Client:
        headers = {} if token is None else {"Authorization": f"Bearer {self.tokens[token]}"}
        return httpx.Client(base_url=self.url, headers=headers, verify=not self.tls, trust_env=False, timeout=30)

    def token_file(self, name: str) -> Path:
        path = self.folder / f"{name}.token"
        path.write_text(self.tokens[name] + "\n")
        return path


class BreakingLine:
    """Forwards to ``port``; of the first ``cuts`` connections it forwards ``after`` bytes of the requests, or with
    ``answers`` of the answers, and then breaks both ends."""

    def __init__(self, port: int, cuts: int, after: int, answers: bool = False) -> None:
        self._target, self._cuts, self._after, self._answers = port, cuts, after, answers
        self.broken = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            budget = self._after if self._cuts > 0 else None
            self._cuts -= 1
            budgets = (None, budget) if self._answers else (budget, None)
            for ends, most in zip(((near, far), (far, near)), budgets, strict=True):
                threading.Thread(target=self._forward, args=(*ends, most), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, budget: int | None) -> None:
        try:
            while data := source.recv(8192):
                target.sendall(data if budget is None else data[:budget])
                if budget is not None:
                    budget -= len(data)
                    if budget <= 0:
                        self.broken += 1
                        break
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()  # the other direction closes the other end

    def close(self) -> None:
        self._listener.close()
