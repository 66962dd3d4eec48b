"""The torch.fx graph of a copy of a module."""

from __future__ import annotations

import copy

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
        title, why = type(module).__name__, str(error)[:200]
        raise ModelError(f"{title} cannot be copied ({why}); give a plain module of leaf parameters") from error
    return nn.Sequential(own) if fx.Tracer().is_leaf_module(own, "") else own


def trace(module: nn.Module) -> fx.Graph:
    """The graph of ``module``; raises ``ModelError`` that names the part whose code depends on the data."""
    tracer = fx.Tracer()
    try:
        return tracer.trace(module)
    except Exception as error:
        where = [type(module).__name__, *tracer.module_stack][-1]
        raise ModelError(
            f"{where!r}: torch.fx cannot trace its forward ({str(error)[:200]}); write it without branches and loops "
            "that depend on the data"
        ) from error


def label(node: fx.Node) -> str:
    """The module that a node calls, or the node with its operation and the module that it lies in."""
    if node.op == "call_module":
        return repr(node.target)
    title = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    stack = list(node.meta.get("nn_module_stack") or {})
    return f"{node.name!r} ({title}{f' in {stack[-1]!r}' if stack else ''})"
