"""Choosing a backend: explicit, never a silent fallback."""

import os

from hegpu.backend.protocol import Backend
from hegpu.errors import BackendError

NAMES = ("cpu", "reference")


def select(name: str | None = None, threads: int | None = None) -> Backend:
    """The backend called ``name``, else by ``HEGPU_BACKEND``, else ``cpu``.

    ``threads`` is for ``cpu``: 1..1024, default ``HEGPU_THREADS`` or all processors. Errors: :class:`BackendError`.
    """
    name = name or os.environ.get("HEGPU_BACKEND") or "cpu"
    if name == "cpu":
        try:
            from hegpu.backend.cpu import CpuBackend
        except ImportError as cause:
            raise BackendError(
                f"select: backend 'cpu' needs the compiled kernels, which do not load ({cause}); install hegpu with "
                "'make setup' or choose --backend reference"
            ) from cause
        return CpuBackend(threads)
    if name == "reference":
        if threads is not None:
            raise BackendError("select: backend 'reference' has no threads; leave threads out or choose cpu")
        from hegpu.backend.reference import ReferenceBackend

        return ReferenceBackend()
    if name == "cuda":
        raise BackendError("select: this version has no backend 'cuda' yet; choose cpu or reference")
    raise BackendError(f"select: there is no backend {name!r}; choose one of {', '.join(NAMES)}")
