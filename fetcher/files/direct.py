"""Writes that go to the disk past the system's page cache, where that is possible and pays.

A download is written once and not read again soon, but the cache copies every byte into
pages that have to be found, and written back and dropped later. 6 x 173 MB on two cores:
1.3 s of CPU a gigabyte with its SHA-256, against 2.8 s through the cache, and half of the
wall time. Nothing depends on it: what is not aligned, too short, or refused by the file
system is written through the cache, and both may meet in one file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING

from fetcher.memory import ALIGNMENT_BYTES, is_aligned

if TYPE_CHECKING:
    from collections.abc import Callable

_O_DIRECT = getattr(os, "O_DIRECT", 0)  # not on macOS
_LEAST_BYTES = 64 << 10  # each write waits for the disk
_REFUSALS = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})
_SLOW_S_PER_BYTE = 25e-3 / (1 << 20)  # slower disks gain by the order that the cache brings
_WEIGHT = 1 / 16  # of the newest write in the average
_PAUSE_S = 60.0


class Detour:
    """Whether the disk takes direct writes, learnt from how it answers; shared by all parts.

    A disk that refuses them is not asked again. One that is slow, such as a spinning one that
    many files are written to, is left to the cache for a minute.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, is_possible: bool = bool(_O_DIRECT)
    ) -> None:
        self.clock = clock
        self._is_possible = is_possible
        self._s_per_byte = 0.0
        self._paused_until_s = 0.0

    def is_open(self) -> bool:
        """Return whether a direct write is worth trying now."""
        return self._is_possible and self.clock() >= self._paused_until_s

    def refused(self) -> None:
        """Note that the file system takes no direct writes."""
        self._is_possible = False

    def took(self, count_bytes: int, seconds: float) -> None:
        """Note how long a direct write took."""
        self._s_per_byte += (seconds / count_bytes - self._s_per_byte) * _WEIGHT
        if self._s_per_byte > _SLOW_S_PER_BYTE:
            self._s_per_byte = 0.0
            self._paused_until_s = self.clock() + _PAUSE_S


class Writer:
    """Writes to one open file, directly where that can be done. One call at a time.

    The file has no status flags that could be changed later (O_APPEND, O_NONBLOCK).
    """

    def __init__(self, fd: int, detour: Detour) -> None:
        self._fd = fd
        self._detour = detour
        self._is_direct = False

    def write(self, data: memoryview, offset: int) -> int:
        """Write at that offset what can be written in one go; return how many bytes that was.

        Raises OSError.
        """
        written = self._write_directly(data, offset)
        if written:
            return written
        self._turn(direct=False)
        return os.pwrite(self._fd, data, offset)

    def _write_directly(self, view: memoryview, offset: int) -> int:
        """Write the whole pages among `view`; return how many bytes that was, 0 if refused."""
        count = view.nbytes - view.nbytes % ALIGNMENT_BYTES
        if count < _LEAST_BYTES or offset % ALIGNMENT_BYTES:
            return 0
        if not (self._detour.is_open() and is_aligned(view)):
            return 0
        began_s = self._detour.clock()
        try:
            self._turn(direct=True)
            written = os.pwrite(self._fd, view[:count], offset)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self._detour.refused()
            return 0
        self._detour.took(count, self._detour.clock() - began_s)
        return written

    def _turn(self, *, direct: bool) -> None:
        """Let what is written from now on go past the cache, or through it."""
        if direct == self._is_direct:
            return
        fcntl.fcntl(self._fd, fcntl.F_SETFL, _O_DIRECT if direct else 0)
        self._is_direct = direct
