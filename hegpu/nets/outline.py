"""A network without its weights: what a client must know to run the activations and skips itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hegpu.errors import FormatError, ModelError
from hegpu.nets.description import BORDERS, Graph, Layer, Network, check_graph
from hegpu.nets.lifting import check_lifting

_LAYER = {"name": str, "op": str, "kernel": int, "inputs": int, "outputs": int, "source": str, "activation": str}


@dataclass(frozen=True)
class Outline(Graph):
    """The fields of :class:`~hegpu.nets.description.Network` of the same names, and ``radius``."""

    name: str
    layers: tuple[Layer, ...]
    hu_offset: float
    hu_scale: float
    border: str
    phases: tuple[int, int] | None
    lifting: tuple[str, ...]
    residual: bool

    def __post_init__(self) -> None:
        check_lifting(self.name, self.lifting)
        check_graph(self.name, self.layers, len(self.lifting))
        if self.border not in BORDERS or (self.phases is not None) != (self.border == "slot-wrap"):
            raise ModelError(f"Outline {self.name!r:.80}: border {self.border!r:.80} with phases {self.phases!r:.80}")
        if self.phases is not None and any(type(p) is not int or not 1 <= p <= 64 for p in self.phases):
            raise ModelError(f"Outline {self.name!r:.80}: phases {self.phases!r:.80} are not two integers from 1 to 64")
        if not (abs(self.hu_offset) <= 1e6 and 1e-6 <= self.hu_scale <= 1e6):
            raise ModelError(f"Outline {self.name!r:.80}: a Hounsfield offset or scale is out of range")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "lifting": list(self.lifting), "phases": self.phases and list(self.phases)}

    @staticmethod
    def from_json(value: Any) -> Outline:
        """Errors: :class:`FormatError` for anything but what :meth:`to_json` writes."""
        try:
            layers = []
            for entry in value["layers"]:
                if set(entry) != {*_LAYER, "skip"} or any(type(entry[k]) is not t for k, t in _LAYER.items()):
                    raise FormatError("Outline: a layer has other fields; the plan is damaged")
                layers.append(Layer(**entry))
            numbers = (value["hu_offset"], value["hu_scale"])
            if any(type(v) not in (int, float) for v in numbers) or type(value["residual"]) is not bool:
                raise FormatError("Outline: a number or flag is damaged; ask the server again")
            phases = value["phases"]
            return Outline(
                str(value["name"])[:64], tuple(layers), float(numbers[0]), float(numbers[1]), value["border"],
                None if phases is None else (phases[0], phases[1]), tuple(value["lifting"]), value["residual"],
            )  # fmt: skip
        except (ModelError, KeyError, TypeError, ValueError, IndexError, AttributeError) as cause:
            raise FormatError(f"Outline: damaged or hostile ({cause!s:.120}); ask the server again") from cause


def outline(net: Network) -> Outline:
    """What ``net`` tells a client of ``client-relu`` before the first round."""
    return Outline(net.name, net.layers, net.hu_offset, net.hu_scale, net.border, net.phases, net.lifting, net.residual)
