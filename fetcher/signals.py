"""Signals that come before a command can act on them: remembered from the first lines on.

A start is up to a second of imports, in which a signal would end a run without a word. A
run acts on them as soon as its own handlers stand; any other command lets them do at once
what they did before. Imports next to nothing, since it comes before everything else.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int

_INTERRUPTED = 130
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_ENDING = (signal.SIGINT, signal.SIGTERM)
_before: dict[signal.Signals, Handler] = {}
_came: dict[signal.Signals, None] = {}  # in the order of their coming


def remember() -> None:
    """Note signals from now on, but for those that are ignored (`nohup`)."""
    for number in _NUMBERS:
        handler = signal.getsignal(number)
        if handler is not None and handler is not signal.SIG_IGN:
            _before[number] = handler
            signal.signal(number, _note)


def asked_to_end() -> signal.Signals | None:
    """Return the first signal that came to end the process, None where none has."""
    return next((one for one in _came if one in _ENDING), None)


def taken() -> list[signal.Signals]:
    """Return what came, for a run whose own handlers stand from now on."""
    came = list(_came)
    _before.clear()
    _came.clear()
    return came


def release() -> None:
    """Let signals do again what they did, and those that came do it now.

    Raises KeyboardInterrupt where SIGINT has come.
    """
    for number, handler in _before.items():
        signal.signal(number, handler)
    for number in taken():
        signal.raise_signal(number)


def _note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as Python calls it
    if number == signal.SIGINT and (signal.SIGINT in _came or signal.SIGTERM in _came):
        os._exit(_INTERRUPTED)  # whoever asks twice does not want to wait
    _came[signal.Signals(number)] = None
