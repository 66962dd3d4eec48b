import io
import warnings

import numpy as np
import pydicom
import pytest

from hegpu.ct.dicom import example_slice_path, read_slice, write_derived
from hegpu.ct.dose import lower_dose
from hegpu.ct.hounsfield import HU_MAX, HU_MIN, clip
from hegpu.ct.metrics import compare
from hegpu.ct.npz import read_npz
from hegpu.ct.phantom import phantom
from hegpu.errors import ImageError, ParameterError


def variant(tmp_path, **changes):
    d = pydicom.dcmread(example_slice_path())
    for key, value in changes.items():
        if value is None:
            delattr(d, key)
        else:
            setattr(d, key, value)
    path = tmp_path / "variant.dcm"
    d.save_as(path)
    return path


def test_example_is_ct_in_hu() -> None:
    s = read_slice(example_slice_path())
    assert s.hu.shape == (128, 128)
    assert s.hu.dtype == np.float64
    assert HU_MIN <= s.hu.min() < -800
    assert 1000 < s.hu.max() <= HU_MAX


def test_unsigned_monochrome1_and_padding(tmp_path) -> None:
    s = read_slice(example_slice_path())
    stored = np.clip(s.hu + 1024, 0, 4095).astype("<u2")
    stored[0, :5] = 4095
    path = variant(
        tmp_path, PixelRepresentation=0, RescaleIntercept=-1024, RescaleSlope=1, PixelData=stored.tobytes(),
        PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=None,
    )  # fmt: skip
    d = pydicom.dcmread(path)
    d.add_new("PixelPaddingValue", "US", 4095)
    d.save_as(path)
    got = read_slice(path).hu
    assert (got[0, :5] == HU_MIN).all()
    assert np.array_equal(got[1:], s.hu[1:])
    out = tmp_path / "out.dcm"
    write_derived(got, path, out, "test")
    assert np.array_equal(read_slice(out).hu, got)


def test_derived_dicom(tmp_path) -> None:
    source, out = example_slice_path(), tmp_path / "out.dcm"
    hu = read_slice(source).hu + 0.4
    write_derived(hu, source, out, "denoised")
    d, original = pydicom.dcmread(out), pydicom.dcmread(source)
    assert d.SOPInstanceUID != original.SOPInstanceUID
    assert d.SeriesInstanceUID != original.SeriesInstanceUID
    assert d.StudyInstanceUID == original.StudyInstanceUID
    assert d.ImageType[0] == "DERIVED"
    assert d.DerivationDescription == "denoised"
    assert d.SourceImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert np.array_equal(read_slice(out).hu, np.rint(hu))
    with pytest.raises(ImageError, match="encrypted"):
        write_derived(hu[:5], source, out, "denoised")
    assert [p.name for p in tmp_path.iterdir()] == ["out.dcm"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"Modality": "MR"}, "modality"),
        ({"PixelData": None}, "pixel data"),
        ({"NumberOfFrames": 3}, "frames"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "grey"),
        ({"PixelData": b"\0" * 100}, "damaged"),
        ({"Rows": 0}, "pixels"),
        ({"RescaleSlope": 0}, "slope"),
        ({"PixelSpacing": [0, 0]}, "spacing"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unusable_dicom(tmp_path, changes, match) -> None:
    with pytest.raises(ImageError, match=match):
        read_slice(variant(tmp_path, **changes))


def test_derived_dicom_needs_a_source_to_refer_to(tmp_path) -> None:
    path = variant(tmp_path, SOPInstanceUID=None)
    with pytest.raises(ImageError, match="UID"):
        write_derived(read_slice(path).hu, path, tmp_path / "out.dcm", "x")
    assert not (tmp_path / "out.dcm").exists()


def test_flipped_bits_never_escape(tmp_path) -> None:
    rng = np.random.default_rng(0)
    raw, path = example_slice_path().read_bytes(), tmp_path / "x"
    np.savez_compressed(tmp_path / "a.npz", a=np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    archive = (tmp_path / "a.npz").read_bytes()
    for source, read, limit in ((raw, read_slice, 3000), (archive, read_npz, len(archive))):
        for _ in range(150):
            damaged = bytearray(source)
            for at in rng.integers(0, limit, 3):
                damaged[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(path)
            except ImageError:
                pass


def test_no_dicom_at_all(tmp_path) -> None:
    path = tmp_path / "x.dcm"
    with pytest.raises(ImageError, match="path"):
        read_slice(path)
    for content in (b"", b"hello", example_slice_path().read_bytes()[:300]):
        path.write_bytes(content)
        with pytest.raises(ImageError):
            read_slice(path)


def test_clip() -> None:
    values, changed = clip(np.array([[-2000, 0], [5000, 3071]]))
    assert values.tolist() == [[-1024, 0], [3071, 3071]]
    assert changed == 2
    for bad in (np.array([[np.nan]]), np.zeros(3), np.zeros((0, 3)), np.array([["a"]])):
        with pytest.raises(ImageError):
            clip(bad)


def test_noise_grows_as_dose_falls() -> None:
    full = phantom((96, 96), seed=3)
    noise = {dose: lower_dose(full, 3.0, dose, seed=1) - full for dose in (1.0, 0.5, 0.2)}
    body = full > 0
    # The variance of what is added is proportional to 1 / dose - 1: 0, 1 and 4.
    assert not noise[1.0].any()
    assert noise[0.2][body].std() / noise[0.5][body].std() == pytest.approx(2, rel=0.15)
    assert abs(noise[0.5][body].mean()) < noise[0.5][body].std() / 5
    assert np.array_equal(lower_dose(full, 3.0, 0.2, seed=1), full + noise[0.2])
    with pytest.raises(ParameterError):
        lower_dose(full, 3.0, 0.0, seed=1)


def test_metrics() -> None:
    a = phantom((64, 80), seed=1)
    assert compare(a, a).psnr_db == float("inf")
    m = compare(np.clip(a, -100, 200) + 4, np.clip(a, -100, 200))
    assert m.rmse_hu == pytest.approx(4)
    assert m.psnr_db == pytest.approx(40)
    assert "400" in m.convention
    for arguments in ((a, a.T), (a, a, (5, 5))):
        with pytest.raises(ImageError):
            compare(*arguments)


def test_npz(tmp_path) -> None:
    path = tmp_path / "ct_train.npz"
    np.savez(path, b=np.ones((2, 3, 4), np.int16), a=np.zeros((1, 3, 4), np.int16), flat=np.zeros(3))
    assert read_npz(path).sum() == 0
    assert read_npz(path, "b", -1).sum() == 12
    for arguments in (("c", 0), ("b", 2), ("flat", 0)):
        with pytest.raises(ImageError):
            read_npz(path, *arguments)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError):
        read_npz(cut)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    cut.write_bytes(buffer.getvalue())
    with pytest.raises(ImageError):
        read_npz(cut)
