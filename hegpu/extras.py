"""Packages that only some commands need."""

from importlib.util import find_spec

from hegpu.errors import HegpuError


def require(*modules: str, extra: str) -> None:
    """Raises ``HegpuError`` that names the missing packages and the extra that brings them."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise HegpuError(f"this command needs {', '.join(missing)}; run: pip install 'hegpu[{extra}]'")
