"""Small JSON files beside the manifest that say something of a process: holder, sign of life."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 64 << 10


def read_card(path: Path) -> dict[str, Any] | None:
    """Return the JSON object that stands there, None for anything else."""
    try:
        # O_NONBLOCK: a named pipe would wait for somebody to write into it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:  # noqa: PTH123 - takes the descriptor over
            said = json.loads(file.read(_MOST_BYTES) or b"")
    except (OSError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None
