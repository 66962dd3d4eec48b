"""Which series of a published paired collection is which: the Low Dose Grand Challenge's and TCIA's folders."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_CHALLENGE = re.compile(r"(full|quarter|fd|qd)_(\d+(?:\.\d+)?mm\w*)", re.IGNORECASE)
_IMAGES = re.compile(r"(full|low)[ _-]?dose[ _-]?images?", re.IGNORECASE)
_PROJECTIONS = re.compile(r"(full|low|quarter)[ _-]?dose[ _-]?projections?|DICOM-CT-PD", re.IGNORECASE)
_CASE = re.compile(r"([CLN]\d{3})(?:_\w*)?")
DOSES = {"L": 0.25, "N": 0.25, "C": 0.10}  # abdomen, head, chest


@dataclass(frozen=True)
class Place:
    """``low`` or normal dose of the case ``key``; ``named`` if folders say so rather than the series description."""

    key: tuple[str, ...]
    low: bool
    named: bool
    patient: str
    name: str
    dose: float | None


def is_projection(text: str) -> bool:
    """Whether a folder or series description names projections."""
    return _PROJECTIONS.search(text) is not None


def place(root: str, folders: Sequence[str], description: str, patient: str) -> Place | None:
    """Where a slice belongs, None outside a paired layout.

    ``folders`` lead from the collection's folder, of the name ``root``, to the file; ``patient`` is its PatientID.
    """
    case = _case(root, folders, patient)
    dose = DOSES.get(case[:1]) if _CASE.fullmatch(case) else None
    sizes = [match for match in map(_CHALLENGE.fullmatch, folders) if match]
    if sizes:
        low = sizes[-1][1].lower() in ("quarter", "qd")
        size = max((match[2].lower() for match in sizes), key=len)  # 3mm_sharp/.../3mm is 3mm_sharp
        key = tuple(_CHALLENGE.sub(r"*_\2", folder).lower() for folder in folders)
        return Place((case, *key), low, True, case, f"{case}-{size}", 0.25)
    images = [match for match in map(_IMAGES.search, folders) if match]
    match = images[-1] if images else _IMAGES.search(description)
    return Place((case,), match[1].lower() == "low", bool(images), case, case, dose) if match else None


def _case(root: str, folders: Sequence[str], patient: str) -> str:
    """L067 of the folder L067, or of the PatientID L067 or L067_FD_1; else the PatientID."""
    found = next((folder for folder in (*folders, root) if re.fullmatch(r"[CLN]\d{3}", folder)), None)
    match = _CASE.fullmatch(patient)
    return found or (match[1] if match else patient) or "unknown"
