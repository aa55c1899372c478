"""One open stream, written to without ever making the run wait for whoever reads it.

Owns how bytes reach stdout and stderr. A pipe that nobody reads (`| less`), a terminal
held by Ctrl-S, a closed pipe, a full disk: none of them may stop a download, so `write`
hands over what is taken at once and keeps the rest. None may outlast a stop either: from
then on `Patience` is bounded. Knows nothing of what it carries.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TextIO

# What a pipe that select() calls writable takes without blocking (4096 on Linux, 512 on
# macOS); where Python does not know it, select() cannot ask about pipes at all.
CHUNK_BYTES: int = getattr(select, "PIPE_BUF", 65536)
RETRY_S = 0.01  # before asking again a stream that called itself ready and took nothing
# What may wait for a reader that does not read; beyond it the run keeps the reader's pace.
WAITING_LIMIT_BYTES = 8 * 1024 * 1024
# What a terminal that has kept up so far may take for the next text: it holds some 4 KB, less
# than a frame of bars, and is emptied at once while its other end reads.
GRACE_S = 0.02
SLICE_S = 0.1  # how often it is asked, while a reader is waited for, whether to stop
# What a stop leaves to readers, all together, and its end counted from the stop: contract 5.8
# allows 5 s to the end of the process, and what comes before them may take 4.2.
AFTER_STOP_S = 1.0
READERS_BY_S = 4.5
UNKNOWN_SIZE = os.terminal_size((80, 24))

OnLost = Callable[[OSError], None]


class Patience:
    """How long readers are waited for at the end: without bounds, until a stop is asked for.

    From then on they have AFTER_STOP_S, all of them together, and none beyond READERS_BY_S
    after the stop. `stopped_at` tells when it was asked for (`time.monotonic`), None so long
    as it was not; that may change at any time, as a signal comes.
    """

    def __init__(self, stopped_at: Callable[[], float | None] = lambda: None) -> None:
        self._stopped_at = stopped_at
        self._ends_at: float | None = None

    def is_stopping(self) -> bool:
        """Return whether a stop was asked for."""
        return self._stopped_at() is not None

    def left_s(self) -> float:
        """Return how long readers are waited for yet; the time runs from the first asking."""
        stopped_at = self._stopped_at()
        if stopped_at is None:
            return math.inf
        now_s = time.monotonic()
        if self._ends_at is None:
            self._ends_at = min(now_s + AFTER_STOP_S, stopped_at + READERS_BY_S)
        return max(0.0, self._ends_at - now_s)


class Outlet:
    """A stream that takes text at once, in order, and remembers if it was lost.

    `stream` None (a closed stderr) swallows everything. What the encoding cannot hold is
    written as backslash escapes. `on_lost` is called once, with the error, when the reader
    has gone (BrokenPipeError) or the disk is full; after that writes do nothing. A terminal is
    opened anew until `close`.
    """

    def __init__(
        self,
        stream: TextIO | None,
        *,
        encoding: str | None = None,
        on_lost: OnLost | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._stream = stream
        self._stream_fd = self._fd = _descriptor(stream)
        self._encoding = encoding or getattr(stream, "encoding", None) or "utf-8"
        self._on_lost = on_lost
        self._patience = patience or Patience()
        self._waiting = bytearray()
        self.lost: OSError | None = None
        if self._fd is not None and stream is not None:
            self._attempt(stream.flush)  # what others wrote before goes first
            self._fd = _opened_anew(self._fd)

    @property
    def waiting_bytes(self) -> int:
        """Return how much the reader has not taken yet."""
        return len(self._waiting)

    @property
    def size(self) -> os.terminal_size:
        """Return columns and lines of the terminal behind it; 80 x 24 where there is none."""
        try:
            size = UNKNOWN_SIZE if self._fd is None else os.get_terminal_size(self._fd)
        except OSError:
            size = UNKNOWN_SIZE
        return size if size.columns > 0 and size.lines > 0 else UNKNOWN_SIZE

    @property
    def encoding(self) -> str:
        """Return the name of the encoding that text is written in."""
        return self._encoding

    def write(self, text: str) -> None:
        """Write `text`, or as much of it as is taken at once; never raises.

        Waits only when more than WAITING_LIMIT_BYTES are kept back already, and no longer
        than until a stop is asked for.
        """
        if self.lost is not None or self._stream is None:
            return
        if self._fd is None:
            self._attempt(partial(self._hand_over, self._stream, text))
            return
        has_kept_up = self._fd != self._stream_fd and not self._waiting
        self._waiting += text.encode(self._encoding, "backslashreplace")
        is_too_much = len(self._waiting) > WAITING_LIMIT_BYTES
        is_done = self.pump(GRACE_S if has_kept_up else 0.0)
        while is_too_much and not is_done and not self._patience.is_stopping():
            is_done = self.pump(SLICE_S)

    def write_line(self, line: str) -> None:
        """Write `line` and its end."""
        self.write(f"{line}\n")

    def drain(self) -> bool:
        """Hand over all that waits, as long as there is patience; true when nothing does."""
        left_s = math.inf
        while not (is_done := self.pump(min(SLICE_S, left_s))) and left_s:
            left_s = self._patience.left_s()
        return is_done

    def close(self) -> None:
        """Give back what was opened here; the stream stays open and can still be written to."""
        if self._fd is not None and self._fd != self._stream_fd:
            os.close(self._fd)
        self._fd = self._stream_fd

    def pump(self, wait_s: float = 0.0) -> bool:
        """Hand over what waits; true when nothing does any more.

        Waits up to `wait_s` seconds for the reader to take more.
        """
        ends_at = time.monotonic() + wait_s
        while self._fd is not None and self._waiting:
            left_s = max(0.0, ends_at - time.monotonic())
            if not _is_ready(self._fd, left_s):
                return False
            before_bytes = len(self._waiting)
            self._attempt(partial(self._push, self._fd))
            if len(self._waiting) == before_bytes:
                if left_s == 0:
                    return False
                time.sleep(RETRY_S)
        return True

    def _push(self, descriptor: int) -> None:
        with contextlib.suppress(BlockingIOError):  # someone else made the stream non-blocking
            written = os.write(descriptor, self._waiting[:CHUNK_BYTES])
            del self._waiting[:written]

    def _hand_over(self, stream: TextIO, text: str) -> None:
        buffer = getattr(stream, "buffer", None)
        if buffer is None:
            stream.write(text)
        else:
            buffer.write(text.encode(self._encoding, "backslashreplace"))
        stream.flush()

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except ValueError:  # "I/O operation on closed file"
            self._lose(BrokenPipeError("the stream is closed"))
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        self._waiting.clear()
        if self._on_lost is not None:
            self._on_lost(error)


def _descriptor(stream: TextIO | None) -> int | None:
    """Return the stream's descriptor, None for one that lives in memory."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _opened_anew(descriptor: int) -> int:
    """Return a descriptor of the same terminal that never blocks, or the one that was given.

    select() calls a terminal ready that takes one byte, where a write of more would block.
    The open terminal that we were given is not made non-blocking: shell and commands share
    it. One that may not be opened (another user's, not our session's) is used as it is.
    """
    if os.isatty(descriptor) and os.get_blocking(descriptor):
        for path in _names(descriptor):
            with contextlib.suppress(OSError):
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return descriptor


def _names(terminal: int) -> Iterator[str]:
    """Yield the paths of a terminal, best first: the session's own may always be opened."""
    with contextlib.suppress(OSError):
        os.tcgetpgrp(terminal)  # fails for any other
        yield "/dev/tty"
    yield f"/proc/self/fd/{terminal}"  # where /dev does not show it, as in some containers
    with contextlib.suppress(OSError):
        yield os.ttyname(terminal)


def _is_ready(descriptor: int, timeout_s: float) -> bool:
    try:
        return bool(select.select((), (descriptor,), (), timeout_s)[1])
    except (OSError, ValueError):
        return True  # this platform cannot ask about such a stream: write and see
