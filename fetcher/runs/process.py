"""One command of the user's: started without a shell, bounded in time, ended with its group.

Owns the process from its start to its end and where its output goes. Knows nothing of files,
runs and events; what a command is for and what it is told is the business of `hooks`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, BinaryIO

from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    Tell = Callable[[str], None]

_LONGEST_LINE = 4096  # beyond it a line is told in pieces
_MOST_LINES = 1000  # of one command; a flood would leave the run no time for downloads
_LAST_WORDS_S = 0.5  # for output that is still in the pipe when the command has ended
# Between asking a command to end (SIGTERM) and ending it (SIGKILL): one that took too long,
# and one that is in the way of a run that was stopped.
_PATIENCE_S, _CUT_PATIENCE_S = 2.0, 0.3
_REAPED_WITHIN_S = 1.0  # of SIGKILL, which nothing can refuse

_running: set[int] = set()  # groups; of the process, like the children that they are


@frozen
class Command:
    """What is started: its words and its whole environment, as the system takes them."""

    words: Sequence[bytes]
    environment: Mapping[bytes, bytes]


@frozen
class Bounds:
    """How long a command may take.

    `limit_s`: seconds from its start. `cut`: set when it shall end before that.
    """

    limit_s: float
    cut: asyncio.Event


@frozen
class Ended:
    """How a command ended.

    `code` is its exit status, negative for the signal that killed it; None where it could
    not be started or did not end by itself. `reason` is empty where the code says it all.
    """

    code: int | None
    reason: str = ""


async def carry_out(command: Command, bounds: Bounds, *, tell: Tell | None = None) -> Ended:
    """Run a command to its end and return how it ended; raises nothing for its trouble.

    It has no input. Its output goes to this process's stderr, or line by line to `tell`.
    Beyond its bounds, and when this call is cancelled, it is ended with every process of
    its group; what it left running after an end of its own is not touched.
    """
    try:
        async with _output(tell) as descriptor:
            process = await asyncio.create_subprocess_exec(
                *command.words,
                env=command.environment,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
            _running.add(process.pid)
            try:
                return await _ended(process, bounds)
            finally:
                _running.discard(process.pid)
    except (OSError, ValueError) as error:  # ValueError: a NUL in a word
        why = error.strerror if isinstance(error, OSError) else None
        return Ended(None, f"it could not be started: {why or error}")


def kill_all() -> None:
    """Kill every command that runs, with its group, at once: this process is about to end."""
    for group in _running:
        _signal_group(group, signal.SIGKILL)


async def _ended(process: asyncio.subprocess.Process, bounds: Bounds) -> Ended:
    ending = asyncio.create_task(process.wait())
    cutting = asyncio.create_task(bounds.cut.wait())
    try:
        await asyncio.wait(
            {ending, cutting}, timeout=bounds.limit_s, return_when=asyncio.FIRST_COMPLETED
        )
        if ending.done():
            return Ended(ending.result())
        _signal_group(process.pid, signal.SIGTERM)
        if not bounds.cut.is_set():
            await asyncio.wait(
                {ending, cutting}, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
        if bounds.cut.is_set():
            await asyncio.wait({ending}, timeout=_CUT_PATIENCE_S)
    finally:
        cutting.cancel()
        if process.returncode is None or not ending.done():
            _signal_group(process.pid, signal.SIGKILL)
            await asyncio.wait({ending}, timeout=_REAPED_WITHIN_S)
    # The command went when it was asked to; what it had started may not have.
    _signal_group(process.pid, signal.SIGKILL)
    if bounds.cut.is_set():
        return Ended(None, "it was ended, as the run was stopped")
    return Ended(None, f"it took longer than {bounds.limit_s:g} s and was ended")


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


# ---- output ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _output(tell: Tell | None) -> AsyncIterator[int]:
    """Give the descriptor that takes the output of a command."""
    if tell is None:
        yield _stderr()
        return
    reading, writing = os.pipe()
    lines = _Lines(tell)
    loop = asyncio.get_running_loop()
    pipe: BinaryIO = os.fdopen(reading, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: lines, pipe)
    try:
        try:
            yield writing
        finally:
            os.close(writing)
        # A process that the command left behind may hold the pipe for ever.
        await asyncio.wait({lines.ended}, timeout=_LAST_WORDS_S)
    finally:
        transport.close()
        lines.flush()


def _stderr() -> int:
    """Return this process's stderr; nowhere where it was closed at the start.

    The number 2 would then be whatever file was opened first, the manifest perhaps.
    """
    try:
        return subprocess.DEVNULL if sys.__stderr__ is None else sys.__stderr__.fileno()
    except (OSError, ValueError):
        return subprocess.DEVNULL


class _Lines(asyncio.Protocol):
    """Tells what comes through a pipe line by line, as text."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._kept = bytearray()
        self._told = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Tell the whole lines; keep the beginning of one."""
        self._kept += data
        *whole, self._kept = self._kept.split(b"\n")
        for line in whole:
            self._line(line)
        if len(self._kept) > _LONGEST_LINE:
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's own
        """Note that nothing more will come."""
        if not self.ended.done():
            self.ended.set_result(None)

    def flush(self) -> None:
        """Tell a last line that has no end."""
        if self._kept:
            self._line(self._kept)
            self._kept = bytearray()

    def _line(self, line: bytearray) -> None:
        text = line.rstrip(b"\r").decode("utf-8", "replace")
        for start in range(0, len(text) or 1, _LONGEST_LINE):
            self._told += 1
            if self._told <= _MOST_LINES:
                self._tell(text[start : start + _LONGEST_LINE])
            elif self._told == _MOST_LINES + 1:
                self._tell("(what else this command writes is not shown)")
