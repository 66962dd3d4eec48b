"""Import a torch module as a :class:`Network`: trace it, read its parts, and compare both on a random slice."""

from __future__ import annotations

from torch import nn

from hegpu.errors import ModelError
from hegpu.nets.description import Network
from hegpu.nets.fx.build import build
from hegpu.nets.fx.check import compare
from hegpu.nets.fx.operations import Reader
from hegpu.nets.fx.trace import own_copy, trace


def import_module(
    module: nn.Module,
    *,
    name: str,
    hu_offset: float,
    hu_scale: float,
    lifting: tuple[str, ...] = ("hu",),
    residual: bool = False,
) -> Network:
    """The network that ``module`` computes in evaluation mode, from planes ``[1, c, y, x]`` in network units.

    ``hu_offset`` and ``hu_scale`` in HU are those of its training; ``lifting`` makes its c input planes. The border is
    "zero" where every convolution keeps the size, "unpadded" where none pads, "replicate" where the input is padded by
    the network's radius. ``module`` stays as it is. Raises ``ModelError`` for a part that a network cannot express,
    and where the imported network and the module differ by more than 1e-5 of the result on a random slice.
    """
    try:
        own = own_copy(module)
        reader = Reader(own, trace(own), inputs=len(lifting))
        options = {"hu_offset": hu_offset, "hu_scale": hu_scale, "lifting": lifting, "residual": residual}
        net = build(reader.drafts, reader.read(), name, **options)
        compare(own, net)
    except ModelError as error:
        raise ModelError(f"import_module {name!r:.80}: {error}") from error
    return net
