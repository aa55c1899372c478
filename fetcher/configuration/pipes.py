"""Reading a file that may be a pipe: there nothing comes until somebody writes.

Owns the waiting for what `--api-key-file <(command)` and its like give. Python calls a read
that a signal has interrupted again (PEP 475), so a signal that is only noted would not end it.
"""

from __future__ import annotations

import signal
import stat
from typing import TYPE_CHECKING

from fetcher import signals
from fetcher.errors import StoppedError, TerminatedError

if TYPE_CHECKING:
    from pathlib import Path

_STEP_S = 0.1  # between looks for a signal


def is_slow(path: Path) -> bool:
    """Return whether whoever reads it may have to wait: it is no file, but a pipe or a device."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def read(path: Path, most_bytes: int = -1) -> bytes:
    """Return what the file holds, up to `most_bytes` of it where that is not negative.

    Raises OSError; StoppedError or TerminatedError where a signal came before a pipe's end.
    """
    return _awaited(path, most_bytes) if is_slow(path) else _read(path, most_bytes)


def _read(path: Path, most_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most_bytes)


def _awaited(path: Path, most_bytes: int) -> bytes:
    """Read in a thread, which the end of the process does not wait for."""
    from concurrent.futures import Future  # noqa: PLC0415 - only a pipe needs it
    from threading import Thread  # noqa: PLC0415 - as above

    content: Future[bytes] = Future()

    def work() -> None:
        try:
            content.set_result(_read(path, most_bytes))
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            content.set_exception(error)

    reader = Thread(target=work, daemon=True)
    reader.start()
    while reader.is_alive():
        _heed_signals(path)
        reader.join(_STEP_S)
    return content.result()


def _heed_signals(path: Path) -> None:
    number = signals.asked_to_end()
    if number is not None:
        error = StoppedError if number == signal.SIGINT else TerminatedError
        raise error(f"stopped while waiting for {path} to be written")
