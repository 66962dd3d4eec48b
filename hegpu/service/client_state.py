"""What a client keeps while a slice is under way, so that a killed run goes on: a private folder, removed at the end."""

import fcntl
import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hegpu.errors import FormatError, HegpuError, ParameterError
from hegpu.files import write_atomic

_FORMAT, _FILE, _LOCK = "hegpu-client-state 1", "state.json", "lock"


@dataclass(frozen=True, slots=True)
class ClientSession:
    """What was agreed with the server."""

    id: str
    nonce: bytes
    plan: dict[str, Any]

    @classmethod
    def from_json(cls, data: dict[str, Any], protocol: str) -> "ClientSession":
        """Errors: :class:`FormatError` for anything but a session of this protocol."""
        try:
            session, nonce, plan = data["session"], bytes.fromhex(data["nonce"]), data["plan"]
            good = data["protocol"] == protocol and len(nonce) == 16 and isinstance(plan, dict)
            good = good and len(bytes.fromhex(session)) == 16 and session == session.lower() and len(session) == 32
        except (KeyError, TypeError, ValueError, AttributeError):
            good = False
        if not good:
            raise FormatError(f"client: the server's session is no session of {protocol}; is this a hegpu server?")
        return cls(session, nonce, plan)


class ClientState:
    """``request`` names what the folder belongs to; use as a context manager, which holds a lock."""

    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        self.folder, self._request = folder, request
        self._lock = -1
        self._opening: str | None = None
        self.session: ClientSession | None = None

    def __enter__(self) -> "ClientState":
        """Errors: :class:`ParameterError` if another run uses the folder or it belongs to another request."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(self.folder, 0o700)
        self._lock = os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load()
        except OSError as cause:
            self.__exit__()
            raise ParameterError(f"client: another run is using {self.folder}; wait for it") from cause
        except HegpuError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def keep_session(self, session: ClientSession | None) -> None:
        """None: the next run opens a new one."""
        self.session, self._opening = session, None
        self._keep()

    def opening_key(self) -> str:
        """Names the request for the next session, so that a client killed before the answer gets the same one."""
        if self._opening is None:
            self._opening = secrets.token_hex(16)
            self._keep()
        return self._opening

    def _keep(self) -> None:
        session = None if self.session is None else {**asdict(self.session), "nonce": self.session.nonce.hex()}
        state = {"format": _FORMAT, "request": self._request, "session": session, "opening": self._opening}
        self.write(_FILE, json.dumps(state).encode())

    def write(self, name: str, data: bytes) -> None:
        write_atomic(self.folder / name, data, 0o600)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self) -> None:
        content = self.read(_FILE)
        if content is None:
            if foreign := {path.name for path in self.folder.iterdir() if path.name[0] != "."} - {_LOCK}:
                raise ParameterError(
                    f"client: {self.folder} is no state of a run (it holds {min(foreign)!r:.80}); choose another --state"
                )
            self.keep_session(None)
            return
        try:
            state = json.loads(content)
            request, stored, self._opening = state["request"], state["session"], state.get("opening")
            if state["format"] != _FORMAT:
                raise ValueError("another format")
            if stored is not None:
                self.session = ClientSession(stored["id"], bytes.fromhex(stored["nonce"]), dict(stored["plan"]))
        except (KeyError, TypeError, ValueError) as cause:
            raise FormatError(f"client: the state in {self.folder} is damaged; remove the folder") from cause
        if request != self._request:
            different = ", ".join(sorted(key for key in self._request if request.get(key) != self._request[key]))
            raise ParameterError(
                f"client: {self.folder} belongs to an unfinished run with another {different}; repeat that command, or "
                "remove the folder"
            )
