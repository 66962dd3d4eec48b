"""Finished rounds of a client on its own disk, so that a killed client goes on. They are the patient's data: 0600."""

import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import SignedInts
from hegpu.errors import FormatError
from hegpu.files import write_atomic
from hegpu.protocols.client_relu.activations import Planes
from hegpu.protocols.client_relu.plan import Plan


class ClientState:
    """``progress.json`` says which round is next and which outputs it may need; each lies in a file of its own."""

    def __init__(self, folder: Path, plan: Plan, hu: npt.NDArray[np.float64]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        h = hashlib.blake2b(np.ascontiguousarray(hu).tobytes(), digest_size=16, key=plan.hash.encode())
        self.folder, self.run = folder, h.hexdigest()
        self._writer = ThreadPoolExecutor(1)  # the disk works while the next round is encrypted
        self._last: Future[None] | None = None
        self.written: set[str] = set()

    def load(self, outputs: dict[str, Planes]) -> int:
        """Adds what is kept to ``outputs``; returns the next round. A folder of another run is an error."""
        path = self.folder / "progress.json"
        if not path.exists():
            return 0
        try:
            progress = json.loads(path.read_text())
            if progress["run"] != self.run:
                raise FormatError(
                    f"client-relu: {self.folder} keeps another slice or plan; remove it or choose another state"
                )
            found = {}
            for name, (file, scale, limit) in progress["outputs"].items():
                found[name] = Planes(np.load(self.folder / file, allow_pickle=False), float(scale), int(limit))
                self.written.add(file)
            outputs.clear()
            outputs.update(found)
            return int(progress["next"])
        except (OSError, ValueError, KeyError, TypeError) as cause:
            if isinstance(cause, FormatError):
                raise
            raise FormatError(
                f"client-relu: {self.folder} is damaged ({cause!s:.80}); remove it to start anew"
            ) from cause

    def save(self, following: int, outputs: dict[str, Planes]) -> None:
        """Start to keep ``outputs``, of which ``following`` is the next round. Raises what the last save met."""
        self.settle()
        self._last = self._writer.submit(self._save, following, dict(outputs))

    def settle(self) -> None:
        if self._last is not None:
            self._last.result()
            self._last = None

    def close(self) -> None:
        """Waits for the disk."""
        self._writer.shutdown()

    def _save(self, following: int, outputs: dict[str, Planes]) -> None:
        entries = {}
        for name, planes in sorted(outputs.items()):
            file = f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.npy"
            entries[name] = (file, planes.scale, planes.limit)
            if file not in self.written:
                write_array(self.folder / file, planes.values)
                self.written.add(file)
        text = json.dumps({"run": self.run, "next": following, "outputs": entries})
        write_atomic(self.folder / "progress.json", text.encode(), 0o600)
        for old in self.written - {file for file, _, _ in entries.values()}:
            (self.folder / old).unlink(missing_ok=True)
        self.written &= {file for file, _, _ in entries.values()}


def write_array(path: Path, values: SignedInts) -> None:
    import io

    header = io.BytesIO()
    contiguous = np.ascontiguousarray(values)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(contiguous))
    write_atomic(path, [header.getvalue(), contiguous.data.cast("B")], 0o600)
