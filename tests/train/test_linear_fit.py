import numpy as np
import pytest

from hegpu.ct.dose import lower_dose
from hegpu.ct.phantom import phantom
from hegpu.ct.simulate import Pairs
from hegpu.errors import ImageError, ParameterError
from hegpu.nets.compose import affine_filter
from hegpu.nets.file import load_network
from hegpu.nets.plaintext import run
from hegpu.train.linear import fit_linear, orbits, weighted_slices


def rmse(first, second):
    return float(np.sqrt(np.mean((first - second) ** 2)))


def noisy_pairs(count=2, size=48):
    rng = np.random.default_rng(0)
    for _ in range(count):
        full = np.cumsum(np.cumsum(rng.normal(size=(size, size)), axis=0), axis=1)
        yield full + rng.normal(size=full.shape) * 40, full, 1.0


@pytest.mark.parametrize("radius", [0, 1, 2, 6])
def test_orbits_partition_the_kernel(radius):
    taps = [tap for group in orbits(radius) for tap in group]
    assert len(taps) == len(set(taps)) == (2 * radius + 1) ** 2
    assert len(orbits(radius)) == (radius + 1) * (radius + 2) // 2


def test_the_fit_is_the_least_squares_over_all_eight_symmetries():
    pairs = list(noisy_pairs(2, 24))
    rows, targets = [], []
    for low, full, _ in pairs:
        for turn in range(4):
            for flip in (False, True):
                x, y = np.rot90(low, turn), np.rot90(full, turn)
                x, y = (x[:, ::-1], y[:, ::-1]) if flip else (x, y)
                windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, 1, mode="edge"), (3, 3))
                rows.append(np.column_stack([windows.reshape(-1, 9), np.ones(x.size) * 1024]))
                targets.append(y.ravel())
    expected = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0]
    net = fit_linear(pairs, kernel=3, ridge=0.0)
    np.testing.assert_allclose(net.weights["filter.weight"].ravel(), expected[:9], atol=2e-4)
    np.testing.assert_allclose(net.weights["filter.bias"][0], expected[9], atol=2e-4)


def test_fitted_weights_are_symmetric_multiples_and_lower_the_error():
    net = fit_linear(noisy_pairs(), kernel=7)
    weight = net.weights["filter.weight"][0, 0].astype(np.float64)
    for other in (weight.T, weight[::-1], weight[:, ::-1]):
        np.testing.assert_array_equal(weight, other)
    for values in (weight, net.weights["filter.bias"], affine_filter(net).kernel):
        assert np.array_equal(values * 2**16, np.rint(values * 2**16))
    for low, full, _ in noisy_pairs():
        assert rmse(run(net, low), full) < 0.7 * rmse(low, full)


def test_a_large_ridge_gives_the_identity():
    assert affine_filter(fit_linear(noisy_pairs(), kernel=3, ridge=1e9)).kernel.shape == (1, 1)


def test_bad_arguments():
    for kernel in (0, 4, 43, 3.0, True):
        with pytest.raises(ParameterError, match="kernel"):
            fit_linear(noisy_pairs(), kernel=kernel)
    with pytest.raises(ParameterError, match="ridge"):
        fit_linear(noisy_pairs(), ridge=-1.0)
    with pytest.raises(ParameterError, match="no pairs"):
        fit_linear([])
    with pytest.raises(ImageError, match="shapes"):
        fit_linear([(np.ones((4, 4)), np.ones((4, 5)), 1.0)])


@pytest.mark.parametrize("seed", [1, 5])
def test_the_shipped_network_lowers_the_error_of_a_low_dose_phantom(seed):
    # A scanner's resolution blurs edges; on edges one pixel sharp a linear filter costs more than the noise it takes.
    from skimage.filters import gaussian

    net = load_network("linear")
    full = gaussian(phantom((256, 256), seed=seed), 1.0, preserve_range=True)
    low = lower_dose(full, 1.6, 0.25, seed=seed)
    assert rmse(run(net, low), full) < 0.95 * rmse(low, full)
    composed = affine_filter(net)
    assert composed.kernel.shape == (13, 13)
    assert np.array_equal(composed.kernel * 2**16, np.rint(composed.kernel * 2**16))


def test_weights_are_those_of_the_slices():
    light, heavy = ([(low, full, w) for low, full, _ in noisy_pairs(1)] for w in (1.0, 7.0))
    other = [(low * 0.5, full, 1.0) for low, full, _ in noisy_pairs(1)]
    repeated = fit_linear(light * 7 + other, kernel=3)
    weighted = fit_linear(heavy + other, kernel=3)
    np.testing.assert_allclose(weighted.weights["filter.weight"], repeated.weights["filter.weight"], atol=1e-4)


def test_slices_count_by_the_error_they_start_with():
    full = np.zeros((3, 16, 16), np.int16)
    low = np.stack([full + 10, full + 100])
    slices = list(weighted_slices([Pairs("a", "a", full, low, (0.25, 0.05), 1.0, None)], every=2))
    assert len(slices) == 4
    assert [round(1 / weight) for _, _, weight in slices] == [125, 125, 10025, 10025]
