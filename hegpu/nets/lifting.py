"""Lifting: the public rules by which a client makes the input planes of a network from a slice, in the clear."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from hegpu.errors import ModelError

MAX_PLANES = 16
_WINDOW = re.compile(r"window:(-?\d{1,5}):(-?\d{1,5})")
_MEAN = re.compile(r"mean:([3-9]|[12]\d|31)")


def check_lifting(name: str, rules: tuple[str, ...]) -> None:
    """Raises ``ModelError`` unless ``rules`` are 1 to 16 of "hu", "window:LOW:HIGH" and "mean:SIZE"."""
    if not 1 <= len(rules) <= MAX_PLANES:
        raise ModelError(f"Network {name!r}: {len(rules)} lifting rules; use 1 to {MAX_PLANES}")
    for rule in rules:
        window, mean = (_WINDOW.fullmatch(rule), _MEAN.fullmatch(rule)) if isinstance(rule, str) else (None, None)
        known = rule == "hu" or (window and int(window[1]) < int(window[2])) or (mean and int(mean[1]) % 2 == 1)
        if not known:
            raise ModelError(
                f"Network {name!r}: the lifting rule {rule!r:.80} is unknown; use 'hu', 'window:LOW:HIGH' with LOW < "
                "HIGH in HU, or 'mean:SIZE' with an odd SIZE from 3 to 31"
            )


def lift(rules: tuple[str, ...], hu: NDArray[np.float64], offset: float, scale: float) -> NDArray[np.float64]:
    """The planes ``[rule, y, x]`` of a slice ``[y, x]``.

    "hu": ``(HU - offset) / scale``. "window:LOW:HIGH": HU clipped to the window and mapped to [-1, 1]. "mean:SIZE":
    the mean of "hu" over SIZE x SIZE pixels, edge values repeated.
    """
    from scipy.ndimage import uniform_filter

    planes = []
    for rule in rules:
        kind, *numbers = rule.split(":")
        if kind == "window":
            low, high = (float(text) for text in numbers)
            planes.append((np.clip(hu, low, high) - low) * (2 / (high - low)) - 1)
        else:
            plane = (hu - offset) / scale
            planes.append(uniform_filter(plane, int(numbers[0]), mode="nearest") if kind == "mean" else plane)
    return np.stack(planes)
