"""Scans in a NumPy archive, described by the JSON of the same name."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hegpu.ct.npz import open_archive
from hegpu.ct.series import Series, check_shape, check_spacing, clipped, safe_names
from hegpu.errors import ImageError

FACTS = {
    "kernel": "kernel",
    "kvp": "kvp",
    "slice_thickness_mm": "thickness_mm",
    "scanner": "manufacturer",
    "collection": "collection",
    "citation": "citation",
    "source_doi": "doi",
    "licence": "licence",
    "licence_url": "licence_url",
}


def read_npz_collection(path: Path) -> list[Series]:
    """Every series ``[z, y, x]`` (integers or floats, HU) of the archive ``path``.

    ``path`` with the suffix .json holds {"volumes": [{"key", "patient", "pixel_spacing_mm": [rows, columns],
    "z_mm" (optional), "kernel" ...}]}; slices are sorted by ``z_mm``. Errors: :class:`ImageError`.
    """
    described = _volumes(path)
    with open_archive(path) as archive:
        keys = sorted(archive.files)
        missing = [key for key in keys if key not in described]
        if missing or not keys:
            raise ImageError(
                f"read_collection: {path.with_suffix('.json').name!r} does not describe {', '.join(missing) or 'any series'} "
                f"of {path.name!r}; add an entry in 'volumes' with key, patient and pixel_spacing_mm"
            )
        return [
            _series(f"series {key!r} of {path.name!r}", name, archive, key, described[key])
            for key, name in zip(keys, safe_names(keys, keys), strict=True)
        ]


def _volumes(path: Path) -> dict[str, dict[str, Any]]:
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ImageError(
            f"read_collection: {path.name!r} needs {beside.name!r} beside it, which says whose scans these are: "
            '{"volumes": [{"key": ..., "patient": ..., "pixel_spacing_mm": [rows, columns], "z_mm": [...]}]}; write it'
        )
    try:
        volumes = json.loads(beside.read_text("utf-8"))["volumes"]
        described = {volume["key"]: volume for volume in volumes}
        complete = all(
            isinstance(text, str) and text for volume in volumes for text in (volume["key"], volume["patient"])
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
        raise ImageError(
            f"read_collection: {beside.name!r} is no list of volumes with key and patient ({cause!r:.100}); correct it"
        ) from cause
    if not complete or len(described) != len(volumes):
        raise ImageError(f"read_collection: {beside.name!r} has an empty key or patient or one key twice; correct it")
    return described


def _series(what: str, name: str, archive: Any, key: str, volume: dict[str, Any]) -> Series:
    try:
        stack = archive[key]
    except Exception as cause:  # zlib and the header's parser raise many kinds
        raise ImageError(f"read_collection: {what} is damaged ({cause!r:.100}); get it again") from cause
    if stack.dtype.kind not in "iuf":
        raise ImageError(f"read_collection: {what} holds {stack.dtype}; save it as int16 HU")
    shape = check_shape(what, stack.shape)
    spacing = check_spacing(what, volume.get("pixel_spacing_mm") or ())
    try:
        z = np.array(volume.get("z_mm") or [], np.float64)
    except (TypeError, ValueError):
        z = np.full(1, np.nan)
    if z.shape not in ((0,), shape[:1]) or not np.isfinite(z).all() or len(np.unique(z)) != len(z):
        raise ImageError(f"read_collection: z_mm of {what} must be {shape[0]} different numbers in mm; correct it")
    order = np.argsort(z) if len(z) else np.arange(shape[0])
    hu, changed = clipped(what, (stack[i] for i in order), shape)
    facts = {fact: str(volume[field]) for field, fact in FACTS.items() if _says_something(volume.get(field))}
    return Series(
        name,
        volume["patient"],
        hu,
        spacing,
        tuple(float(z[i]) for i in order) if len(z) else (),
        facts={**facts, "clipped": str(changed)},
    )


def _says_something(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and str(value).replace("None", "").strip() != ""
