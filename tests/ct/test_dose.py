"""The laws of photon noise that the simulation must obey, its cache, and the two projectors."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from hegpu.ct import projector, simulate
from hegpu.ct.dose import KERNELS, Scan, lower_dose, lower_doses
from hegpu.ct.noise import calibrate, power_spectrum, uniform_tissue
from hegpu.ct.phantom import phantom
from hegpu.ct.series import Series
from hegpu.ct.simulate import pairs_of
from hegpu.errors import BackendError, ImageError, ParameterError

SIDE, SPACING = 128, 2.0
Y, X = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
WATER = np.where(np.hypot(X, Y) <= 0.35 * SIDE, 0.0, -1000.0)  # 18 cm; at least 3 % of the photons pass
INNER = np.hypot(X, Y) <= 0.25 * SIDE
DOSES = (0.5, 0.25, 0.1, 0.05)


@pytest.fixture(scope="module")
def scan():
    return Scan(WATER, SPACING)


@pytest.fixture
def rays(scan, monkeypatch):
    """A scan whose noise is that of the line integrals, before reconstruction."""
    monkeypatch.setattr(scan, "reconstruct", lambda error: error)
    return scan


def fields(make, count=8):
    return [make(np.random.default_rng((7, index))) for index in range(count)]


def variance(make, count=8):
    return np.mean([field[INNER].var() for field in fields(make, count)])


def test_added_variance_is_proportional_to_one_over_dose_minus_one(scan) -> None:
    scaled = [variance(lambda rng, k=k: scan.added_noise(k, 1e6, 0, rng)) / (1 / k - 1) for k in DOSES]
    # The variance of one field scatters by 5 % (correlated pixels), so that of eight by 1.7 %; four of that.
    assert np.ptp(scaled) / np.mean(scaled) < 0.07


@pytest.mark.parametrize("dose", DOSES)
def test_electronic_noise_adds_its_own_term(rays, dose) -> None:
    photons, electronic = 1e6 * np.exp(-rays.integrals), 1e4
    expected = (1 / dose - 1) / photons + electronic * (1 / dose**2 - 1) / photons**2
    error = rays.added_noise(dose, 1e6, electronic, np.random.default_rng(1))
    # 4 sigma of the mean of 128^2 squares is 4.4 %; the curvature of the logarithm adds up to 1 % at 5 % dose.
    assert np.mean(error**2 / expected) == pytest.approx(1, abs=0.055)


def test_variances_subtract(scan) -> None:
    full = variance(lambda rng: scan.full_noise(4e5, 100, rng))
    for dose in (0.5, 0.1):
        low = variance(lambda rng, k=dose: scan.full_noise(4e5 * k, 100, rng))
        added = variance(lambda rng, k=dose: scan.added_noise(k, 4e5, 100, rng))
        # Each of the two large terms is known to 1.7 %; three times their difference.
        assert full + added == pytest.approx(low, rel=0.07)


def test_noise_falls_with_the_root_of_the_photons(scan) -> None:
    scaled = [i0 * variance(lambda rng, n=i0: scan.full_noise(n, 0, rng)) for i0 in (1e5, 4e5, 1.6e6)]
    # As above; fewest photons 3000, so the curvature of the logarithm is below 0.1 %.
    assert np.ptp(scaled) / np.mean(scaled) < 0.07


def test_noise_spectrum() -> None:
    peaks = {}
    for kernel in ("ramp", "hann"):
        scan = Scan(WATER, SPACING, kernel)
        noise = [field[16:112, 16:112] for field in fields(lambda rng, s=scan: s.full_noise(1e6, 0, rng))]
        frequency, power = power_spectrum(noise, SPACING)
        nyquist = 0.5 / SPACING
        assert frequency[-1] == pytest.approx(nyquist)
        peaks[kernel] = frequency[power.argmax()] / nyquist
        assert power[1] < 0.35 * power.max() and power[-1] < 0.8 * power.max()
        low = slice(2, 6)
        slope = np.polyfit(np.log(frequency[low]), np.log(power[low]), 1)[0]
        # A ramp: power ~ f. The edges of the tiles leak into low bins and the kernel falls: both flatten it by 0.1 to 0.2.
        assert 0.7 < slope < 1.1
        tiles = [f[a : a + 64, b : b + 64].var() for f in noise for a in (0, 32) for b in (0, 32)]
        integral = (power * 2 * np.pi * frequency).sum() * frequency[1]
        # The radial spectrum lacks the corners beyond Nyquist: with the ramp about 8 % of the power, with Hann under 2 %.
        assert integral == pytest.approx(np.mean(tiles), rel=0.12 if kernel == "ramp" else 0.03)
    assert 0.15 < peaks["hann"] < peaks["ramp"] < 0.85


def test_spectrum_of_white_noise_is_flat() -> None:
    noise = [np.random.default_rng(seed).normal(0, 10, (128, 128)) for seed in range(4)]
    frequency, power = power_spectrum(noise, 0.7)
    # 36 half-overlapping tiles of 64^2 with at least 24 values a ring beyond the 4th: 4 sigma of 1 / sqrt(36 * 12) is 19 %.
    assert power[4:] == pytest.approx(np.full(29, 100 * 0.7**2), rel=0.19)
    assert len(frequency) == 33
    with pytest.raises(ImageError, match="64x64"):
        power_spectrum([np.zeros((63, 80))], 0.7)


@pytest.mark.parametrize("dose", [0.25, 0.1, 0.05])
def test_mean_is_kept_where_photons_are_plenty(scan, dose) -> None:
    means = [field[INNER].mean() for field in fields(lambda rng: scan.added_noise(dose, 2e6, 10, rng), 16)]
    # The bias left, 1 / 2n per ray, is 0.04 HU at 5 %: about one standard error of 16 scans.
    assert abs(np.mean(means)) < 4 * np.std(means, ddof=1) / 4


def test_bias_is_that_of_the_logarithm(scan) -> None:
    dose, electronic = 0.05, 10
    full = 2e5 * np.exp(-scan.integrals)
    bias = 0.5 * (1 / dose - 1) / full + 0.5 * electronic * (1 / dose**2 - 1) / full**2
    expected = scan.reconstruct(bias)[INNER].mean()
    means = [field[INNER].mean() for field in fields(lambda rng: scan.added_noise(dose, 2e5, electronic, rng), 32)]
    assert 0.2 < expected < 0.6  # "+0.4 HU within 18 cm of water at 5 %"
    assert abs(np.mean(means) - expected) < 4 * np.std(means, ddof=1) / np.sqrt(32)
    # "tens of HU where n falls below about 10": at the centre 4.7 photons a ray; then 1.6, and the floor of one photon.
    starved = scan.added_noise(dose, 3e3, electronic, np.random.default_rng(1))[INNER].mean()
    floored = scan.added_noise(dose, 1e3, electronic, np.random.default_rng(1))[INNER].mean()
    assert 20 < starved < 200 and -200 < floored < -20


def test_full_dose_adds_nothing_and_seeds_decide() -> None:
    slices = lower_doses(WATER, SPACING, (1.0, 0.3, 0.3), seed=5)
    assert np.array_equal(slices[0], WATER)
    assert np.array_equal(slices, lower_doses(WATER, SPACING, (1.0, 0.3, 0.3), seed=(5,)))
    assert not np.array_equal(slices[1], slices[2])
    assert not np.array_equal(slices, lower_doses(WATER, SPACING, (1.0, 0.3, 0.3), seed=6))
    assert np.array_equal(lower_dose(WATER, SPACING, 0.3, seed=5), lower_doses(WATER, SPACING, (0.3,), seed=5)[0])


def test_only_noise_is_added() -> None:
    sharp = phantom((96, 120), seed=4)
    low = lower_dose(sharp, SPACING, 0.5, seed=1, i0=9e11)
    # Noise at 1e6 photons is under 20 HU, so at 9e11 under 0.02 HU, times 4; a reprojected edge would move by 100 HU.
    assert low.shape == sharp.shape and 0 < np.abs(low - sharp).max() < 0.08


@pytest.mark.parametrize(
    "change",
    [
        {"doses": (0.0,)}, {"doses": (0.5, 1.1)}, {"doses": (float("nan"),)}, {"doses": ()}, {"i0": 1.0},
        {"i0": float("inf")}, {"electronic_variance": -1.0}, {"seed": -1}, {"seed": (1, -1)}, {"kernel": "soft"},
        {"pixel_spacing_mm": 0.0}, {"hu": np.zeros((10, 40))}, {"hu": np.full((32, 32), -2001.0)}, {"device": "tpu"},
    ],
)  # fmt: skip
def test_wrong_arguments(change) -> None:
    with pytest.raises(ParameterError):
        lower_doses(**{"hu": WATER, "pixel_spacing_mm": SPACING, "doses": (0.5,), "seed": 1, **change})


def test_wrong_slices() -> None:
    for bad in (np.full((32, 32), np.nan), np.zeros((2, 32, 32))):
        with pytest.raises(ImageError):
            lower_dose(bad, SPACING, 0.5, seed=1)


@pytest.mark.parametrize("sigma", [5.0, 20.0])
def test_uniform_tissue_finds_white_noise(sigma) -> None:
    rng = np.random.default_rng(0)
    slices = [phantom((160, 160), seed=seed) + rng.normal(0, sigma, (160, 160)) for seed in (2, 3)]
    level, pixels = uniform_tissue(slices)
    # A 9x9 deviation scatters by 8 %; its most frequent value is within 1 % of sigma, the bins and their noise add 2 %.
    assert level == pytest.approx(sigma, rel=0.05)
    assert all(mask.sum() > 500 for mask in pixels)


@pytest.mark.parametrize(("i0", "kernel"), [(3e4, "hann"), (2e5, "hann"), (2e5, "ramp"), (1e6, "hann")])
def test_calibration_finds_the_photons(i0, kernel) -> None:
    slices = []
    for seed in (0, 1):
        body = phantom((192, 192), seed=seed)
        noise = Scan(body, 2.1, kernel).full_noise(i0, 10, np.random.default_rng((5, seed)))
        slices.append(body + noise)
    found = calibrate(slices, 2.1, kernel=kernel)
    # The level of two small slices is known to about 5 %, and I0 goes with its square; three sigma would be 30 %.
    assert found.i0 == pytest.approx(i0, rel=0.15)
    assert found.simulated_hu == pytest.approx(found.measured_hu, rel=0.05)


def test_calibration_needs_soft_tissue() -> None:
    for slices in ([np.full((64, 64), -1000.0)], []):
        with pytest.raises(ImageError, match="soft tissue"):
            calibrate(slices, 1.0)


SERIES = Series(
    "one", "anne", np.stack([phantom((64, 72), seed=seed) for seed in (1, 2)]).astype(np.float32), (4.0, 4.0), ()
)


class SimulatedAgain(Exception):
    pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEGPU_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_simulation(monkeypatch):
    """A function after whose call nothing can be simulated."""

    def refuse(*_, **__):
        raise SimulatedAgain

    return lambda: monkeypatch.setattr(simulate, "lower_doses", refuse)


def pairs(series=SERIES, doses=(0.5, 0.1), **changes):
    return pairs_of(series, doses, **{"i0": 1e5, "workers": 1, **changes})


def test_pairs(cache) -> None:
    calls = []
    got = pairs(progress=lambda *call: calls.append(call))
    assert calls == [("one", 1, 2), ("one", 2, 2)]
    assert (got.name, got.patient, got.doses, got.spacing_mm) == ("one", "anne", (0.5, 0.1), 4.0)
    assert got.full.dtype == got.low.dtype == np.int16
    assert got.low.shape == (2, *SERIES.hu.shape)
    assert np.array_equal(got.full, SERIES.hu)
    assert got.low.min() == -1024 and got.low.max() <= 3071
    noise = (got.low - got.full)[:, SERIES.hu > 0].std(axis=1)
    # sqrt((1 / 0.1 - 1) / (1 / 0.5 - 1)) = 3; one small field, 5 % each.
    assert noise[1] / noise[0] == pytest.approx(3, rel=0.2)
    pairs(progress=lambda *call: calls.append(call))
    assert len(calls) == 2


def test_pairs_come_from_the_cache(cache, no_simulation) -> None:
    first = pairs()
    no_simulation()
    assert np.array_equal(pairs().low, first.low)
    moved = SERIES.hu.copy()
    moved[1, 30, 30] += 1
    for change in (
        {"series": replace(SERIES, hu=moved)}, {"series": replace(SERIES, spacing_mm=(4.1, 4.1))}, {"doses": (0.5, 0.2)},
        {"i0": 1.1e5}, {"kernel": "ramp"}, {"seed": 1},
    ):  # fmt: skip
        with pytest.raises(SimulatedAgain):
            pairs(**change)


def test_damaged_cache_is_simulated_again(cache) -> None:
    first = pairs()
    files = sorted(cache.glob("*.npy"))
    assert len(files) == 2
    whole = files[0].read_bytes()
    for damaged in (
        b"",
        b"PK\x03\x04 no archive",
        whole[:-1],
        whole[:200],
        whole.replace(b"}", b"(", 1),
        whole[:8] + bytes(200),
    ):
        files[0].write_bytes(damaged)
        assert np.array_equal(pairs().low, first.low)
        assert files[0].read_bytes() == whole


def test_workers_give_the_same_bits(tmp_path, monkeypatch) -> None:
    results, calls = [], []
    for workers in (1, 2):
        monkeypatch.setenv("HEGPU_CACHE", str(tmp_path / str(workers)))
        results.append(pairs(workers=workers, progress=lambda *call: calls.append(call)).low)
    assert np.array_equal(*results)
    assert calls == [("one", 1, 2), ("one", 2, 2)] * 2


def test_paired_series_keep_their_own_low_dose(cache, no_simulation) -> None:
    no_simulation()
    low = SERIES.hu + 7.4
    got = pairs_of(replace(SERIES, low=low, dose=0.25), (0.1,))
    assert got.doses == (0.25,) and got.calibration is None
    assert np.array_equal(got.low[0], SERIES.hu + 7)
    with pytest.raises(ImageError, match="dose"):
        pairs_of(replace(SERIES, low=low), (0.1,))


def test_pairs_calibrate_once(cache, monkeypatch) -> None:
    noisy = SERIES.hu + np.random.default_rng(0).normal(0, 15, SERIES.hu.shape).astype(np.float32)
    series = replace(SERIES, hu=np.clip(noisy, -1024, 3071))
    first = pairs(series, i0=None)
    assert first.calibration is not None and 1e3 < first.calibration.i0 < 1e9
    monkeypatch.setattr(simulate, "calibrate", lambda *_, **__: pytest.fail("calibrated again"))
    again = pairs(series, i0=None)
    assert again.calibration == first.calibration and np.array_equal(again.low, first.low)
    monkeypatch.setattr(simulate, "calibrate", calibrate)
    with pytest.raises(ImageError, match="soft tissue"):
        pairs(replace(SERIES, hu=np.full((1, 64, 64), -1000, np.float32)), i0=None)


@pytest.mark.parametrize("side", [11, 64, 97])
def test_torch_projects_as_scikit_image_does(side) -> None:
    import torch
    from skimage.transform import iradon, radon

    rng = np.random.default_rng(side)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.where(np.hypot(x, y) <= side / 2 - 1, rng.random((side, side)), 0)
    angles = np.linspace(0, 180, side + 3, endpoint=False)
    sinogram = radon(image, angles)
    got = projector.project(torch.from_numpy(image), angles)
    # Rounding of float64, and of float32 in coordinates of up to 97 pixels.
    assert np.abs(got.numpy() - sinogram).max() < 1e-12 * sinogram.max()
    single = projector.project(torch.from_numpy(image).float(), angles)
    assert single.dtype == torch.float32
    assert np.abs(single.numpy() - sinogram).max() < 1e-5 * sinogram.max()
    noise = rng.normal(size=sinogram.shape)
    for kernel in KERNELS:
        for size in (side, side + 7):
            expected = iradon(noise, angles, filter_name=kernel, circle=False, output_size=size)
            image_of = projector.backproject(torch.from_numpy(noise), angles, kernel, size)
            assert np.abs(image_of.numpy() - expected).max() < 1e-12 * np.abs(expected).max()


def test_devices_give_the_same_slices(cache, no_simulation) -> None:
    pytest.importorskip("torch")
    body = phantom((96, 80), seed=2)
    with_skimage, with_torch = (lower_doses(body, 3.0, (0.5, 0.05), seed=3, device=device) for device in (None, "cpu"))
    # The integrals differ by 1e-15; at worst that moves one photon of thousands in a rare ray, by under 1 HU.
    assert np.abs(with_skimage - with_torch).max() < 1
    assert np.mean(np.rint(with_skimage) != np.rint(with_torch)) < 1e-3
    first = pairs(device="cpu", workers=2)
    no_simulation()
    assert np.array_equal(pairs().low, first.low)  # the key does not hold the device


def test_devices_calibrate_alike() -> None:
    pytest.importorskip("torch")
    noisy = phantom((96, 96), seed=0) + np.random.default_rng(0).normal(0, 15, (96, 96))
    assert calibrate([noisy], 4.0, device="cpu").i0 == pytest.approx(calibrate([noisy], 4.0).i0, rel=1e-3)


def test_devices_that_are_missing(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="GPU"):
        Scan(WATER, SPACING, device="cuda")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"hegpu\[train\]"):
        Scan(WATER, SPACING, device="cpu")
    assert Scan(WATER, SPACING).device is None


def test_projector_refuses_what_it_cannot_project() -> None:
    import torch

    for image in (torch.zeros(4, 5), torch.zeros(1, 1), torch.zeros(4, 4, dtype=torch.int32)):
        with pytest.raises(ParameterError):
            projector.project(image, [0.0])
    for arguments in (([0.0], "hann", 4), ([0.0, 1.0], "soft", 4), ([0.0, 1.0], "hann", 0)):
        with pytest.raises(ParameterError):
            projector.backproject(torch.zeros(4, 2), *arguments)


@pytest.mark.gpu
def test_gpu_gives_the_same_slices() -> None:
    body = phantom((160, 160), seed=2)
    first, again, reference = (lower_dose(body, 2.0, 0.1, seed=3, device=device) for device in ("cuda", "cuda", None))
    assert np.array_equal(first, again)
    assert np.mean(np.rint(first) != np.rint(reference)) < 1e-3
