"""The server's memory on disk, so that a killed server goes on where it was: SQLite for facts, files for answers.

The data base holds sessions and, per message, the digest of its body: no ciphertext, no secret (a server has none).
Calls come from the event loop, except those that only touch one answer's file and those about plans.
"""

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from hegpu.ckks.wire import Body
from hegpu.errors import HegpuError
from hegpu.files import write_atomic
from hegpu.service.errors import ServiceError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, token TEXT NOT NULL, model TEXT NOT NULL, digest TEXT NOT NULL, protocol TEXT NOT NULL,
    height INTEGER NOT NULL, width INTEGER NOT NULL, nonce BLOB NOT NULL, plan TEXT NOT NULL, expires REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS openings (
    token TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL,
    session TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE, PRIMARY KEY (token, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    session TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE, message TEXT NOT NULL,
    round INTEGER NOT NULL, part INTEGER NOT NULL, digest BLOB NOT NULL, answered INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (session, message)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
    token TEXT NOT NULL, fingerprint TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (token, fingerprint)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS plans (key TEXT PRIMARY KEY, plan TEXT NOT NULL);
"""
KEPT_PLANS = 256  # some kilobytes each


@dataclass(frozen=True, slots=True)
class Session:
    """One slice. ``token`` names its owner, ``digest`` the model's file; ``plan`` is JSON."""

    id: str
    token: str
    model: str
    digest: str
    protocol: str
    height: int
    width: int
    nonce: bytes
    plan: str
    expires: float


@dataclass(frozen=True, slots=True)
class Opening:
    """A client's key for the session that it opens, and the digest of what it asked for."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A request's place in its session and the digest of its body."""

    session: str
    id: str
    round: int
    group: int
    digest: bytes


class Store:
    """Errors: ``OSError`` and ``sqlite3.OperationalError`` where the disk fails; then nothing has changed."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(folder, 0o700)
            self._folder = folder
            (folder / "answers").mkdir(mode=0o700, exist_ok=True)
            self._lock = threading.RLock()
            self._db = sqlite3.connect(folder / "service.sqlite", check_same_thread=False, isolation_level=None)
            os.chmod(folder / "service.sqlite", 0o600)
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "busy_timeout = 5000"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as cause:
            raise HegpuError(
                f"serve: the state in {folder} cannot be used ({cause}); choose another --state"
            ) from cause
        self.expire()
        self._sweep()

    @property
    def folder(self) -> Path:
        return self._folder

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def add(self, session: Session, opening: Opening | None, limit: int) -> Session:
        """``session``, or the one that ``opening`` opened before. Errors: those of :meth:`opened`, and 429 if the owner
        has ``limit`` open sessions."""
        with self.transaction() as db:
            if opening and (earlier := self.opened(session.token, opening)):
                return earlier
            (count,) = db.execute("SELECT count(*) FROM sessions WHERE token = ?", (session.token,)).fetchone()
            if count >= limit:
                raise ServiceError(
                    429, "open session", f"this token has {count} open sessions, the limit",
                    "delete one, or wait until one expires", retry_after=60,
                )  # fmt: skip
            db.execute(f"INSERT INTO sessions VALUES ({','.join('?' * 10)})", astuple(session))
            if opening:
                db.execute(
                    "INSERT OR REPLACE INTO openings VALUES (?, ?, ?, ?)",
                    (session.token, *astuple(opening), session.id),
                )
        return session

    def opened(self, token: str, opening: Opening) -> Session | None:
        """The session that this key of ``token`` opened. Errors: 409 if it was asked for otherwise."""
        found = self.rows(
            "SELECT o.digest, s.* FROM openings o JOIN sessions s ON s.id = o.session "
            "WHERE o.token = ? AND o.key = ? AND s.expires > ?", token, opening.key, time.time(),
        )  # fmt: skip
        if not found:
            return None
        digest, *session = found[0]
        if digest != opening.digest:
            raise ServiceError(
                409, "open session", "this Idempotency-Key was used with another request", "take a new key"
            )
        return Session(*session)

    def get(self, session: str, token: str) -> Session:
        """Errors: 404, also for a session of another token, so that its existence is not told."""
        found = self.rows(
            "SELECT * FROM sessions WHERE id = ? AND token = ? AND expires > ?", session, token, time.time()
        )
        if not found:
            raise ServiceError(404, "session", "there is no such session, or it has expired", "open a new one")
        return Session(*found[0])

    def delete(self, session: str) -> None:
        with self.transaction() as db:
            db.execute("DELETE FROM sessions WHERE id = ?", (session,))
        shutil.rmtree(self._folder / "answers" / session, ignore_errors=True)

    def claim(self, message: Message, only_one: bool, most: int) -> bool:
        """Binds a message id to its place and bytes for good; whether it was answered before.

        Errors: 409 for an id that is bound otherwise, with ``only_one`` for a second id at the same place, and for
        more than ``most`` ids in the session.
        """
        place = (message.round, message.group, message.digest)
        with self.transaction() as db:
            known = db.execute(
                "SELECT round, part, digest, answered FROM messages WHERE session = ? AND message = ?",
                (message.session, message.id),
            ).fetchone()
            if known is not None:
                if known[:3] != place:
                    raise _conflict("this message id was used with other bytes", "resend the stored bytes")
                return bool(known[3])
            (others,) = db.execute("SELECT count(*) FROM messages WHERE session = ?", (message.session,)).fetchone()
            if only_one and others:
                raise _conflict("this session has its slice already", "open a session for every slice")
            if others >= most:
                raise _conflict(f"this session has used up its {most} messages", "open a new one")
            db.execute(
                "INSERT INTO messages (session, message, round, part, digest) VALUES (?, ?, ?, ?, ?)",
                (message.session, message.id, *place),
            )
            return False

    def mark_answered(self, message: Message) -> None:
        with self.transaction() as db:
            db.execute(
                "UPDATE messages SET answered = 1 WHERE session = ? AND message = ?", (message.session, message.id)
            )

    def answered(self, session: str) -> list[tuple[int, int]]:
        """(round, group) of everything that was answered."""
        query = "SELECT DISTINCT round, part FROM messages WHERE session = ? AND answered ORDER BY round, part"
        return [(r, g) for r, g in self.rows(query, session)]

    def plan(self, key: str) -> str | None:
        """What :meth:`keep_plan` was given."""
        found = self.rows("SELECT plan FROM plans WHERE key = ?", key)
        return found[0][0] if found else None

    def keep_plan(self, key: str, plan: str) -> None:
        """Keeps it for good, as one of the latest ``KEPT_PLANS``."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO plans VALUES (?, ?)", (key, plan))
            db.execute(
                "DELETE FROM plans WHERE rowid NOT IN (SELECT rowid FROM plans ORDER BY rowid DESC LIMIT ?)",
                (KEPT_PLANS,),
            )

    def open_sessions(self) -> int:
        return int(self.rows("SELECT count(*) FROM sessions")[0][0])

    def write_answer(self, message: Message, data: Body) -> None:
        folder = self._folder / "answers" / message.session
        folder.mkdir(mode=0o700, exist_ok=True)
        write_atomic(folder / message.id, [data], 0o600)

    def read_answer(self, message: Message) -> bytes:
        return (self._folder / "answers" / message.session / message.id).read_bytes()

    def expire(self) -> None:
        """Forgets what is past its time."""
        for (session,) in self.rows("SELECT id FROM sessions WHERE expires <= ?", time.time()):
            self.delete(session)

    def _sweep(self) -> None:
        """Removes what a killed server left half done: answers without a session, temporary files."""
        known = {row[0] for row in self.rows("SELECT id FROM sessions")}
        for folder in (self._folder / "answers").iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                for file in folder.glob(".*"):
                    file.unlink(missing_ok=True)


def _conflict(cause: str, what_to_do: str) -> ServiceError:
    return ServiceError(409, "answer", cause, what_to_do)
