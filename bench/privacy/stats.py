"""Intervals and tests that the experiments share."""

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

F64 = npt.NDArray[np.float64]
CONFIDENCE = 0.9995  # some twenty claims a run: one run in a hundred fails by luck


def clopper_pearson(hits: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact interval of a proportion: it covers with at least ``confidence``, whatever the proportion is."""
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(stats.beta.ppf(1 - tail, hits + 1, trials - hits))
    return low, high


def chi_squared(counts: npt.NDArray[np.int64], probabilities: F64) -> float:
    """p-value of counts against probabilities; cells that expect fewer than 10 are merged into their neighbour."""
    expected = probabilities / probabilities.sum() * counts.sum()
    merged: list[list[float]] = []
    for count, mean in zip(counts.tolist(), expected.tolist(), strict=True):
        if merged and merged[-1][1] < 10:
            merged[-1][0] += count
            merged[-1][1] += mean
        else:
            merged.append([count, mean])
    if len(merged) > 1 and merged[-1][1] < 10:
        count, mean = merged.pop()
        merged[-1][0] += count
        merged[-1][1] += mean
    table = np.array(merged)
    statistic = float(((table[:, 0] - table[:, 1]) ** 2 / table[:, 1]).sum())
    return float(stats.chi2.sf(statistic, len(table) - 1))


def binomial_difference(bits: int) -> tuple[npt.NDArray[np.int64], F64]:
    """Values and probabilities of CBD(bits): ones among ``bits`` coins minus ones among ``bits`` others."""
    values = np.arange(-bits, bits + 1)
    return values, np.asarray(stats.binom.pmf(values + bits, 2 * bits, 0.5))


def welch(a: F64, b: F64) -> float:
    """Welch's t of two samples of times."""
    return float(stats.ttest_ind(a, b, equal_var=False).statistic)


def robust_welch(a: F64, b: F64) -> float:
    """The largest |t| of the ranks and over several cuts of the slow tail, as dudect does: preemptions hide small
    differences, and a cut can take a slower class away as a whole."""
    both = np.concatenate([a, b])
    cuts = [np.quantile(both, share) for share in (0.5, 0.75, 0.9, 1.0)]
    kept = [(a[a <= cut], b[b <= cut]) for cut in cuts]
    ranks = stats.rankdata(both)
    tests = [abs(welch(x, y)) for x, y in kept if min(len(x), len(y)) >= 10]
    return max([abs(welch(ranks[: len(a)], ranks[len(a) :])), *tests])


def gaussian_advantage(distance: float) -> float:
    """Total variation between two Gaussians whose means are ``distance`` standard deviations apart: no test that sees
    one sample is right with probability above (1 + this) / 2. About 0.4 ``distance`` where it is small."""
    return math.erf(distance / (2 * math.sqrt(2)))


def trits_right(ratio: float) -> float:
    """Share of uniform trits that the best guess gets right from trit + Gaussian noise of variance 1 / ``ratio``."""
    if ratio <= 0:
        return 1 / 3
    sigma = 1 / math.sqrt(ratio)
    return (2 * stats.norm.cdf(0.5 / sigma) + (2 * stats.norm.cdf(0.5 / sigma) - 1)) / 3
