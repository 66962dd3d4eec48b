"""What the client does with the words of an answer: scale, skip, activation, and integers for the next round."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import Backend, SignedInts
from hegpu.nets.plaintext import activate
from hegpu.protocols.client_relu.plan import Plan

F64 = npt.NDArray[np.float64]


@dataclass
class Planes:
    """Integers ``[channels, y, x]``, ``scale`` per network unit, saturated at +-``limit``."""

    values: SignedInts
    scale: float
    limit: int

    def at(self, backend: Backend, scale: float, limit: int) -> "Planes":
        """The same values at another scale."""
        if (scale, limit) == (self.scale, self.limit):
            return self
        values = backend.requantise(self.values, scale / self.scale, None, 0.0, (float(-limit), float(limit)))
        return Planes(values, scale, limit)


def output_scale(plan: Plan, index: int) -> tuple[float, int]:
    """Scale and limit of layer ``index``'s output: those of the first round that reads it, or of its own range."""
    name = plan.outline.layers[index].name
    return scale_for(plan, name, plan.rounds[index].output_range)


def scale_for(plan: Plan, name: str, reach: float) -> tuple[float, int]:
    for r in plan.rounds:
        if plan.outline.source_of(r.index) == name:
            return r.in_scale, r.limit
    limit = 1 << (40 if plan.wide else 30)
    return limit / reach, limit


def finish_words(
    backend: Backend, plan: Plan, index: int, words: SignedInts, skip: tuple[SignedInts | None, float], out: SignedInts
) -> None:
    """Words ``[planes, y, x]`` of an answer and the skip ``[outputs, y, x]`` with its scale -> ``out``, the output's
    integers ``[outputs, y, x]``."""
    words = words.astype(plan.dtype, copy=False)
    layer, unit = plan.outline.layers[index], plan.rounds[index].unit(plan.modulus)
    scale, limit = output_scale(plan, index)
    if layer.activation in ("none", "relu"):
        low = 0.0 if layer.activation == "relu" else float(-limit)
        backend.requantise(words, unit * scale, skip[0], scale / skip[1], (low, float(limit)), out)
    else:
        out[...] = np.rint(np.clip(activated(plan, index, words * np.float64(unit), skip) * scale, -limit, limit))


def activated(plan: Plan, index: int, x: F64, skip: tuple[SignedInts | None, float]) -> F64:
    """A layer's output ``[outputs, y, x]`` in network units from its pre-activations ``[planes, y, x]``."""
    quad = plan.quads[index]
    weights = {} if quad is None else {"linear": np.array(quad[0]), "square": np.array(quad[1])}
    added = None if skip[0] is None else skip[0] / np.float64(skip[1])
    return activate(plan.outline.layers[index], weights, x, added)
