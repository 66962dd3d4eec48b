import gzip
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import SIDE, archive, nifti, pixels, same, scan, volume, write

from hegpu.ct.collection import Series, read_collection, split_by_patient
from hegpu.errors import ImageError, ParameterError

# ---- .npz


def test_npz_with_json(tmp_path) -> None:
    stack = np.arange(3 * 4 * 5).reshape(3, 4, 5).astype(np.int16)
    path = archive(
        tmp_path,
        [
            volume("b", "P", z_mm=[4, 2, 3], kernel="B30f", kvp=120.0, scanner="None None", licence="CC BY 3.0"),
            volume("a", "P", kernel=None),
        ],
        a=np.full((1, 2, 2), 4000.0),
        b=stack,
    )
    a, b = read_collection(path)
    assert (a.name, b.name, a.patient, b.patient) == ("a", "b", "P", "P")
    assert a.z_mm == () and a.hu.max() == 3071 and a.facts == {"clipped": "4"}
    assert b.z_mm == (2, 3, 4) and np.array_equal(b.hu, stack[[1, 2, 0]]) and b.hu.dtype == np.float32
    assert b.spacing_mm == (0.7, 0.8) and b.low is None and b.dose is None
    assert b.facts == {"kernel": "B30f", "kvp": "120.0", "licence": "CC BY 3.0", "clipped": "0"}


def test_npz_without_json(tmp_path) -> None:
    with pytest.raises(ImageError, match=r"a\.json.*patient.*pixel_spacing_mm"):
        read_collection(archive(tmp_path, a=np.zeros((1, 2, 2))))


@pytest.mark.parametrize(
    ("volumes", "array", "match"),
    [
        ([volume("other")], np.zeros((1, 2, 2)), "does not describe a"),
        ([volume(), volume()], np.zeros((1, 2, 2)), "twice"),
        ([volume(patient="")], np.zeros((1, 2, 2)), "empty"),
        ([{"key": "a"}], np.zeros((1, 2, 2)), "patient"),
        ([volume(pixel_spacing_mm=None)], np.zeros((1, 2, 2)), "spacing"),
        ([volume(pixel_spacing_mm=[1, 0])], np.zeros((1, 2, 2)), "spacing"),
        ([volume(z_mm=[1])], np.zeros((2, 2, 2)), "z_mm"),
        ([volume(z_mm=[1, 1])], np.zeros((2, 2, 2)), "z_mm"),
        ([volume(z_mm=["x", {}])], np.zeros((2, 2, 2)), "z_mm"),
        ([volume()], np.zeros((2, 2)), "shape"),
        ([volume()], np.zeros((1, 2, 1025), np.int8), "1024"),
        ([volume()], np.full((1, 2, 2), np.nan), "NaN"),
        ([volume()], np.zeros((1, 2, 2), complex), "complex"),
        ([volume()], np.array([[["x"]]]), "U1"),
    ],
)
def test_unusable_npz(tmp_path, volumes, array, match) -> None:
    with pytest.raises(ImageError, match=match):
        read_collection(archive(tmp_path, volumes, a=array))


def test_damaged_npz(tmp_path) -> None:
    path = archive(tmp_path, [volume()], a=np.zeros((9, 9, 9)))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ImageError, match=r"a\.npz"):
        read_collection(path)
    path.write_bytes(raw.replace(b"NUMPY", b"NUMPX"))
    with pytest.raises(ImageError, match="damaged"):
        read_collection(path)
    for text in ("{", "[]", '{"volumes": 3}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ImageError, match=r"a\.json"):
            read_collection(path)


# ---- DICOM folders


def test_dicom_series_are_separated_sorted_and_named(tmp_path) -> None:
    for i, z in enumerate((2, 0, 1)):
        write(tmp_path / "deep" / "er" / f"{i}", z, uid="1.1", PatientID="A/b", SeriesNumber=2)
        write(tmp_path / "deep" / f"1.2.{i}.IMA", -z, uid="1.2", PatientID="A/b", SeriesNumber=3)
    write(tmp_path / "c.dcm", 7, uid="1.3", PatientID="C")
    for name in ("LICENSE", "readme.txt", ".DS_Store", "DICOMDIR"):
        (tmp_path / name).write_text("no DICOM")
    series = read_collection(tmp_path)
    assert [(s.name, s.patient, s.z_mm) for s in series] == [
        ("A_b-s2", "A/b", (0, 1, 2)),
        ("A_b-s3", "A/b", (-2, -1, 0)),
        ("C", "C", (7,)),
    ]
    assert np.array_equal(series[0].hu, np.stack([pixels(5000 + 10 * z) for z in (0, 1, 2)]))
    assert series[0].hu.dtype == np.float32 and series[0].spacing_mm == (0.7, 0.8)
    assert series[0].facts == {
        "kernel": "STANDARD", "kvp": "120", "thickness_mm": "5", "manufacturer": "GE MEDICAL SYSTEMS", "clipped": "0",
    }  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_file_names_do_not_matter(rng: random.Random) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        names = [f"{chr(97 + i)}/{i}" for i in range(6)]
        shuffled = rng.sample(names, len(names))
        for i, (a, b) in enumerate(zip(names, shuffled, strict=True)):
            uid = f"1.{i % 2}"
            for folder, name in ((one, a), (other, b)):
                write(Path(folder, name), i, uid=uid)
        assert same(read_collection(one), read_collection(other))


def test_upside_down_tilted_and_unpositioned(tmp_path) -> None:
    for z in range(3):
        write(tmp_path / "prone" / f"{z}", z, uid="1.1", SeriesNumber=1, ImageOrientationPatient=[1, 0, 0, 0, -1, 0])
        write(tmp_path / "tilt" / f"{z}", z, uid="1.2", SeriesNumber=2, ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6])
        write(tmp_path / "location" / f"{z}", z, uid="1.3", SeriesNumber=3, ImagePositionPatient=None, SliceLocation=-z)
        write(tmp_path / "instance" / f"{z}", z, uid="1.4", SeriesNumber=4, ImagePositionPatient=None,
              SliceLocation=None, InstanceNumber=9 - z)  # fmt: skip
    prone, tilt, location, instance = read_collection(tmp_path)
    assert prone.z_mm == (0, 1, 2)
    assert tilt.z_mm == (0, 0.8, 1.6)
    assert location.z_mm == (-2, -1, 0)
    assert instance.z_mm == ()
    assert np.array_equal(prone.hu, tilt.hu)
    assert np.array_equal(prone.hu[::-1], location.hu) and np.array_equal(prone.hu[::-1], instance.hu)


def test_gaps_and_clipping_are_recorded(tmp_path) -> None:
    scan(tmp_path, (0, 1, 2, 4, 5), RescaleSlope=10)
    (s,) = read_collection(tmp_path)
    raw = np.stack([pixels(5000 + 10 * z) for z in (0, 1, 2, 4, 5)]) * 10.0
    assert s.facts["gaps"] == "2..4"
    assert s.facts["clipped"] == str(((raw < -1024) | (raw > 3071)).sum())
    assert np.array_equal(s.hu, np.clip(raw, -1024, 3071))


def test_other_kinds_are_left_out_only_beside_ct(tmp_path) -> None:
    write(tmp_path / "mr.dcm", uid="1.5", Modality="MR")
    write(tmp_path / "scout.dcm", uid="1.6", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(tmp_path / "report.dcm", uid="1.7", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    with pytest.raises(ImageError, match=r"LOCALIZER.*Secondary Capture.*modality MR"):
        read_collection(tmp_path)
    write(tmp_path / "ct.dcm")
    (s,) = read_collection(tmp_path)
    assert len(s.hu) == 1


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"PixelSpacing": [0.7, 0.9]}, "mixes the spacing"),
        ({"Rows": SIDE // 2, "PixelData": b"\0\0" * (SIDE * SIDE // 2)}, "mixes the shape"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "mixes the orientation"),
        ({"ImagePositionPatient": [3, 3, 1.001]}, "two slices at 1.*'1-001.dcm' and 'x.dcm'"),
        ({"PatientID": "somebody else"}, "2 patients"),
        ({"PixelData": b"\0\0"}, r"x\.dcm.*damaged"),
        ({"PixelData": None}, r"x\.dcm.*no pixel data"),
        ({"NumberOfFrames": 2}, r"x\.dcm.*2 frames"),
        ({"SliceLocation": None, "ImagePositionPatient": None, "InstanceNumber": None}, "neither position"),
    ],
)
def test_unusable_series(tmp_path, changes, match) -> None:
    scan(tmp_path, SliceLocation=None) if "InstanceNumber" in changes else scan(tmp_path)
    write(tmp_path / "x.dcm", 3, **changes)
    with pytest.raises(ImageError, match=match):
        read_collection(tmp_path)


def test_unusable_geometry(tmp_path) -> None:
    write(tmp_path / "coronal" / "a", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    with pytest.raises(ImageError, match="not axial"):
        read_collection(tmp_path / "coronal")
    write(tmp_path / "unspaced" / "a", PixelSpacing=None)
    with pytest.raises(ImageError, match="spacing"):
        read_collection(tmp_path / "unspaced")
    write(tmp_path / "large" / "a", Columns=1025, PixelData=b"\0\0" * SIDE * 1025)
    with pytest.raises(ImageError, match="1024"):
        read_collection(tmp_path / "large")


def test_damaged_file_among_good_ones(tmp_path) -> None:
    scan(tmp_path)
    bad = tmp_path / "1-001.dcm"
    raw = bad.read_bytes()
    end = raw.index(pixels(5010).tobytes()) + 2 * SIDE * SIDE
    for content in (b"", b"junk" * 99, *(raw[:cut] for cut in range(150, end, 91)), raw[: end - 1]):
        bad.write_bytes(content)
        with pytest.raises(ImageError, match=r"1-001\.dcm"):
            read_collection(tmp_path)


def test_patients_without_an_id_stay_together(tmp_path) -> None:
    write(tmp_path / "a", uid="1.1", PatientID="", SeriesNumber=1)
    write(tmp_path / "b", uid="1.2", PatientID=None, SeriesNumber=1)
    a, b = read_collection(tmp_path)
    assert a.patient == b.patient == "unknown"
    assert a.name != b.name and a.name.startswith("unknown-s1-")


# ---- NIfTI


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_orientation(tmp_path, suffix) -> None:
    data = np.random.default_rng(1).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    # Array axes: from head to feet 2 mm, from right to left 0.8 mm, from posterior to anterior 0.7 mm.
    affine = np.array([[0, -0.8, 0, 30], [0, 0, 0.7, -40], [-2, 0, 0, 50], [0, 0, 0, 1.0]])
    path = nifti(tmp_path / f"Pat 1{suffix}", data, affine)
    (s,) = read_collection(path)
    assert (s.name, s.patient, s.hu.dtype, s.hu.shape) == ("Pat_1", "Pat 1", np.float32, (3, 5, 4))
    assert s.spacing_mm == pytest.approx((0.7, 0.8))
    assert s.z_mm == (46, 48, 50)
    for i, j, k in np.ndindex(data.shape):
        right, anterior, z = (affine @ (i, j, k, 1))[:3]
        row, column = round((-40 + 0.7 * 4 - anterior) / 0.7), round((30 - right) / 0.8)
        assert s.hu[s.z_mm.index(round(z)), row, column] == data[i, j, k]


def test_nifti_folder_scaling_and_clipping(tmp_path) -> None:
    data = np.array([[[0], [100]], [[2000], [-600]]], np.int16)
    nifti(tmp_path / "b.nii", data, slope=(2, -10), units="unknown")
    nifti(tmp_path / "p" / "one.nii.gz", data)
    nifti(tmp_path / "p" / "two.nii.gz", data)
    b, one, two = read_collection(tmp_path)
    assert (b.name, one.name, two.name) == ("b", "p_one", "p_two")
    assert (b.patient, one.patient, two.patient) == ("b", "p", "p")
    assert sorted(b.hu.ravel()) == [-1024, -10, 190, 3071]
    assert b.facts == {"clipped": "2"}


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        (np.zeros((2, 2, 2, 2), np.int16), {}, "3 axes"),
        (np.zeros((2, 2), np.int16), {}, "3 axes"),
        (np.zeros((2, 2, 2), np.complex64), {}, "complex64"),
        (np.full((2, 2, 2), np.nan), {}, "NaN"),
        (np.full((2, 2, 2), 40000.0), {}, "no HU"),
        (np.zeros((1030, 1030, 1), np.int8), {}, "1024"),
        (np.zeros((2, 2, 2), np.int16), {"units": "micron"}, "micron"),
        (np.zeros((2, 2, 2), np.int16), {"code": 0}, "orientation"),
    ],
)
def test_unusable_nifti(tmp_path, data, options, match) -> None:
    affine = np.eye(4)
    with pytest.raises(ImageError, match=match):
        read_collection(nifti(tmp_path / "a.nii", data, affine, **options))


def test_damaged_nifti(tmp_path) -> None:
    path = nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 99, (9, 9, 9)).astype(np.int16))
    raw = gzip.decompress(path.read_bytes())
    for content in (b"", b"x" * 500, path.read_bytes()[:300], gzip.compress(raw[:100]), gzip.compress(raw[:900])):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r"a\.nii\.gz"):
            read_collection(path)


def test_without_nibabel(tmp_path, monkeypatch) -> None:
    path = nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), np.int16))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ParameterError, match=r"hegpu\[nifti\]"):
        read_collection(path)


# ---- any path, split


def test_unusable_paths(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("x")
    nifti(tmp_path / "both" / "labels.nii", np.zeros((2, 2, 2), np.int16))
    write(tmp_path / "both" / "ct.dcm")
    (tmp_path / "empty").mkdir()
    for path, match in (("none", "path"), ("a.txt", "neither"), ("empty", "no DICOM file"), ("both", "separate")):
        with pytest.raises(ImageError, match=match):
            read_collection(tmp_path / path)


def test_split_by_patient() -> None:
    hu = np.zeros((1, 2, 2), np.float32)
    series = [Series(name, patient, hu, (1, 1), ()) for name, patient in (("a", "P"), ("b", "P"), ("c", "Q"))]
    for held in (["P"], ["a"], ["a", "P"]):
        train, back = split_by_patient(series, held)
        assert ([s.name for s in train], [s.name for s in back]) == (["c"], ["a", "b"])
    for held, match in ((["P", "x"], "x; there are P, Q"), ([], "held back"), (["P", "c"], "not all")):
        with pytest.raises(ImageError, match=match):
            split_by_patient(series, held)
