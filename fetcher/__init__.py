"""fetcher: brings every finished denoise job home, once, whole and proven.

The library's face. What is heavy is imported when it is first asked for, so that the
command line starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fetcher.configuration.settings import Settings
    from fetcher.engine import Fetcher

__version__ = "0.1.0"
__all__ = ["Fetcher", "Settings", "__version__"]

_HOMES = {"Fetcher": "fetcher.engine", "Settings": "fetcher.configuration.settings"}


def __getattr__(name: str) -> object:
    """Return a public name from the module that it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fetcher' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
