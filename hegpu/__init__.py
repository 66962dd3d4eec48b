"""hegpu: denoise low-dose CT slices while they stay encrypted. Research software, not a medical device."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hegpu.errors import HegpuError

if TYPE_CHECKING:
    from hegpu.api import decrypt, denoise, encrypt, keygen, load_model

__all__ = ["HegpuError", "decrypt", "denoise", "encrypt", "keygen", "load_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The API pulls in image libraries; `import hegpu` alone needs NumPy and safetensors only.
    if name in __all__:
        return getattr(import_module("hegpu.api"), name)
    raise AttributeError(f"module 'hegpu' has no attribute {name!r}")
