"""CT scans from NIfTI files, by nibabel."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from hegpu.ct.series import Series, check_shape, check_spacing, clipped, safe_names
from hegpu.errors import ImageError, ParameterError

HU_LIMITS = (-32768, 32767)


def is_nifti(path: Path) -> bool:
    """Whether ``path`` is named like a NIfTI file."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti_collection(path: Path, files: list[Path]) -> list[Series]:
    """The NIfTI ``files`` below the folder ``path``, or ``path`` itself.

    A file directly in the folder is a patient of its own; all files of a sub-folder are one patient.
    Errors: :class:`ImageError`; :class:`ParameterError` without nibabel.
    """
    try:
        nibabel: Any = importlib.import_module("nibabel")
    except ImportError as cause:
        raise ParameterError(
            "read_collection: NIfTI files are read by nibabel, which is missing; pip install 'hegpu[nifti]'"
        ) from cause
    below = [[file.name] if file == path else list(file.relative_to(path).parts) for file in files]
    parts = [[*folders, name[: name.lower().rindex(".nii")]] for *folders, name in below]
    names = safe_names(["_".join(p) for p in parts], ["/".join(p) for p in below])
    return [
        _series(nibabel, file, name, p[-2] if len(p) > 1 else p[-1])
        for file, name, p in zip(files, names, parts, strict=True)
    ]


def _series(nibabel: Any, path: Path, name: str, patient: str) -> Series:
    what = repr(path.name)
    try:
        image = nibabel.load(path)
        stored_shape, header = image.shape, image.header
        units = header.get_xyzt_units()[0]
        oriented = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
        number = header.get_data_dtype().kind
    except Exception as cause:  # zlib, nibabel's parser and its header checks raise many kinds
        raise ImageError(f"read_collection: {what} is no readable NIfTI file ({cause!r:.100}); get it again") from cause
    if len(stored_shape) != 3 or number not in "iuf":
        raise ImageError(
            f"read_collection: {what} holds {header.get_data_dtype()}{stored_shape}; a CT scan has 3 axes of numbers; "
            "export one volume"
        )
    if units not in ("mm", "unknown"):
        raise ImageError(f"read_collection: {what} gives lengths in {units}; convert it to mm")
    if not oriented or not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine)) < 1e-9:
        raise ImageError(
            f"read_collection: {what} does not say how the patient lies (qform and sform are unset or singular); "
            "export it again with its orientation"
        )
    check_shape(what, sorted(stored_shape, reverse=True))  # before the pixels are unpacked
    try:
        ras = nibabel.as_closest_canonical(image)
        values = np.asarray(ras.dataobj)
    except Exception as cause:  # as above
        raise ImageError(f"read_collection: the voxels of {what} are damaged ({cause!r:.100}); get it again") from cause
    # RAS [x, y, z] runs leftwards to right, posterior to anterior, feet to head: the first two are turned round.
    stack = values[::-1, ::-1].transpose(2, 1, 0)
    shape = check_shape(what, stack.shape)
    low, high = HU_LIMITS
    if np.isfinite(stack).all() and not (low <= stack.min() and stack.max() <= high):
        raise ImageError(
            f"read_collection: {what} holds {stack.min():g} to {stack.max():g}, which is no HU; correct its scaling"
        )
    hu, changed = clipped(what, iter(stack), shape)
    columns, rows = (float(zoom) for zoom in ras.header.get_zooms()[:2])
    normal = np.cross(ras.affine[:3, 0], ras.affine[:3, 1])
    normal *= np.sign(normal @ ras.affine[:3, 2]) / np.linalg.norm(normal)
    z = [float(normal @ (ras.affine[:3, 3] + k * ras.affine[:3, 2])) for k in range(shape[0])]
    return Series(
        name,
        patient,
        hu,
        check_spacing(what, (rows, columns)),
        tuple(round(position, 6) for position in z),
        facts={"clipped": str(changed)},
    )
