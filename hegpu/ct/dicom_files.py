"""The headers of the CT slices below a folder."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from hegpu.ct.dicom import read_slice
from hegpu.ct.layouts import is_projection
from hegpu.errors import ImageError

# Everything else must be DICOM, whatever its name: a damaged slice may not go unnoticed.
OTHER_SUFFIXES = {
    ".bmp", ".csv", ".gif", ".gz", ".htm", ".html", ".ini", ".jpeg", ".jpg", ".json", ".log", ".md", ".npy", ".npz",
    ".pdf", ".png", ".py", ".sha256", ".tcia", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip",
}  # fmt: skip
OTHER_NAMES = {"dicomdir", "license", "licence", "readme", "citation", "thumbs.db"}
CT_IMAGES = {"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"}
PROJECTION_GROUPS = {0x7029, 0x7031, 0x7033}  # of DICOM-CT-PD


@dataclass(frozen=True)
class Header:
    """What orders and describes one slice. ``folders`` lead from the collection's folder to the file; lengths in mm."""

    path: Path
    folders: tuple[str, ...]
    uid: str
    other: str  # why this is no CT slice, "" if it is one
    patient: str
    description: str
    number: str
    shape: tuple[int, int]
    spacing: tuple[float, ...]
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    location: float | None
    instance: float | None
    facts: Mapping[str, str]


def scan(root: Path) -> list[Header]:
    """The CT slices below ``root``, in no useful order; localisers, projections and other modalities are left out.

    Errors: :class:`ImageError` for a file that is no readable DICOM, and if no CT slice is left.
    """
    headers = []
    for folder, _, files in os.walk(root):
        folders = Path(folder).relative_to(root).parts
        if not any(is_projection(name) for name in folders):
            headers += [_header(Path(folder, file), folders) for file in sorted(files) if may_be_dicom(file)]
    slices = [h for h in headers if not h.other]
    if not slices:
        found = sorted({h.other for h in headers})
        raise ImageError(
            f"read_collection: {root.name!r} holds {', '.join(found) or 'no DICOM file'}, but no CT slice; "
            "give a folder of CT slices, an .npz file or NIfTI files"
        )
    return slices


def may_be_dicom(name: str) -> bool:
    """Whether a file of this ``name`` must be DICOM."""
    low = name.lower()
    return not (low.startswith(".") or low in OTHER_NAMES or os.path.splitext(low)[1] in OTHER_SUFFIXES)


def _header(path: Path, folders: tuple[str, ...]) -> Header:
    try:
        d = pydicom.dcmread(path, stop_before_pixels=True)
        header = _parsed(d, path, folders)
    except OSError as cause:
        raise ImageError(f"read_collection: cannot read {path.name!r} ({cause}); check its permissions") from cause
    except Exception as cause:  # pydicom raises many kinds on damaged files
        raise ImageError(
            f"read_collection: {'/'.join([*folders, path.name])!r} is no readable DICOM file ({cause!r:.100}); "
            "get it again, or remove it if it is none"
        ) from cause
    # A file cut short still parses: what is missing then tells.
    if not header.other and (int(d.get("NumberOfFrames", 1) or 1) != 1 or 0 in header.shape):
        read_slice(path)  # says what is wrong with it
    if header.other == "modality unknown" or (not header.other and not header.uid):
        raise ImageError(
            f"read_collection: {'/'.join([*folders, path.name])!r} has no modality or no SeriesInstanceUID; get it "
            "again, or remove it if it is no CT slice"
        )
    return header


def _parsed(d: Dataset, path: Path, folders: tuple[str, ...]) -> Header:
    modality, kind = str(d.get("Modality", "")), d.get("SOPClassUID")
    description = str(d.get("SeriesDescription", "") or "")
    other = ""
    if kind is None and d.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        other = "directory (DICOMDIR)"
    elif modality != "CT":
        other = f"modality {modality or 'unknown'}"
    elif "LOCALIZER" in [str(value).upper() for value in _list(d.get("ImageType"))]:
        other = "CT localisers (LOCALIZER)"
    elif is_projection(description) or any(len(d.group_dataset(group)) for group in PROJECTION_GROUPS):
        other = "CT projections"
    elif kind is not None and str(kind) not in CT_IMAGES:
        other = f"modality CT of the SOP class {getattr(kind, 'name', kind)}"
    facts = {
        "kernel": "/".join(str(value) for value in _list(d.get("ConvolutionKernel"))),
        "kvp": _number(d.get("KVP")),
        "thickness_mm": _number(d.get("SliceThickness")),
        "manufacturer": str(d.get("Manufacturer", "") or ""),
    }
    return Header(
        path=path,
        folders=folders,
        uid=str(d.get("SeriesInstanceUID", "")),
        other=other,
        patient=str(d.get("PatientID", "") or "").strip(),
        description=description,
        number=_number(d.get("SeriesNumber")),
        shape=(int(d.get("Rows", 0) or 0), int(d.get("Columns", 0) or 0)),
        spacing=_floats(d.get("PixelSpacing")),
        orientation=_floats(d.get("ImageOrientationPatient")),
        position=_floats(d.get("ImagePositionPatient")),
        location=next(iter(_floats(d.get("SliceLocation"))), None),
        instance=next(iter(_floats(d.get("InstanceNumber"))), None),
        facts={fact: text for fact, text in facts.items() if text},
    )


def _list(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(number) for number in _list(value))


def _number(value: Any) -> str:
    return "" if value is None or value == "" else f"{float(value):g}"
