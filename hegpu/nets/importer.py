"""Read a torch module as a :class:`Network`: trace it with torch.fx, match its parts, and compare both on a slice.

While the graph is read, a value is a polynomial over planes: a convolution's output, one half of its channels, or the
input. Sums and products are carried out on it, so every way to write a gate or a quadratic activation gives one form.
The sum of two outputs of different layers is a skip and closes the convolution that it follows.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from hegpu.ct.hounsfield import HU_MAX, HU_MIN
from hegpu.errors import ModelError
from hegpu.nets.description import INPUT, Layer, Network, growth
from hegpu.nets.lifting import check_lifting, lift
from hegpu.nets.modules import Gate, Quadratic
from hegpu.nets.torch_net import run_torch

TOLERANCE = 1e-5
SUPPORTED = (
    "Conv2d and ConvTranspose2d with an odd square kernel and stride 1, ReLU, the addition of an earlier output to a "
    "convolution, the gate u * (1 + v), the quadratic b * x + a * x * x, a replicate padding of the input, central "
    "crops, Identity and Dropout"
)

_RAW, _SUM, _OUT = range(3)
_WHOLE = -1

_FUNCTIONS: dict[Any, str] = {
    operator.add: "add", operator.iadd: "add", torch.add: "add",
    operator.mul: "mul", operator.imul: "mul", torch.mul: "mul", torch.multiply: "mul",
    operator.pow: "pow", torch.pow: "pow", torch.square: "square",
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu",
    torch.chunk: "chunk", torch.split: "split", operator.getitem: "getitem",
    F.pad: "pad", F.dropout: "dropout", F.dropout2d: "dropout", torch.clone: "clone",
}  # fmt: skip
_METHODS = {
    "add": "add", "add_": "add", "mul": "mul", "mul_": "mul", "multiply": "mul", "pow": "pow", "square": "square",
    "relu": "relu", "relu_": "relu", "chunk": "chunk", "split": "split", "clone": "clone",
    "contiguous": "keep", "detach": "keep",
}  # fmt: skip
_MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Conv2d, "convolve"), (nn.ConvTranspose2d, "convolve"), (nn.ReLU, "relu_module"), (nn.Identity, "keep_module"),
    (_DropoutNd, "keep_module"), (nn.ReplicationPad2d, "pad_module"), (Gate, "gate"), (Quadratic, "quadratic"),
)  # fmt: skip


class _Atom(NamedTuple):
    """The planes of layer ``layer`` (-1: the input), all or one half, after its convolution, addition or activation."""

    layer: int
    part: int = _WHOLE
    step: int = _RAW


_INPUT = _Atom(-1, step=_OUT)
_Terms = dict[tuple[_Atom, ...], Tensor]
_ONE = torch.ones((), dtype=torch.float64)


@dataclass(eq=False)
class _Planes:
    """A polynomial: products of at most two atoms to a float64 coefficient ``[]`` or ``[channels]``.

    ``crop`` pixels are cut from every side of the planes; only a single atom is cropped.
    """

    terms: _Terms
    channels: int
    crop: int = 0

    @property
    def atom(self) -> _Atom | None:
        """The one atom that this is, where it is no sum or product."""
        (product, factor), *more = self.terms.items()
        return product[0] if len(product) == 1 and not more and _is_one(factor) else None

    @property
    def layers(self) -> set[int]:
        return {atom.layer for product in self.terms for atom in product}


@dataclass(eq=False)
class _Draft:
    """A layer that is being read. ``growth``: pixels a side by which its planes exceed the slice."""

    name: str
    conv: nn.Conv2d | nn.ConvTranspose2d
    source: _Atom
    growth: int
    current: _Atom
    skip: _Atom | None = None
    before: _Atom | None = None
    activation: str = "none"
    formula: _Terms | None = None
    swapped: bool = False
    linear: Tensor | None = None
    square: Tensor | None = None


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
    if not isinstance(module, nn.Module):
        raise ModelError(f"import_module {name!r:.80}: {type(module).__name__} is no torch.nn.Module; give one")
    check_lifting(name, tuple(lifting))
    own = _own_copy(module, name)
    reader = _Reader(name, own, len(lifting))
    reader.read(_trace(own, name))
    net = reader.network(hu_offset=hu_offset, hu_scale=hu_scale, lifting=tuple(lifting), residual=residual)
    _compare(own, net)
    return net


def _own_copy(module: nn.Module, name: str) -> nn.Module:
    """A float64 copy on the CPU in evaluation mode."""
    if isinstance(module, nn.DataParallel):
        module = module.module
    lazy = [key for key, value in module.named_parameters() if is_lazy(value)]
    if lazy:
        raise ModelError(f"import_module {name!r:.80}: {lazy[0]!r} has no values yet; run the module once")
    try:
        own = copy.deepcopy(module).cpu().double().eval()
    except Exception as error:
        raise ModelError(
            f"import_module {name!r:.80}: {type(module).__name__} cannot be copied ({str(error)[:200]}); give a plain "
            "module whose parameters are leaves"
        ) from error
    return nn.Sequential(own) if _Tracer().is_leaf_module(own, "") else own


class _Tracer(fx.Tracer):
    """Keeps our activations whole and remembers the module whose code cannot be traced."""

    failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in (Gate, Quadratic) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def _trace(module: nn.Module, name: str) -> fx.Graph:
    tracer = _Tracer()
    try:
        return tracer.trace(module)
    except Exception as error:
        raise ModelError(
            f"import_module {name!r:.80}: {tracer.failed or type(module).__name__!r}: torch.fx cannot trace its forward "
            f"({str(error)[:200]}); write it without branches and loops that depend on the data"
        ) from error


def _is_one(coefficient: Tensor) -> bool:
    return bool((coefficient == 1).all())


def _same(first: _Terms, second: _Terms) -> bool:
    return first.keys() == second.keys() and all(bool((first[key] == second[key]).all()) for key in first)


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, _Planes) or (isinstance(value, tuple) and any(isinstance(part, _Planes) for part in value))


def _is_inplace(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return bool(getattr(module, "inplace", False))
    title = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    inplace = node.kwargs.get("inplace", False)
    return bool(inplace) or title.endswith("_") or node.target in (operator.iadd, operator.imul)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_constant_slice(index: Any) -> bool:
    return isinstance(index, slice) and all(
        value is None or _is_integer(value) for value in (index.start, index.stop, index.step)
    )


def _is_all(index: slice, size: int | None = None) -> bool:
    """Whether a slice takes everything of an axis of ``size``."""
    return index.start in (None, 0) and index.stop in (None, size) and index.step in (None, 1)


class _Reader:
    """Reads a traced graph, node by node, into drafts of layers."""

    def __init__(self, name: str, module: nn.Module, inputs: int) -> None:
        self.name, self.module, self.inputs = name, module, inputs
        self.values: dict[fx.Node, Any] = {}
        self.drafts: list[_Draft] = []
        self.uses: list[tuple[_Atom, str]] = []
        self.padded: dict[bool, str] = {}
        self.border_pad, self.pad_label = 0, ""
        self.result, self.result_crop = _INPUT, 0

    def read(self, graph: fx.Graph) -> None:
        """Fill ``drafts`` and ``result``."""
        self._find_pad(graph)
        for node in graph.nodes:
            self.values[node] = self._value(node)
        self._check_uses()

    def network(self, *, hu_offset: float, hu_scale: float, lifting: tuple[str, ...], residual: bool) -> Network:
        """The drafts as a checked network."""
        order = self._order()
        border = self._border()
        layers: list[Layer] = []
        weights: dict[str, NDArray[np.float32]] = {}
        for draft in order:
            layer = self._layer(draft)
            layers.append(layer)
            weights |= _weights(draft, layer)
        net = Network(
            self.name, tuple(layers), weights, hu_offset, hu_scale, border, lifting=lifting, residual=residual
        )
        if border == "replicate" and net.radius != self.border_pad:
            self._fail(
                self.pad_label,
                f"it pads the input by {self.border_pad}, but the network sees {net.radius} pixels far; pad by just that",
            )
        return net

    def _fail(self, where: str, why: str) -> NoReturn:
        raise ModelError(f"import_module {self.name!r:.80}: {where}: {why}")

    def _label(self, node: fx.Node) -> str:
        """The module that a node calls, or the node with its operation and the module that it lies in."""
        if node.op == "call_module":
            return repr(node.target)
        title = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        stack = list(node.meta.get("nn_module_stack") or {})
        return f"{node.name!r} ({title}{f' in {stack[-1]!r}' if stack else ''})"

    def _title(self, atom: _Atom) -> str:
        return INPUT if atom.layer < 0 else self.drafts[atom.layer].name

    # The graph.

    def _find_pad(self, graph: fx.Graph) -> None:
        """Take the amount of the first replicate padding; ``_pad`` then checks each."""
        for node in graph.nodes:
            module = self._called(node)
            if isinstance(module, nn.ReplicationPad2d):
                amount: Any = module.padding
            elif node.op == "call_function" and node.target is F.pad:
                amount = node.kwargs.get("pad", node.args[1] if len(node.args) > 1 else None)
            else:
                continue
            if isinstance(amount, (tuple, list)) and amount and _is_integer(amount[0]) and amount[0] > 0:
                self.border_pad, self.pad_label = amount[0], self._label(node)
                return

    def _called(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.module)
        args = fx.node.map_arg(node.args, self.values.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self.values.__getitem__)
        if node.op == "output":
            return self._output(node, args)
        module = self._called(node)
        if not any(_is_symbolic(self.values[other]) for other in node.all_input_nodes):
            return self._constant(node, module, args, kwargs)
        handler = self._handler(node, module)
        extra = (node,) if module is None else (node, module)
        try:
            bound = inspect.signature(handler).bind(*extra, *args, **kwargs)
        except TypeError as error:
            self._fail(self._label(node), f"its arguments are not supported ({error}); supported are {SUPPORTED}")
        result = handler(*bound.args, **bound.kwargs)
        if _is_inplace(node, module) and args and isinstance(args[0], _Planes):
            for other, value in self.values.items():
                if value is args[0]:
                    self.values[other] = result
        return result

    def _placeholder(self, node: fx.Node) -> _Planes:
        if self.values or str(node.target).startswith("*"):
            self._fail(self._label(node), "it is a second argument of the module; a network takes one input")
        return _Planes({(_INPUT,): _ONE}, self.inputs, self.border_pad)

    def _constant(self, node: fx.Node, module: nn.Module | None, args: Any, kwargs: Any) -> Any:
        """Carry out an operation on parameters and numbers alone."""
        try:
            if module is not None:
                return module(*args, **kwargs)
            target: Any = getattr(args[0], str(node.target)) if node.op == "call_method" else node.target
            return target(*(args[1:] if node.op == "call_method" else args), **kwargs)
        except Exception as error:
            self._fail(self._label(node), f"it fails ({str(error)[:200]}); make the module run first")

    def _handler(self, node: fx.Node, module: nn.Module | None) -> Callable[..., Any]:
        if module is not None:
            kind = next((kind for known, kind in _MODULES if isinstance(module, known)), None)
        else:
            table: Mapping[Any, str] = _FUNCTIONS if node.op == "call_function" else _METHODS
            kind = table.get(node.target)
        if kind is None:
            title = "it" if module is None else type(module).__name__
            self._fail(self._label(node), f"{title} is not supported; supported are {SUPPORTED}")
        handler: Callable[..., Any] = getattr(self, f"_{kind}")
        return handler

    def _output(self, node: fx.Node, args: Any) -> None:
        value = args[0]
        if not isinstance(value, _Planes):
            self._fail(self._label(node), f"the module returns a {type(value).__name__}; return one tensor of planes")
        atom = self._settle(node, value)
        if atom == _INPUT:
            self._fail(self._label(node), "the module returns its input; a network has at least one convolution")
        self.result, self.result_crop = atom, value.crop
        self.uses.append((atom, "the module's result"))

    # Operations. Their parameters are named as torch names them.

    def _convolve(self, node: fx.Node, conv: nn.Conv2d | nn.ConvTranspose2d, input: Any) -> _Planes:
        label = self._label(node)
        padding = self._padding(label, conv)
        value = self._planes(node, input)
        source = self._settle(node, value)
        if value.crop and source == _INPUT and value.crop == self.border_pad:
            self._fail(
                self.pad_label, f"{label} uses the input without this padding; pad the input once, before all else"
            )
        if value.crop:
            self._fail(label, "it convolves cropped planes; crop only before an addition and at the end")
        if value.channels != conv.in_channels:
            self._fail(label, f"it takes {conv.in_channels} channels, {self._title(source)!r} has {value.channels}")
        step = conv.kernel_size[0] // 2 - padding
        size = self._growth(source) + (step if isinstance(conv, nn.ConvTranspose2d) else -step)
        atom = _Atom(len(self.drafts))
        self.drafts.append(_Draft(self._new_name(str(node.target)), conv, source, size, atom))
        self.uses.append((source, label))
        return _Planes({(atom,): _ONE}, conv.out_channels)

    def _padding(self, label: str, conv: nn.Conv2d | nn.ConvTranspose2d) -> int:
        """The padding of a convolution that a network can express: 0 or ``kernel // 2``, as all others."""
        kernel = conv.kernel_size[0]
        checks = (
            (conv.kernel_size == (kernel, kernel) and kernel % 2 == 1, f"kernel {conv.kernel_size}", "odd and square"),
            (conv.stride == (1, 1), f"stride {conv.stride}", "1"),
            (conv.dilation == (1, 1), f"dilation {conv.dilation}", "1"),
            (conv.groups == 1, f"groups {conv.groups}", "1"),
            (conv.output_padding == (0, 0), f"output_padding {conv.output_padding}", "0"),
        )
        for good, what, allowed in checks:
            if not good:
                self._fail(label, f"{type(conv).__name__} with {what} is not supported; it must be {allowed}")
        radius = kernel // 2
        padding: Any = conv.padding
        if isinstance(padding, str):
            padding = {"same": (radius, radius), "valid": (0, 0)}[padding]
        if padding not in ((0, 0), (radius, radius)):
            self._fail(label, f"padding {conv.padding} is not supported; use 0 or kernel // 2 = {radius}")
        amount = int(padding[0])
        if amount and conv.padding_mode != "zeros":
            self._fail(
                label,
                f"padding_mode {conv.padding_mode!r} is not supported; use 'zeros', or pad the input once with "
                "ReplicationPad2d and no convolution",
            )
        if radius:
            self.padded.setdefault(amount > 0, label)
            if amount and self.border_pad:
                self._fail(label, f"it pads, and {self.pad_label} pads the input too; use one of the two")
            if len(self.padded) == 2:
                self._fail(
                    label,
                    f"padding {amount} differs from that of {self.padded[not amount]}; pad all by kernel // 2, or none",
                )
        return amount

    def _new_name(self, target: str) -> str:
        base = "".join(
            letter if (letter.isascii() and letter.isalnum()) or letter in "_.-" else "_" for letter in target
        )
        base, taken = base[-56:], {INPUT, *(draft.name for draft in self.drafts)}
        return next(new for new in (base, *(f"{base}-{i}" for i in range(2, len(taken) + 3))) if new not in taken)

    def _add(self, node: fx.Node, input: Any, other: Any, *, alpha: Any = 1) -> _Planes:
        if isinstance(alpha, Tensor) or alpha != 1:
            self._fail(self._label(node), f"alpha {alpha!r:.80} is not supported; add with alpha 1")
        if isinstance(input, _Planes) and isinstance(other, _Planes):
            if input.layers != other.layers:
                return self._skip(node, input, other)
            self._check_uncropped(node, input, other)
            return _combine(input, other.terms)
        value, constant = self._sides(node, input, other)
        return _combine(value, {(): self._coefficient(node, constant, value.channels)})

    def _mul(self, node: fx.Node, input: Any, other: Any) -> _Planes:
        if isinstance(input, _Planes) and isinstance(other, _Planes):
            self._check_uncropped(node, input, other)
            if len(input.layers | other.layers) != 1 or input.channels != other.channels:
                self._fail(
                    self._label(node),
                    "it multiplies planes of different layers; supported products are the gate u * (1 + v) of one "
                    "convolution and the quadratic b * x + a * x * x",
                )
            terms: _Terms = {}
            for first, factor in input.terms.items():
                for second, other_factor in other.terms.items():
                    product = tuple(sorted(first + second))
                    term = factor * other_factor
                    terms[product] = terms[product] + term if product in terms else term
            if max(map(len, terms)) > 2:
                self._fail(self._label(node), "it multiplies three planes; an activation has at most degree 2")
            return _Planes(terms, input.channels)
        value, constant = self._sides(node, input, other)
        factor = self._coefficient(node, constant, value.channels)
        return _Planes({product: old * factor for product, old in value.terms.items()}, value.channels)

    def _pow(self, node: fx.Node, input: Any, exponent: Any) -> _Planes:
        if isinstance(exponent, (_Planes, Tensor)) or exponent != 2:
            self._fail(self._label(node), f"the exponent {exponent!r:.80} is not supported; use 2")
        return self._mul(node, input, input)

    def _square(self, node: fx.Node, input: Any) -> _Planes:
        return self._mul(node, input, input)

    def _relu(self, node: fx.Node, input: Any, inplace: bool = False) -> _Planes:
        value = self._planes(node, input)
        atom = self._settle(node, value)
        draft = self._draft(node, atom)
        if draft.activation == "relu" and draft.before == atom:
            return _Planes({(draft.current,): _ONE}, value.channels, value.crop)
        self._check_open(node, atom)
        draft.activation, draft.before, draft.current = "relu", atom, _Atom(atom.layer, step=_OUT)
        return _Planes({(draft.current,): _ONE}, value.channels, value.crop)

    def _chunk(self, node: fx.Node, input: Any, chunks: Any, dim: Any = 0) -> tuple[_Planes, _Planes]:
        if chunks != 2 or dim not in (1, -3):
            self._fail(self._label(node), f"chunk({chunks}, {dim}) is not supported; halve the channels: chunk(2, 1)")
        return self._halves(node, input)

    def _split(self, node: fx.Node, tensor: Any, split_size: Any, dim: Any = 0) -> tuple[_Planes, _Planes]:
        half = self._planes(node, tensor).channels // 2
        sizes = [split_size] * 2 if _is_integer(split_size) else split_size
        if sizes != [half, half] or dim not in (1, -3):
            self._fail(self._label(node), f"split({split_size}, {dim}) is not supported; halve the channels")
        return self._halves(node, tensor)

    def _getitem(self, node: fx.Node, a: Any, b: Any) -> Any:
        if isinstance(a, tuple) and _is_integer(b) and -2 <= b < 2:
            return a[b]
        value = self._planes(node, a)
        index = list(b) if isinstance(b, tuple) else [b]
        for place in [place for place, part in enumerate(index) if part is Ellipsis][:1]:
            index[place : place + 1] = [slice(None)] * (5 - len(index))
        index += [slice(None)] * (4 - len(index))
        if len(index) != 4 or not all(map(_is_constant_slice, index)) or not _is_all(index[0]):
            self._fail(
                self._label(node), "this indexing is not supported; use [:, :, c:-c, c:-c] or halve the channels"
            )
        if not _is_all(index[1], value.channels):
            if not (_is_all(index[2]) and _is_all(index[3])):
                self._fail(self._label(node), "it takes channels and crops at once; do one after the other")
            return self._half(node, value, index[1])
        return self._crop(node, value, index[2], index[3])

    def _crop(self, node: fx.Node, value: _Planes, rows: slice, columns: slice) -> _Planes:
        if _is_all(rows) and _is_all(columns):
            return dataclasses.replace(value)
        start = rows.start or 0
        if start < 1 or any((axis.start, axis.stop, axis.step or 1) != (start, -start, 1) for axis in (rows, columns)):
            self._fail(
                self._label(node),
                "it is no central crop by constants; write [:, :, c:-c, c:-c] with an integer c above 0",
            )
        atom = self._settle(node, value)
        return _Planes({(atom,): _ONE}, value.channels, value.crop + start)

    def _half(self, node: fx.Node, value: _Planes, index: slice) -> _Planes:
        taken = range(value.channels)[index]
        half = value.channels // 2
        parts = (range(half), range(half, 2 * half))
        if taken not in parts or value.channels % 2:
            self._fail(
                self._label(node),
                f"it takes other channels than one half of {value.channels}; only a gate's halves are supported",
            )
        return self._halves(node, value)[parts.index(taken)]

    def _pad(self, node: fx.Node, input: Any, pad: Any, mode: str = "constant", value: Any = None) -> _Planes:
        planes, amounts = self._planes(node, input), list(pad) if isinstance(pad, (tuple, list)) else [pad]
        if mode != "replicate":
            self._fail(
                self._label(node),
                f"padding with mode {mode!r:.80} is not supported; use 'replicate', on the input only",
            )
        if planes.atom != _INPUT or planes.crop != self.border_pad:
            self._fail(
                self._label(node), "it pads planes inside the network; pad the input once, by the network's radius"
            )
        if amounts != [self.border_pad] * 4:
            self._fail(self._label(node), f"it pads by {amounts}; pad all four sides by one amount, once")
        return dataclasses.replace(planes, crop=0)

    def _pad_module(self, node: fx.Node, module: nn.ReplicationPad2d, input: Any) -> _Planes:
        return self._pad(node, input, module.padding, "replicate")

    def _dropout(self, node: fx.Node, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if training:
            self._fail(self._label(node), "it drops values in evaluation too; pass training=self.training")
        return input

    def _relu_module(self, node: fx.Node, module: nn.ReLU, input: Any) -> _Planes:
        return self._relu(node, input)

    def _keep_module(self, node: fx.Node, module: nn.Module, input: Any) -> Any:
        return input

    def _keep(self, node: fx.Node, input: Any) -> Any:
        return input

    def _clone(self, node: fx.Node, input: Any) -> _Planes:
        return dataclasses.replace(self._planes(node, input))

    def _gate(self, node: fx.Node, module: Gate, planes: Any, skip: Any = None) -> _Planes:
        u, v = self._halves(node, planes)
        if skip is not None:
            u = self._skip(node, u, self._planes(node, skip))
        return self._mul(node, u, self._add(node, v, 1.0))

    def _quadratic(self, node: fx.Node, module: Quadratic, planes: Any) -> _Planes:
        value = self._planes(node, planes)
        slope = self._add(node, self._mul(node, value, module.square), module.linear)
        return self._mul(node, value, slope)

    # Values.

    def _planes(self, node: fx.Node, value: Any) -> _Planes:
        if not isinstance(value, _Planes):
            self._fail(self._label(node), f"it takes a {type(value).__name__} for planes; supported are {SUPPORTED}")
        return value

    def _sides(self, node: fx.Node, first: Any, second: Any) -> tuple[_Planes, Any]:
        """The planes and the constant of two operands."""
        planes, constant = (first, second) if isinstance(first, _Planes) else (second, first)
        value = self._planes(node, planes)
        self._check_uncropped(node, value)
        return value, constant

    def _check_uncropped(self, node: fx.Node, *values: _Planes) -> None:
        if any(value.crop for value in values):
            self._fail(self._label(node), "it computes with cropped planes; crop after the activation")

    def _draft(self, node: fx.Node, atom: _Atom) -> _Draft:
        if atom.layer < 0:
            self._fail(self._label(node), "it applies an activation to the input; put a convolution before it")
        return self.drafts[atom.layer]

    def _growth(self, atom: _Atom) -> int:
        return self.border_pad if atom.layer < 0 else self.drafts[atom.layer].growth

    def _check_open(self, node: fx.Node, atom: _Atom) -> None:
        """Refuse to go on from ``atom`` where its layer went on from it before, or is complete."""
        draft = self._draft(node, atom)
        if draft.current.step == _OUT or draft.current != atom:
            self._fail(
                self._label(node),
                f"layer {draft.name!r} already has its addition or activation; a layer is a convolution, one addition "
                "and one activation, and passes on only what comes last (call a convolution twice to use it twice)",
            )

    def _coefficient(self, node: fx.Node, value: Any, channels: int) -> Tensor:
        """A constant as float64 ``[]`` or ``[channels]``."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return torch.tensor(float(value), dtype=torch.float64)
        shape = tuple(value.shape) if isinstance(value, Tensor) and not value.is_complex() else None
        single = shape is not None and len(shape) <= 4 and value.numel() == 1
        if not single and shape not in ((channels, 1, 1), (1, channels, 1, 1)):
            kind = type(value).__name__ if shape is None else f"a tensor of shape {shape}"
            self._fail(
                self._label(node),
                f"its constant is {kind}; use a number or one value a channel, of shape [{channels}, 1, 1]",
            )
        array: Tensor = value.detach().to(torch.float64).reshape(() if single else channels)
        return array

    def _halves(self, node: fx.Node, input: Any) -> tuple[_Planes, _Planes]:
        value = self._planes(node, input)
        atom = self._settle(node, value)
        if atom.step != _RAW or atom.layer < 0 or value.crop or value.channels % 2:
            self._fail(
                self._label(node),
                f"it halves {self._title(atom)!r} of {value.channels} channels; for a gate, halve an even number of "
                "channels directly after a convolution and add the skip to u",
            )
        u, v = (_Planes({(atom._replace(part=part),): _ONE}, value.channels // 2) for part in (0, 1))
        return u, v

    def _skip(self, node: fx.Node, first: _Planes, second: _Planes) -> _Planes:
        """The addition of two layers' planes: one of them a fresh convolution, or half of one, that takes the other."""
        pairs = [(first, second), (second, first)]
        fresh = [(self._fresh(value), value, other) for value, other in pairs]
        known = [(atom, value, other) for atom, value, other in fresh if atom is not None]
        if not known:
            titles = " and ".join(repr(self._title(self._settle(node, value))) for value in (first, second))
            self._fail(
                self._label(node),
                f"it adds {titles}, neither of which is a convolution without addition and activation; each addition "
                "must follow a convolution of its own (a 1x1 convolution may stand in)",
            )
        atom, value, other = max(known, key=lambda entry: entry[0])
        skip = self._settle(node, other)
        if value.channels != other.channels:
            self._fail(self._label(node), f"it adds {other.channels} channels to {value.channels}; make them equal")
        draft = self.drafts[atom.layer]
        sizes = draft.growth, self._growth(skip)
        size = sizes[0] - value.crop
        if size != sizes[1] - other.crop:
            self._fail(
                self._label(node),
                f"{draft.name!r} and {self._title(skip)!r} differ by {abs(size - sizes[1] + other.crop)} pixels a side; "
                "crop the larger",
            )
        draft.skip, draft.growth, draft.current = skip, min(sizes), atom._replace(step=_SUM)
        self.uses.append((skip, self._label(node)))
        return _Planes({(draft.current,): _ONE}, value.channels, draft.growth - size)

    def _fresh(self, value: _Planes) -> _Atom | None:
        """The atom of ``value`` where it is what a convolution made, whole or half, and nothing went on from it."""
        atom = value.atom
        if atom is None or atom.layer < 0 or atom.step != _RAW or (atom.part != _WHOLE and value.crop):
            return None
        return atom if self.drafts[atom.layer].current == atom._replace(part=_WHOLE) else None

    def _settle(self, node: fx.Node, value: _Planes) -> _Atom:
        """The output that ``value`` is; a sum of products closes its layer with the activation that it matches."""
        if (atom := value.atom) is not None:
            if atom.part != _WHOLE:
                self._fail(
                    self._label(node),
                    f"it uses one half of the channels of {self._title(atom)!r}; supported is the gate u * (1 + v) of "
                    "both halves",
                )
            return atom
        layers = value.layers
        draft = self.drafts[layers.pop()] if len(layers) == 1 and min(layers) >= 0 else None
        if draft is not None and draft.formula is not None and _same(draft.formula, value.terms):
            return draft.current
        if draft is None or not (self._match_quad(node, draft, value) or self._match_gate(node, draft, value)):
            about = "" if draft is None else f" of {draft.name!r}"
            self._fail(
                self._label(node),
                f"it uses sums and products{about} that are no supported activation; supported are ReLU, u * (1 + v) of "
                "the halves of one convolution, and b * x + a * x * x with one a and one b a channel",
            )
        draft.formula, draft.current = value.terms, _Atom(draft.current.layer, step=_OUT)
        return draft.current

    def _match_quad(self, node: fx.Node, draft: _Draft, value: _Planes) -> bool:
        atoms = {atom for product in value.terms for atom in product}
        if len(atoms) != 1 or (atom := atoms.pop()).part != _WHOLE:
            return False
        if (atom, atom) not in value.terms or not value.terms.keys() <= {(atom,), (atom, atom)}:
            return False
        self._check_open(node, atom)
        zero = torch.zeros((), dtype=torch.float64)
        draft.activation, draft.before = "quad", atom
        draft.linear = value.terms.get((atom,), zero).expand(value.channels)
        draft.square = value.terms[atom, atom].expand(value.channels)
        return True

    def _match_gate(self, node: fx.Node, draft: _Draft, value: _Planes) -> bool:
        single = [product[0] for product in value.terms if len(product) == 1]
        if len(single) != 1 or len(value.terms) != 2 or (u := single[0]).part == _WHOLE:
            return False
        v = _Atom(u.layer, 1 - u.part)
        if tuple(sorted((u, v))) not in value.terms or not all(map(_is_one, value.terms.values())):
            return False
        self._check_open(node, u if draft.skip is not None else u._replace(part=_WHOLE))
        draft.activation, draft.before, draft.swapped = "gate", u, u.part == 1
        return True

    # The layers.

    def _check_uses(self) -> None:
        for atom, user in self.uses:
            if atom.layer >= 0 and (draft := self.drafts[atom.layer]).current != atom:
                self._fail(
                    user,
                    f"it uses layer {draft.name!r} before an addition or activation that follows elsewhere; a layer "
                    "passes on only what comes last (call the convolution twice to use it twice)",
                )

    def _order(self) -> list[_Draft]:
        """The drafts, each after the outputs it uses, in the order of the module where that leaves a choice."""
        needs = [
            {atom.layer for atom in (draft.source, draft.skip) if atom is not None} - {-1} for draft in self.drafts
        ]
        used, waiting = set[int](), {self.result.layer}
        while waiting:
            used.add(index := waiting.pop())
            waiting |= needs[index] - used
        idle = [draft.name for index, draft in enumerate(self.drafts) if index not in used]
        if idle:
            self._fail(
                repr(idle[0]),
                "nothing uses its output; remove it (after y += z, another name of the old y does not see the sum)",
            )
        order: list[int] = []
        while len(order) < len(needs):
            order.append(next(i for i, before in enumerate(needs) if i not in order and before <= set(order)))
        return [self.drafts[index] for index in order]

    def _border(self) -> str:
        excess = self._growth(self.result) - self.result_crop
        last = repr(self._title(self.result))
        if excess:
            self._fail(
                last,
                f"the module's result is {abs(excess)} pixels a side {'larger' if excess > 0 else 'smaller'} than its "
                "input; match convolutions and transposed convolutions, or pad the input by the radius and crop the result",
            )
        if self.border_pad:
            return "replicate"
        if self.result_crop:
            self._fail(last, "its result is cropped, but the input is not padded; pad the input with ReplicationPad2d")
        return "zero" if False not in self.padded else "unpadded"

    def _layer(self, draft: _Draft) -> Layer:
        conv = draft.conv
        return Layer(
            draft.name,
            "conv_transpose2d" if isinstance(conv, nn.ConvTranspose2d) else "conv2d",
            conv.kernel_size[0],
            conv.in_channels,
            conv.out_channels // (2 if draft.activation == "gate" else 1),
            self._title(draft.source),
            None if draft.skip is None else self._title(draft.skip),
            draft.activation,
        )


def _combine(value: _Planes, terms: _Terms) -> _Planes:
    summed = dict(value.terms)
    for product, factor in terms.items():
        summed[product] = summed[product] + factor if product in summed else factor
    return _Planes(summed, value.channels)


def _weights(draft: _Draft, layer: Layer) -> dict[str, NDArray[np.float32]]:
    """The arrays of one layer, the planes of ``u`` first where it is a gate."""
    weight = draft.conv.weight.detach()
    bias = torch.zeros(draft.conv.out_channels) if draft.conv.bias is None else draft.conv.bias.detach()
    if draft.swapped:
        weight = weight.roll(layer.outputs, 0 if layer.op == "conv2d" else 1)
        bias = bias.roll(layer.outputs)
    arrays: Mapping[str, Tensor | None] = {
        "weight": weight, "bias": bias, "linear": draft.linear, "square": draft.square,
    }  # fmt: skip
    return {
        f"{layer.name}.{part}": array.detach().to(torch.float32).numpy()
        for part, array in arrays.items()
        if array is not None
    }


def _compare(module: nn.Module, net: Network) -> None:
    """Run both on random slices in float64; raises ``ModelError`` where they differ by more than ``TOLERANCE``."""
    low = min(growth(net.layers).values()) if net.border == "unpadded" else 0
    shape = max(48, 24 - 2 * low), max(52, 28 - 2 * low)
    where = f"import_module {net.name!r}"
    for amplitude in (1.0, 0.03):
        hu = _random_slice(shape, net, amplitude)
        expected = _run_module(module, lift(net.lifting, hu, net.hu_offset, net.hu_scale), where)
        if expected.shape != shape:
            raise ModelError(f"{where}: the module turns a slice of {shape} into {expected.shape}; keep the size")
        if np.isfinite(expected).all():
            break
    else:
        raise ModelError(f"{where}: the module's result on a random slice is not finite; train it on a wider range")
    result = (run_torch(net, hu, dtype=torch.float64) - (hu if net.residual else net.hu_offset)) / net.hu_scale
    rounding = 1e-12 * (abs(net.hu_offset) + float(np.abs(hu).max())) / net.hu_scale
    size, difference = float(np.abs(expected).max()), float(np.abs(result - expected).max())
    if not difference <= TOLERANCE * size + rounding:
        raise ModelError(
            f"{where}: imported network differs from the module by {difference:.3g} where its results reach {size:.3g}; "
            "write in-place operations on shared tensors, hooks and custom attributes as plain layers"
        )


def _random_slice(shape: tuple[int, int], net: Network, amplitude: float) -> NDArray[np.float64]:
    """HU: the upper half from the range of CT, the lower one about ``hu_offset`` with deviation ``hu_scale``."""
    rng, rows = np.random.default_rng(0), shape[0] // 2
    upper = rng.uniform(HU_MIN, HU_MAX, (rows, shape[1])) * amplitude
    lower = net.hu_offset + net.hu_scale * amplitude * rng.standard_normal((shape[0] - rows, shape[1]))
    return np.concatenate([upper, lower])


def _run_module(module: nn.Module, planes: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    try:
        with torch.inference_mode():
            result = module(torch.from_numpy(planes[np.newaxis].copy()))
    except Exception as error:
        raise ModelError(
            f"{where}: the module fails on a float64 slice of shape {planes.shape} ({str(error)[:200]}); make it run first"
        ) from error
    shape = tuple(result.shape)
    if len(shape) != 4 or shape[:2] != (1, 1):
        raise ModelError(f"{where}: the module returns {shape}; a denoiser returns one plane [1, 1, y, x]")
    array: NDArray[np.float64] = result[0, 0].to(torch.float64).numpy()
    return array
