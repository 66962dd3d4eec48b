"""Scans in a folder of DICOM files, paired by dose where the layout or the series descriptions say so."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hegpu.ct.dicom import read_slice
from hegpu.ct.dicom_files import Header, scan
from hegpu.ct.layouts import Place, place
from hegpu.ct.series import Series, check_shape, check_spacing, clipped, safe_names
from hegpu.errors import ImageError

NEAR_MM = 0.01  # positions that differ by less are the same
GAP = 1.5  # steps of this many median steps


def read_dicom_folder(root: Path) -> list[Series]:
    """Every CT series below ``root``; a low-dose series and its normal-dose partner become one.

    Pixels keep the axes of the files. Errors: :class:`ImageError`.
    """
    slices = scan(root)
    places = [place(root.resolve().name, h.folders, h.description, h.patient) for h in slices]
    # Descriptions alone make a pair only where both doses are there: one may well read the full dose alone.
    described = any(p is not None and p.low for p in places)
    groups: dict[tuple[Place | None, str], list[Header]] = defaultdict(list)
    for h, p in zip(slices, places, strict=True):
        groups[p if p is not None and (p.named or described) else None, h.uid].append(h)
    single = {uid: group for (p, uid), group in groups.items() if p is None}
    paired: dict[tuple[str, ...], list[tuple[Place, list[Header]]]] = defaultdict(list)
    for (p, _), group in groups.items():
        if p is not None:
            paired[p.key].append((p, group))
    for case in paired.values():
        _check_case(case)

    patients = {uid: _patient(group) for uid, group in single.items()}
    alone = [
        patient if list(patients.values()).count(patient) == 1 else f"{patient}-s{single[uid][0].number or '0'}"
        for uid, patient in patients.items()
    ]
    names = safe_names(
        [*alone, *(case[0][0].name for case in paired.values())], [*single, *("/".join(k) for k in paired)]
    )
    found = [
        _read(group, f"series {name!r}").series(name, patients[uid])
        for (uid, group), name in zip(single.items(), names[: len(single)], strict=True)
    ]
    return found + [_pair(case, name) for case, name in zip(paired.values(), names[len(single) :], strict=True)]


@dataclass(frozen=True, eq=False)
class _Stack:
    hu: NDArray[np.float32]
    spacing: tuple[float, float]
    z: tuple[float, ...]
    facts: Mapping[str, str]

    def series(self, name: str, patient: str) -> Series:
        return Series(name, patient, self.hu, self.spacing, self.z, facts=self.facts)


def _patient(group: Sequence[Header]) -> str:
    # Scans of nobody may be of one person: together they cannot be split apart.
    names = sorted({h.patient for h in group})
    if len(names) > 1:
        raise ImageError(
            f"read_collection: the series of {group[0].path.name!r} has {len(names)} patients; give each its own "
            "SeriesInstanceUID"
        )
    return names[0] or "unknown"


def _check_case(case: Sequence[tuple[Place, list[Header]]]) -> None:
    p = case[0][0]
    for low, kind in ((False, "normal-dose"), (True, "low-dose")):
        count = sum(q.low == low for q, _ in case)
        if count == 0:
            raise ImageError(
                f"read_collection: case {p.name} has no {kind} images; get them or move the case elsewhere (a folder "
                "given by itself, with the slices of one series, is read without a partner)"
            )
        if count > 1:
            raise ImageError(f"read_collection: case {p.name} has {count} {kind} series; leave one")


def _pair(case: Sequence[tuple[Place, list[Header]]], name: str) -> Series:
    (p, low_slices), (_, slices) = sorted(case, key=lambda item: not item[0].low)
    normal = _read(slices, f"the normal dose of {p.name}")
    low = _read(low_slices, f"the low dose of {p.name}")
    for dose, missing in (("low", _lacking(low.z, normal.z)), ("normal", _lacking(normal.z, low.z))):
        if missing:
            raise ImageError(
                f"read_collection: the {dose} dose of {p.name} lacks {len(missing)} slices, at z = "
                f"{', '.join(f'{z:g}' for z in missing[:10])}{' ...' if len(missing) > 10 else ''} mm; get them again"
            )
    if (
        normal.hu.shape != low.hu.shape
        or bool(normal.z) != bool(low.z)
        or not np.allclose(normal.spacing, low.spacing, atol=1e-4)
    ):
        raise ImageError(
            f"read_collection: the doses of {p.name} differ: {normal.hu.shape} and {low.hu.shape} at "
            f"{normal.spacing} and {low.spacing} mm; get the pair again"
        )
    facts = {**normal.facts, "clipped_low": low.facts["clipped"]}
    return replace(normal.series(name, p.patient), low=low.hu, dose=p.dose, facts=facts)


def _lacking(z: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """The positions ``wanted`` that ``z`` does not have; none where either is unknown."""
    if not z or not wanted:
        return []
    have = np.array(z)
    return [w for w in wanted if np.abs(have - w).min() > NEAR_MM]


def _read(group: Sequence[Header], what: str) -> _Stack:
    first = group[0]
    for kind in ("shape", "spacing", "orientation"):
        values = [getattr(h, kind) for h in group]
        if any(len(v) != len(values[0]) or not np.allclose(v, values[0], atol=1e-4) for v in values):
            seen = " and ".join(sorted({str(v) for v in values})[:3])
            raise ImageError(f"read_collection: {what} mixes the {kind} {seen}; give each its own SeriesInstanceUID")
    shape = check_shape(what, (len(group), *first.shape))
    spacing = check_spacing(what, first.spacing)
    positions, known = _positions(group, what)
    order = np.argsort(positions, kind="stable")
    z = tuple(round(float(positions[i]), 6) for i in order)
    steps = np.diff(z)
    for k in np.flatnonzero(steps < NEAR_MM):
        names = " and ".join(repr(group[order[i]].path.name) for i in (k, k + 1))
        raise ImageError(f"read_collection: {what} has two slices at {z[k]:g}, {names}; remove one")
    wide = np.flatnonzero(steps > GAP * np.median(steps)).tolist() if known and len(steps) else []
    gaps = [f"{z[k]:g}..{z[k + 1]:g}" for k in wide]
    hu, changed = clipped(what, (read_slice(group[i].path).hu for i in order), shape)
    facts = {**group[order[0]].facts, "clipped": str(changed), **({"gaps": " ".join(gaps)} if gaps else {})}
    return _Stack(hu, spacing, z if known else (), facts)


def _positions(group: Sequence[Header], what: str) -> tuple[NDArray[np.float64], bool]:
    """What sorts the slices from feet to head, and whether it is in mm."""
    if all(len(h.position) == 3 and len(h.orientation) == 6 for h in group):
        row, column = np.reshape(group[0].orientation, (2, 3))
        normal = np.cross(row, column)
        if not np.linalg.norm(normal) > 0.9 or abs(normal[2]) < 0.7:
            raise ImageError(f"read_collection: {what} is not axial (its normal is {normal.round(2)}); remove it")
        normal *= np.sign(normal[2]) / np.linalg.norm(normal)
        positions, known = np.array([h.position for h in group]) @ normal, True
    elif all(h.location is not None for h in group):
        positions, known = np.array([h.location for h in group], np.float64), True
    elif len(group) == 1 or all(h.instance is not None for h in group):
        positions, known = np.array([h.instance or 0 for h in group], np.float64), False
    else:
        raise ImageError(
            f"read_collection: {what} has slices with neither position, location nor instance number; get it again"
        )
    if not np.isfinite(positions).all():
        raise ImageError(f"read_collection: {what} has slices at no finite position; get it again")
    return positions, known
