"""Public key blobs by fingerprint: evaluation keys of later protocols, too large to be sent with every slice.

The fingerprint is the BLAKE2b digest (16 bytes) of the blob, so a blob is checked against its name and never changes.
Tokens do not see each other's.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hegpu.service.errors import ServiceError
from hegpu.service.store import Store


class KeyStore:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.folder / "keys"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._arriving: dict[str, int] = {}
        self._sweep()

    def path(self, token: str, fingerprint: str) -> Path:
        """Errors: 404."""
        if not self._store.rows("SELECT 1 FROM keys WHERE token = ? AND fingerprint = ?", token, fingerprint):
            raise ServiceError(404, "key", "there is no such key", "send it with PUT")
        return self._folder / token / fingerprint

    @contextmanager
    def arriving(self, token: str, size: int, quota: int) -> Iterator[IO[bytes]]:
        """A file to receive a blob of ``size`` bytes into; it vanishes unless :meth:`keep` is called.

        Errors: 413 where the token's blobs would exceed ``quota``.
        """
        (used,) = self._store.rows("SELECT coalesce(sum(bytes), 0) FROM keys WHERE token = ?", token)[0]
        pending = self._arriving.get(token, 0)
        if used + pending + size > quota:
            raise ServiceError(
                413, "key", f"this token's keys would take {used + pending + size:,} bytes of {quota:,}", "delete some"
            )
        (self._folder / token).mkdir(mode=0o700, exist_ok=True)
        self._arriving[token] = pending + size
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder / token, prefix=".", delete=False) as file:
                yield file
        finally:
            self._arriving[token] -= size
            with suppress(FileNotFoundError):
                os.unlink(file.name)

    def keep(self, token: str, fingerprint: str, file: IO[bytes], size: int) -> None:
        """From here on the blob exists, also after a crash. Blocks while the disk writes."""
        file.flush()
        os.fsync(file.fileno())
        os.replace(file.name, self._folder / token / fingerprint)
        with self._store.transaction() as db:
            db.execute("INSERT OR IGNORE INTO keys VALUES (?, ?, ?)", (token, fingerprint, size))

    def delete(self, token: str, fingerprint: str) -> None:
        path = self.path(token, fingerprint)
        with self._store.transaction() as db:
            db.execute("DELETE FROM keys WHERE token = ? AND fingerprint = ?", (token, fingerprint))
        path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        known = set(self._store.rows("SELECT token, fingerprint FROM keys"))
        for path in self._folder.glob("*/*"):
            if (path.parent.name, path.name) not in known:
                path.unlink()
