"""CT slices from and to DICOM."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hegpu.ct.hounsfield import HU_MAX, HU_MIN, check
from hegpu.errors import ImageError
from hegpu.files import write_atomic

PathLike = str | os.PathLike[str]
MAX_SIDE = 1024


@dataclass(frozen=True)
class Slice:
    """``hu`` float64 ``[H, W]``; ``pixel_spacing_mm`` between rows, None if the file does not say. The dataset is for :func:`write_derived` only."""

    hu: npt.NDArray[np.float64]
    pixel_spacing_mm: float | None
    dataset: Dataset = field(repr=False)


def example_slice_path() -> Path:
    """CT_small.dcm, a real 128 x 128 slice that pydicom installs."""
    path = get_testdata_file("CT_small.dcm")
    if path is None:
        raise ImageError("example_slice_path: pydicom's CT_small.dcm is missing; reinstall pydicom")
    return Path(str(path))


def read_slice(path: PathLike) -> Slice:
    """One CT slice in HU.

    Signed and unsigned pixels, rescale slope and intercept are honoured; padding pixels become air (-1024 HU).
    MONOCHROME1 inverts the display only: rescaled values are HU all the same. Errors: :class:`ImageError`.
    """
    name = os.path.basename(os.fspath(path))
    try:
        d = pydicom.dcmread(path)
    except OSError as cause:
        raise ImageError(f"read_slice: cannot read {name!r} ({cause.strerror or cause}); check the path") from cause
    except Exception as cause:  # pydicom raises many kinds on damaged files
        raise ImageError(f"read_slice: {name!r} is no readable DICOM file ({cause!r:.100}); get it again") from cause
    try:
        return _slice(d, name)
    except ImageError:
        raise
    except Exception as cause:  # elements are parsed when they are read
        raise ImageError(f"read_slice: {name!r} is damaged ({cause!r:.100}); get it again") from cause


def _slice(d: Dataset, name: str) -> Slice:
    if d.get("Modality") != "CT":
        raise ImageError(f"read_slice: {name!r} has modality {d.get('Modality')!r}, CT is needed; choose a CT slice")
    if d.get("SamplesPerPixel", 1) != 1 or d.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(
            f"read_slice: {name!r} is {d.get('PhotometricInterpretation')!r} with {d.get('SamplesPerPixel')} samples a "
            "pixel; a grey-scale CT slice is needed"
        )
    if int(d.get("NumberOfFrames", 1) or 1) != 1:
        raise ImageError(f"read_slice: {name!r} has {d.NumberOfFrames} frames; export it as single slices")
    if "PixelData" not in d:
        raise ImageError(f"read_slice: {name!r} holds no pixel data; get the file again")
    if not (1 <= int(d.get("Rows", 0)) <= MAX_SIDE and 1 <= int(d.get("Columns", 0)) <= MAX_SIDE):
        raise ImageError(f"read_slice: {name!r} is {d.get('Rows')}x{d.get('Columns')} pixels; sides of 1..1024 work")
    try:
        stored = d.pixel_array
        slope, intercept = float(d.get("RescaleSlope", 1)), float(d.get("RescaleIntercept", 0))
        spacing = float(d.PixelSpacing[0]) if d.get("PixelSpacing") else None
    except Exception as cause:  # decoders, too, raise many kinds
        raise ImageError(f"read_slice: the pixels of {name!r} are damaged ({cause!r:.100}); get it again") from cause
    if slope == 0 or (spacing is not None and not 0 < spacing < 100):
        raise ImageError(f"read_slice: {name!r} has rescale slope {slope} and pixel spacing {spacing} mm; correct it")
    hu = stored.astype(np.float64) * slope + intercept
    padding = d.get("PixelPaddingValue")
    if padding is not None:
        if int(d.PixelRepresentation) == 1 and int(padding) >= 1 << (int(d.BitsStored) - 1):
            padding = int(padding) - (1 << int(d.BitsAllocated))
        limit = d.get("PixelPaddingRangeLimit", padding)
        low, high = sorted((int(padding), int(limit)))
        hu[(stored >= low) & (stored <= high)] = HU_MIN
    return Slice(check("read_slice", hu), spacing, d)


def write_derived(hu: Any, like: PathLike, out: PathLike, description: str) -> None:
    """Write ``hu`` ``[H, W]`` (rounded, clipped to [-1024, 3071]) as a derived DICOM of the slice ``like``.

    New instance and series UIDs, the source referenced, pixels as int16 with slope 1 and intercept 0.
    Errors: :class:`ImageError` if the shapes differ.
    """
    source = read_slice(like)
    values = check("write_derived", hu)
    if values.shape != source.hu.shape:
        raise ImageError(
            f"write_derived: the image is {values.shape}, the slice {os.path.basename(os.fspath(like))!r} is "
            f"{source.hu.shape}; give the slice that was encrypted"
        )
    d = source.dataset
    if "SOPClassUID" not in d or "SOPInstanceUID" not in d:
        raise ImageError("write_derived: the source slice has no SOP class or instance UID to refer to; correct it")
    original = Dataset()
    original.ReferencedSOPClassUID, original.ReferencedSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue", "LargestImagePixelValue"):
        if tag in d:
            delattr(d, tag)
    kind = list(d.get("ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"]))
    d.ImageType = ["DERIVED", "SECONDARY", *kind[2:]]
    d.SOPInstanceUID, d.SeriesInstanceUID = generate_uid(), generate_uid()
    d.DerivationDescription = description
    d.SourceImageSequence = Sequence([original])
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.RescaleSlope, d.RescaleIntercept, d.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    d.PixelData = np.clip(np.rint(values), HU_MIN, HU_MAX).astype("<i2").tobytes()
    d["PixelData"].VR = "OW"
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
    buffer = io.BytesIO()
    try:
        pydicom.dcmwrite(buffer, d, enforce_file_format=True, implicit_vr=False, little_endian=True)
    except Exception as cause:  # damaged elements of the source come to light when they are written
        raise ImageError(f"write_derived: the source slice cannot be copied ({cause!r:.100}); correct it") from cause
    write_atomic(out, buffer.getvalue())
