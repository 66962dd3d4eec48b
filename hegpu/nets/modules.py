"""The two activations that cost one ciphertext multiplication, as torch modules that ``importer`` recognises."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """``[batch, 2c, y, x]``, ``u`` first, to ``(u + skip) * (1 + v)`` of shape ``[batch, c, y, x]``."""

    def forward(self, planes: Tensor, skip: Tensor | None = None) -> Tensor:
        """``skip`` is ``[batch, c, y, x]``; None adds nothing."""
        u, v = planes.chunk(2, 1)
        return (u if skip is None else u + skip) * (1 + v)


class Quadratic(nn.Module):
    """``linear * x + square * x^2`` of ``[batch, channels, y, x]``, two trained values a channel; starts as ``x``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.ones(channels, 1, 1))
        self.square = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, planes: Tensor) -> Tensor:
        """Every channel on its own; the shape stays."""
        return planes * (self.linear + self.square * planes)
