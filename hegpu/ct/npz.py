"""Stacks of slices in a NumPy archive: one int16 array ``[z, y, x]`` in HU per series."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt

from hegpu.ct.hounsfield import check
from hegpu.errors import ImageError


def read_npz(path: str | os.PathLike[str], series: str | None = None, index: int = 0) -> npt.NDArray[np.float64]:
    """Slice ``index`` (negative from the end) of ``series`` (default: the first by name), HU float64 ``[y, x]``."""
    name = os.path.basename(os.fspath(path))
    with open_archive(path) as archive:
        names = sorted(archive.files)
        chosen = series if series is not None else names[0] if names else ""
        if chosen not in names:
            raise ImageError(f"read_npz: {name!r} has no series {chosen!r}; it has {', '.join(names) or 'none'}")
        try:
            stack = archive[chosen]
        except Exception as cause:  # zlib and the header's parser raise many kinds
            raise ImageError(f"read_npz: series {chosen!r} of {name!r} is damaged ({cause}); get it again") from cause
    if (
        stack.ndim != 3
        or stack.dtype.kind not in "iuf"
        or type(index) is not int
        or not -len(stack) <= index < len(stack)
    ):
        raise ImageError(f"read_npz: no slice {index} in {chosen!r} {stack.dtype}{stack.shape}; it must be [z, y, x]")
    return check("read_npz", stack[index])


@contextmanager
def open_archive(path: str | os.PathLike[str]) -> Iterator["np.lib.npyio.NpzFile"]:
    """The archive at ``path``, closed afterwards. Errors: :class:`ImageError`."""
    name = os.path.basename(os.fspath(path))
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            archive = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as cause:
            raise ImageError(f"read_npz: {name!r} is no readable .npz archive ({cause}); get it again") from cause
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ImageError(f"read_npz: {name!r} is a single array; save the series with numpy.savez")
        yield stack.enter_context(archive)
