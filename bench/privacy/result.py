"""What an experiment returns: figures, each with the claim it must meet, and curves for the pictures."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """``control``: a deliberately broken variant, whose ``claim`` is that the attack catches it."""

    name: str
    value: float
    claim: str
    holds: bool
    low: float | None = None
    high: float | None = None
    control: bool = False


@dataclass
class Experiment:
    """``curves``: name -> {"x": [...], "y": [...], ...}, drawn by the renderer."""

    key: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        value: float,
        claim: str,
        holds: bool,
        interval: tuple[float, float] | None = None,
        control: bool = False,
    ) -> None:
        low, high = (float(v) for v in interval) if interval else (None, None)
        self.figures.append(Figure(name, float(value), claim, bool(holds), low, high, control))

    @property
    def holds(self) -> bool:
        return all(f.holds for f in self.figures)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}
