"""Runs a traced graph on polynomials of planes; each operation of torch becomes a step of ``drafts``."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from hegpu.errors import ModelError
from hegpu.nets.fx.algebra import Atom, Planes, add, multiply
from hegpu.nets.fx.drafts import Drafts
from hegpu.nets.fx.trace import label

SUPPORTED = (
    "odd square Conv2d and ConvTranspose2d of stride 1, ReLU, adding an earlier output to a convolution, the gate "
    "u * (1 + v), b * x + a * x * x, a replicate padding of the input, central crops, Identity and Dropout"
)
_EDGE = 4096


class Reader(fx.Interpreter):
    """Reads a graph into ``drafts``; what it computes from parameters and numbers alone runs as it is."""

    def __init__(self, module: nn.Module, graph: fx.Graph, inputs: int) -> None:
        super().__init__(module, graph=graph)
        self.drafts, self.inputs = Drafts(), inputs
        self.operations: dict[str, Callable[..., Any]] = {
            "add": self._add, "mul": multiply, "multiply": multiply, "pow": _pow,
            "square": lambda input: multiply(input, input), "relu": self._relu, "pad": self._pad,
            "dropout": _dropout, "dropout2d": _dropout, "clone": dataclasses.replace,
            "contiguous": lambda input: input, "detach": lambda input: input,
            "chunk": partial(self._view, Tensor.chunk), "split": partial(self._view, Tensor.split),
            "getitem": partial(self._view, operator.getitem),
        }  # fmt: skip

    def read(self) -> Planes:
        """Run every node; returns the result of the module."""
        result = None
        for node in self.graph.nodes:
            try:
                self.env[node] = result = self.run_node(node)
            except Exception as error:
                raise ModelError(f"{label(node)}: {error}") from error
        assert isinstance(result, Planes)
        return result

    def run_node(self, n: fx.Node) -> Any:
        """The value of one node: planes, a tuple of planes, or a constant."""
        if n.op == "placeholder":
            if self.env or str(n.target).startswith("*"):
                raise ModelError("it is a second argument of the module; a network takes one input")
            return Planes.of(Atom(-1), self.inputs)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            return self._output(args[0])
        if not any(isinstance(self.env[node], (Planes, tuple)) for node in n.all_input_nodes):
            return super().run_node(n)
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            inplace, result = getattr(module, "inplace", False), self._module(str(n.target), module, *args, **kwargs)
        else:
            name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
            inplace = name.endswith("_") or kwargs.get("inplace", False)
            if (kind := name.removesuffix("_")) not in self.operations:
                raise ModelError(f"it is not supported; supported are {SUPPORTED}")
            result = self.operations[kind](*args, **kwargs)
        if inplace:
            args[0].become(result)
            return args[0]
        return result

    def _output(self, value: Any) -> Planes:
        if not isinstance(value, Planes):
            raise ModelError(f"the module returns a {type(value).__name__}; return one tensor of planes")
        if self.drafts.settle(value).layer < 0:
            raise ModelError("the module returns its input; a network has at least one convolution")
        return value

    def _module(self, target: str, module: nn.Module, input: Planes) -> Planes:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            return self.drafts.convolve(target, module, input)
        if isinstance(module, nn.ReLU):
            return self.drafts.relu(input)
        if isinstance(module, nn.ReplicationPad2d):
            return self._pad(input, module.padding, "replicate")
        if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d)):
            return input
        raise ModelError(f"{type(module).__name__} is not supported; supported are {SUPPORTED}")

    # Functions and methods. Their parameters are named as torch names them.

    def _add(self, input: Any, other: Any) -> Planes:
        if isinstance(input, Planes) and isinstance(other, Planes) and input.layer != other.layer:
            return self.drafts.skip(input, other)
        return add(input, other)

    def _relu(self, input: Planes, inplace: bool = False) -> Planes:
        return self.drafts.relu(input)

    def _pad(self, input: Planes, pad: Any, mode: str = "constant", value: Any = None) -> Planes:
        if mode != "replicate":
            raise ModelError(f"padding with mode {mode!r:.80} is not supported; use 'replicate', on the input only")
        if input.atom != Atom(-1) or input.crop:
            raise ModelError("it pads planes inside the network; pad the input once, by the network's radius")
        if list(pad) != [pad[0]] * 4:
            raise ModelError(f"it pads by {list(pad)}; pad all four sides by one amount")
        return Planes.of(Atom(-1), input.channels, -pad[0])

    def _view(self, view: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
        """What a view takes, found by taking it of a tensor without memory."""
        if isinstance(input, tuple):
            return view(input, *args)
        whole = torch.empty(1, input.channels, _EDGE, _EDGE, device="meta")
        taken = view(whole, *args, **kwargs)
        if isinstance(taken, Tensor):
            return self._part(input, whole, taken)
        return tuple(self._part(input, whole, part) for part in taken)

    def _part(self, planes: Planes, whole: Tensor, part: Tensor) -> Planes:
        """``planes``, cropped or halved as ``part`` is a view of ``whole``."""
        channel, pixel = divmod(int(part.storage_offset()), _EDGE * _EDGE)
        crop, size = pixel // _EDGE, _EDGE - 2 * (pixel // _EDGE)
        if part.stride() == whole.stride() and pixel == crop * (_EDGE + 1) and part.shape[2:] == (size, size):
            if part.shape[1] == planes.channels:
                return Planes(planes.terms, planes.channels, planes.crop + crop)
            if not crop and 2 * part.shape[1] == planes.channels and channel in (0, part.shape[1]):
                return self.drafts.half(planes, channel // part.shape[1])
        allowed = f"a central crop [:, :, c:-c, c:-c] by a constant c, nor one half of {planes.channels} channels"
        raise ModelError(f"it takes neither {allowed}")


def _pow(input: Any, exponent: Any) -> Planes:
    if exponent != 2:
        raise ModelError(f"the exponent {exponent!r:.80} is not supported; use 2")
    return multiply(input, input)


def _dropout(input: Planes, p: float = 0.5, training: bool = True, inplace: bool = False) -> Planes:
    if training:
        raise ModelError("it drops values in evaluation too; pass training=self.training")
    return input
