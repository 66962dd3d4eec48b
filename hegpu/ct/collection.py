"""Collections of CT scans, whatever they are stored in."""

import os
from collections.abc import Sequence
from pathlib import Path

from hegpu.ct.dicom_files import may_be_dicom
from hegpu.ct.dicom_folder import read_dicom_folder
from hegpu.ct.nifti import is_nifti, read_nifti_collection
from hegpu.ct.npz_series import read_npz_collection
from hegpu.ct.series import Series
from hegpu.errors import ImageError


def read_collection(path: str | os.PathLike[str]) -> list[Series]:
    """The scans of ``path``, sorted by name: an .npz with its .json, a NIfTI file, or a folder of NIfTI or DICOM files.

    Everything is held in memory, 4 bytes a pixel. Errors: :class:`ImageError`; :class:`ParameterError` if NIfTI
    files are given and nibabel is not installed. docs/data.md describes the formats and layouts.
    """
    path = Path(path)
    if path.is_dir():
        found = _read_folder(path)
    elif not path.is_file():
        raise ImageError(f"read_collection: there is no {path.name!r}; check the path")
    elif path.suffix.lower() == ".npz":
        found = read_npz_collection(path)
    elif is_nifti(path):
        found = read_nifti_collection(path, [path])
    else:
        raise ImageError(
            f"read_collection: {path.name!r} is neither .npz nor NIfTI; give the folder that holds the DICOM files"
        )
    return sorted(found, key=lambda series: series.name)


def _read_folder(path: Path) -> list[Series]:
    every = sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in every if is_nifti(file)]
    other = next((file.name for file in every if not is_nifti(file) and may_be_dicom(file.name)), None)
    if files and other is not None:
        raise ImageError(
            f"read_collection: {path.name!r} holds NIfTI ({files[0].name!r}) and other files ({other!r}); separate them"
        )
    return read_nifti_collection(path, files) if files else read_dicom_folder(path)


def split_by_patient(series: Sequence[Series], held: Sequence[str]) -> tuple[list[Series], list[Series]]:
    """The scans to train on and those held back: every scan of each patient that ``held`` names, or names a series of.

    Errors: :class:`ImageError` if a name is unknown or either side is empty.
    """
    known = {name for s in series for name in (s.name, s.patient)}
    unknown = sorted(set(held) - known)
    if unknown:
        raise ImageError(
            f"split_by_patient: there is no patient or series {', '.join(unknown)}; there are "
            f"{', '.join(sorted({s.patient for s in series})) or 'none'}"
        )
    patients = {s.patient for s in series if s.patient in held or s.name in held}
    train = [s for s in series if s.patient not in patients]
    back = [s for s in series if s.patient in patients]
    if not train or not back:
        raise ImageError(
            f"split_by_patient: {len(train)} scans to train on and {len(back)} held back; hold back some patients, "
            "not all"
        )
    return train, back


__all__ = ["Series", "read_collection", "split_by_patient"]
