"""One round: the shape of its tiles, its scales, and what its answer looks like."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hegpu.backend.protocol import U32, Moduli, WordForm
from hegpu.tensor.tiles import Tiling


@dataclass(frozen=True)
class Round:
    """Layer ``index`` as a convolution of ``inputs`` encrypted planes to ``planes``.

    Inputs are integers in [-limit, limit], ``in_scale`` units per 1.0; the weights are integers, ``2^weight_bits`` per
    1.0. An answer's word times ``unit`` is the pre-activation. ``output_range``: what the layer's output is taken to
    reach, in network units. ``bits``, ``drop``: of the words of the answer's c1 and those lost from its c0; 0 bits: the
    last round, whose answer keeps the modulus.
    """

    index: int
    inputs: int
    planes: int
    tiling: Tiling
    group: int
    limit: int
    in_scale: float
    weight_bits: int
    output_range: float
    bits: int
    drop: int

    @property
    def groups(self) -> int:
        return -(-self.tiling.tiles // self.group)

    def tiles_of(self, group: int) -> range:
        return range(group * self.group, min((group + 1) * self.group, self.tiling.tiles))

    def objects(self, group: int) -> U32:
        """The stream numbers ``[inputs, tiles of the group]``: each (channel, tile) of the round has its own."""
        tiles = np.array(self.tiles_of(group), np.uint32)
        return np.asarray(np.arange(self.inputs, dtype=np.uint32)[:, None] * np.uint32(self.tiling.tiles) + tiles)

    @cached_property
    def c0_form(self) -> WordForm:
        return WordForm(self.bits, self.drop, self.tiling.valid_coefficients().astype(np.uint32))

    @cached_property
    def c1_form(self) -> WordForm:
        return WordForm(self.bits, 0, np.arange(self.tiling.n, dtype=np.uint32))

    def unit(self, modulus: int) -> float:
        """The pre-activation, in network units, behind one unit of the answer."""
        scale = self.in_scale * 2.0**self.weight_bits
        return 1 / scale if not self.bits else modulus / 2.0**self.bits / scale

    def answer_bytes(self, moduli: Moduli) -> tuple[int, int]:
        """Bytes of c0 and of c1 of one tile of one plane."""
        n, valid = self.tiling.n, len(self.c0_form.positions)
        if not self.bits:
            full = sum((n * q.bit_length() + 7) // 8 for q in moduli)
            return full, full
        return (valid * (self.bits - self.drop) + 7) // 8, (n * self.bits + 7) // 8
