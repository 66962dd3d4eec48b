"""The torch.fx graph of a copy of a module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from hegpu.errors import ModelError


def own_copy(module: nn.Module) -> nn.Module:
    """A float64 copy on the CPU in evaluation mode."""
    if not isinstance(module, nn.Module):
        raise ModelError(f"{type(module).__name__} is no torch.nn.Module; give one")
    if isinstance(module, nn.DataParallel):
        module = module.module
    try:
        own = copy.deepcopy(module).cpu().double().eval()
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be copied ({str(error)[:200]}); give a plain module whose parameters are "
            "leaves"
        ) from error
    return nn.Sequential(own) if fx.Tracer().is_leaf_module(own, "") else own


class _Tracer(fx.Tracer):
    """Remembers the module whose code cannot be traced."""

    failed = ""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def trace(module: nn.Module) -> fx.Graph:
    """The graph of ``module``; raises ``ModelError`` that names the part whose code depends on the data."""
    tracer = _Tracer()
    try:
        return tracer.trace(module)
    except Exception as error:
        raise ModelError(
            f"{tracer.failed or type(module).__name__!r}: torch.fx cannot trace its forward ({str(error)[:200]}); write "
            "it without branches and loops that depend on the data"
        ) from error


def label(node: fx.Node) -> str:
    """The module that a node calls, or the node with its operation and the module that it lies in."""
    if node.op == "call_module":
        return repr(node.target)
    title = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    stack = list(node.meta.get("nn_module_stack") or {})
    return f"{node.name!r} ({title}{f' in {stack[-1]!r}' if stack else ''})"
