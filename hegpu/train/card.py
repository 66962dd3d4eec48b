"""A model card: what a network was trained on, how, and what it reaches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hegpu.ct.series import Series
from hegpu.ct.simulate import Pairs
from hegpu.nets.description import Network

DISCLAIMER = "Research software, not a medical device: not for diagnosis or treatment."
CLARK = (
    "- Clark K et al. (2013), The Cancer Imaging Archive (TCIA): Maintaining and Operating a Public Information "
    "Repository, J Digit Imaging 26(6):1045-1057"
)


def model_card(
    net: Network,
    recipe: str,
    pairs: Sequence[Pairs],
    held: Sequence[Pairs],
    series: Sequence[Series],
    fidelity: str,
) -> str:
    """Markdown. ``recipe`` tells how it was trained; ``fidelity`` is a table made by ``evaluate``; ``series`` carry the attribution of the data."""
    weights = sum(array.size for array in net.weights.values())
    lines = [
        f"# {net.name}",
        "",
        f"{_size(net)}, {weights:,} weights. {DISCLAIMER}",
        "",
        f"Input planes: {', '.join(net.lifting)}; one unit of the result is {net.hu_scale:g} HU; border {net.border}; "
        f"{'returns the residual, the client adds the slice' if net.residual else 'returns the slice'}. "
        + (f"Weights are multiples of 2^-{net.fraction_bits}." if net.fraction_bits else "Weights are float32."),
        "",
        "## Training",
        "",
        f"{recipe} Doses: {', '.join(f'{dose:.0%}' for dose in sorted({d for pair in pairs for d in pair.doses}, reverse=True))}.",
        "",
        "| series | used for | slices | low dose | I0 (photons a ray) | noise in uniform tissue, measured / simulated [HU] |",
        "|---|---|---|---|---|---|",
        *(_row(pair, use) for use, group in (("training", pairs), ("validation", held)) for pair in group),
        "",
        "## Fidelity on the validation series",
        "",
        fidelity.strip(),
        "",
    ]
    if net.ranges:
        lines += [
            "## Ranges",
            "",
            f"Largest |pre-activation| / |output| per layer in calibration (lowest dose, metal, air), network units; an "
            f"encrypted executor reserves {net.margin:g} times as much: "
            + ", ".join(f"{name} {pre:.2f} / {post:.2f}" for name, (pre, post) in net.ranges.items()) + ".",
            "",
        ]  # fmt: skip
    return "\n".join([*lines, "## Attribution", "", *_attribution(series), ""])


def _size(net: Network) -> str:
    if len(net.layers) == 1:
        return f"One {net.layers[0].kernel}x{net.layers[0].kernel} filter"
    return f"{len(net.layers)} layers, {max(layer.outputs for layer in net.layers)} channels"


def _row(pair: Pairs, use: str) -> str:
    c = pair.calibration
    noise = "not measured" if c is None or np.isnan(c.measured_hu) else f"{c.measured_hu:.1f} / {c.simulated_hu:.1f}"
    kind = "measured" if c is None else "simulated"
    return f"| {pair.name} | {use} | {len(pair.full)} | {kind} | {f'{c.i0:.3g}' if c else '-'} | {noise} |"


def _attribution(series: Sequence[Series]) -> list[str]:
    rows = []
    for one in series:
        facts = [one.facts[key] for key in ("citation", "doi", "licence") if key in one.facts]
        rows.append(f"- {one.name}: {'; '.join(facts) or 'no attribution given with the data'}")
    return ["No image is part of this file. Changes made to the data: clipped to [-1024, 3071] HU, low dose simulated "
            "where the table says so.", "", *rows, *([CLARK] if any("tcia" in row for row in rows) else [])]  # fmt: skip
