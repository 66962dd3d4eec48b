"""What a training run is: every choice that its result depends on, beside the data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from hegpu.errors import ParameterError
from hegpu.nets.description import Network
from hegpu.nets.family import family_layers

PRECISIONS = ("float32", "mixed")
FRACTIONAL = {"peak_lr", "range_limit", "range_weight", "clip", "rounded_share", "stress"}


def default_lifting(kind: str) -> tuple[str, ...]:
    """Levelled kinds see the slice clipped to 1500 HU, which bounds their ranges beside metal; the client adds the slice itself."""
    return ("window:-1500:1500",) if kind in ("redcnn-gate", "redcnn-quad") else ("hu",)


def default_peak_lr(kind: str) -> float:
    """Levelled kinds leave their stable range at rates that ReLU still takes."""
    return 1e-3 if kind in ("redcnn-gate", "redcnn-quad") else 1.5e-3


@dataclass(frozen=True)
class TrainConfig:
    """``kind``, ``width``, ``depth``: the network (``hegpu.nets.family``). Raises ``ParameterError``.

    ``batch`` patches of ``patch`` x ``patch`` pixels a step; the loss leaves out ``margin`` pixels at their edges,
    where context is missing. The learning rate rises over the first twentieth of ``steps`` to ``peak_lr`` and falls to
    zero as a cosine. ``range_limit``: pre-activations above it, in network units, are penalised (levelled kinds).
    Gradients are clipped to the norm ``clip``; a step whose loss is not finite, or 20 times the usual, is skipped.
    ``fraction_bits``: weights are rounded to multiples of 2^-fraction_bits at the end, and in the forward pass of the
    last ``rounded_share`` of the steps. ``stress``: share of patches with metal, air or one value,
    so that ranges hold on them too. ``precision`` "mixed" computes
    in bfloat16 until the last fifth of the steps.
    """

    kind: str = "redcnn-gate"
    width: int = 32
    depth: int = 10
    lifting: tuple[str, ...] = ("window:-1500:1500",)
    steps: int = 2400
    batch: int = 8
    patch: int = 64
    margin: int = 4
    peak_lr: float = 1e-3
    range_limit: float = 2.0
    range_weight: float = 30.0
    clip: float = 0.5
    fraction_bits: int | None = 10
    rounded_share: float = 0.1
    stress: float = 0.1
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        family_layers(self.kind, self.width, self.depth, len(self.lifting))
        if self.precision not in PRECISIONS:
            raise ParameterError(f"TrainConfig: precision {self.precision!r} is unknown; use one of {PRECISIONS}")
        limits = {"steps": (1, 10**7), "batch": (1, 4096), "patch": (16, 1024), "margin": (0, (self.patch - 1) // 2),
                  "peak_lr": (1e-8, 1), "range_limit": (0.01, 1e6), "range_weight": (0, 1e6), "clip": (1e-6, 1e6),
                  "rounded_share": (0, 1), "stress": (0, 1), "seed": (0, 2**63 - 1)}  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            kinds = (int, float) if name in FRACTIONAL else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                raise ParameterError(f"TrainConfig: {name} {value!r:.80} is not a number from {low} to {high}")
        if self.fraction_bits is not None and (
            type(self.fraction_bits) is not int or not 4 <= self.fraction_bits <= 16
        ):
            raise ParameterError(f"TrainConfig: fraction_bits {self.fraction_bits!r} is not from 4 to 16")

    def bfloat16(self, step: int) -> bool:
        """Whether a step computes in bfloat16."""
        return self.precision == "mixed" and step < 0.8 * self.steps

    @property
    def levelled(self) -> bool:
        """Whether the network's only non-linearity is of degree two."""
        return self.kind in ("redcnn-gate", "redcnn-quad")

    def recipe(self, start: Network | None) -> str:
        """One paragraph for a model card."""
        return (
            f"{self.kind}: {self.steps} steps of {self.batch} patches of {self.patch}x{self.patch}, dose drawn per patch, "
            f"{self.stress:.0%} of them with metal, air or one value, Adam, peak learning rate {self.peak_lr:g}, seed "
            f"{self.seed}, {self.precision} precision" + (f", from {start.name}" if start else "") + "."
        )

    def to_json(self) -> dict[str, object]:
        """Plain values, for a checkpoint or a model card."""
        return {**dataclasses.asdict(self), "lifting": list(self.lifting)}
