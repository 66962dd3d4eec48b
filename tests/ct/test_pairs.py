import numpy as np
import pydicom
import pytest
from scans import FULL, LOW, pixels, same, scan, write

from hegpu.ct.collection import read_collection
from hegpu.errors import ImageError

# ---- pairs


def test_challenge_layouts(tmp_path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    for dose, shift in (("full", 0), ("quarter", 7)):
        short = {"full": "FD", "quarter": "QD"}[dose]
        for case in ("L067", "L096"):
            names = {"suffix": ".IMA", "shift": shift, "PatientID": f"{case}_{short}_1", "uid": f"1.{shift}"}
            scan(outer / "1mm B30" / f"{dose}_1mm" / case / f"{dose}_1mm", **names)
            scan(inner / case / f"{dose}_3mm", **names)
        scan(outer / "3mm D45" / f"{short}_3mm_sharp" / "L067" / f"{dose}_3mm", **names)
        write(inner / "L067" / f"{dose}_DICOM-CT-PD" / "p.dcm", uid="1.99")
    found = read_collection(outer)
    assert [(s.name, s.patient, s.dose) for s in found] == [
        ("L067-1mm", "L067", 0.25),
        ("L067-3mm_sharp", "L067", 0.25),
        ("L096-1mm", "L096", 0.25),
    ]
    assert np.array_equal(found[0].hu, np.stack([pixels(5000 + 10 * z) for z in range(3)]))
    assert np.array_equal(found[0].low, np.stack([pixels(5007 + 10 * z) for z in range(3)]))
    assert found[0].facts["clipped_low"] == "0" and found[0].z_mm == (0, 1, 2)
    assert [s.name for s in read_collection(inner)] == ["L067-3mm", "L096-3mm"]
    (one,) = read_collection(inner / "L067")
    assert (one.name, one.patient, one.low is None) == ("L067-3mm", "L067", False)
    (alone,) = read_collection(inner / "L067" / "full_3mm")
    assert alone.low is None


def test_tcia_layout(tmp_path) -> None:
    root = tmp_path / "LDCT-and-Projection-data"
    for case in ("C002", "L004", "N005"):
        scan(root / case / "12-23-2021-NA-NA-1" / FULL, PatientID=case, uid="1.1")
        scan(root / case / "08-21-2018-NA-NA-2" / LOW.replace("Images", "images"), shift=7, PatientID=case, uid="1.2")
        projections = root / case / "08-21-2018-NA-NA-2" / "1.000000-Full dose projections-3"
        projections.mkdir()
        (projections / "1-00001.dcm").write_bytes(b"never read")
    write(root / "L004" / "unnamed" / "p.dcm", uid="1.3", SOPClassUID="1.3.6.1.4.1.9590.100.1.0", PatientID="L004")
    d = pydicom.dcmread(write(root / "L004" / "unnamed" / "q.dcm", uid="1.4", PatientID="L004"))
    d.private_block(0x7029, "CT-PD", create=True).add_new(0x10, "US", 64)
    d.save_as(root / "L004" / "unnamed" / "q.dcm")
    found = read_collection(tmp_path)
    assert [(s.name, s.patient, s.dose) for s in found] == [
        ("C002", "C002", 0.10),
        ("L004", "L004", 0.25),
        ("N005", "N005", 0.25),
    ]
    assert np.array_equal(found[1].low, np.stack([pixels(5007 + 10 * z) for z in range(3)]))
    assert same(found, read_collection(root))
    assert same(found[1:2], read_collection(root / "L004"))


def test_pairs_by_series_description(tmp_path) -> None:
    scan(tmp_path / "1.1.1", PatientID="C002", uid="1.1.1", SeriesDescription="Full dose images")
    scan(tmp_path / "1.1.2", PatientID="C002", uid="1.1.2", SeriesDescription="Low Dose Images")
    case = "L004"
    scan(tmp_path / case / "1.5.1" / "CT_1.1", PatientID=case, uid="1.1", SeriesDescription="Full Dose Images")
    scan(tmp_path / case / "1.5.2" / "CT_1.2", PatientID=case, uid="1.2", SeriesDescription="Low Dose Images")
    write(tmp_path / case / "p", PatientID=case, uid="1.3", SeriesDescription="Low dose projections")
    assert [(s.name, s.dose, s.low is None) for s in read_collection(tmp_path)] == [
        ("C002", 0.10, False),
        ("L004", 0.25, False),
    ]
    (full,) = read_collection(tmp_path / "L004" / "1.5.1")
    assert (full.patient, full.low) == ("L004", None)


def test_unusable_pairs(tmp_path) -> None:
    full, low = tmp_path / "L004" / "d" / FULL, tmp_path / "L004" / "d" / LOW
    scan(full, (0, 1, 2, 3), uid="1.1")
    with pytest.raises(ImageError, match="L004 has no low-dose"):
        read_collection(tmp_path)
    scan(low, (0, 2.02, 3), uid="1.2")
    with pytest.raises(ImageError, match="low dose of L004 lacks 2 slices, at z = 1, 2 mm"):
        read_collection(tmp_path)
    scan(low, (0, 1, 2.005, 3, 4), uid="1.2")
    with pytest.raises(ImageError, match="normal dose of L004 lacks 1 slices, at z = 4 mm"):
        read_collection(tmp_path)
    (low / "1-004.dcm").unlink()
    assert len(read_collection(tmp_path)) == 1
    scan(low, (0, 1, 2, 3), uid="1.2", PixelSpacing=[0.7, 0.81])
    with pytest.raises(ImageError, match="doses of L004 differ"):
        read_collection(tmp_path)
    write(tmp_path / "L004" / "e" / FULL / "again.dcm", uid="1.3")
    with pytest.raises(ImageError, match="L004 has 2 normal-dose series"):
        read_collection(tmp_path)
    scan(tmp_path / "L005" / "d" / LOW, uid="1.4")
    (tmp_path / "L004" / "e" / FULL / "again.dcm").unlink()
    with pytest.raises(ImageError, match="L005 has no normal-dose"):
        read_collection(tmp_path)
