"""Scans on disk that the reader tests share."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.uid import generate_uid

from hegpu.ct.collection import Series
from hegpu.ct.dicom import example_slice_path

SIDE = 12
FULL, LOW = "1.000000-Full Dose Images-11111", "1.000000-Low Dose Images-22222"


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, (SIDE, SIDE)).astype("<i2")


def write(path: Path, z: float | None = 0.0, seed: int | None = None, uid: str = "1.2.3", **changes) -> Path:
    """A slice of SIDE x SIDE pixels at z mm; its pixels are those of ``seed``, by default 10 z."""
    d = pydicom.dcmread(example_slice_path())
    d.SeriesInstanceUID, d.SOPInstanceUID = uid, generate_uid()
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
    d.Rows = d.Columns = SIDE
    hu = pixels(int(10 * (z or 0)) + 5000 if seed is None else seed)
    d.RescaleSlope, d.RescaleIntercept, d.PixelData = 1, 0, hu.tobytes()
    if "PixelPaddingValue" in d:
        del d.PixelPaddingValue
    d.ImagePositionPatient = [0, 0, z if z is not None else 0]
    d.PixelSpacing = [0.7, 0.8]
    for key, value in changes.items():
        if value is None:
            delattr(d, key)
        else:
            setattr(d, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    d.save_as(path)
    return path


def scan(folder: Path, zs=(0.0, 1.0, 2.0), suffix=".dcm", shift=0, **changes) -> None:
    for i, z in enumerate(zs):
        write(folder / f"1-{i:03}{suffix}", z, seed=int(10 * z) + 5000 + shift, **changes)


def same(a: list[Series], b: list[Series]) -> bool:
    def key(s):
        low = None if s.low is None else s.low.tobytes()
        return s.name, s.patient, s.hu.tobytes(), s.spacing_mm, s.z_mm, low, s.dose, dict(s.facts)

    return [key(s) for s in a] == [key(s) for s in b]


def archive(folder: Path, volumes: list[dict] | None = None, **arrays) -> Path:
    np.savez(folder / "a.npz", **arrays)
    if volumes is not None:
        (folder / "a.json").write_text(json.dumps({"volumes": volumes}))
    return folder / "a.npz"


def volume(key="a", patient="P", **more) -> dict:
    return {"key": key, "patient": patient, "pixel_spacing_mm": [0.7, 0.8], **more}


def nifti(path: Path, data: np.ndarray, affine=None, units="mm", code=1, slope=None) -> Path:
    image = nibabel.Nifti1Image(data, np.diag([0.8, 0.7, 2.0, 1]) if affine is None else affine)
    image.header.set_xyzt_units(units)
    image.set_sform(image.affine, code)
    image.set_qform(image.affine if code else None, code)
    if slope is not None:
        image.header.set_slope_inter(*slope)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path
