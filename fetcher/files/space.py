"""Free space, and the promise never to fill the disk below `--min-free`."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from fetcher.errors import FullError, TransferError
from fetcher.files.trouble import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_LOOK_EVERY_BYTES = 16 << 20
_LOOK_EVERY_S = 0.25
_AMPLE_BYTES = 256 << 20  # with less room than that, every write is followed by a look
_PIECE_BYTES = 1 << 20  # what a file under way writes at most before it looks again


def free_bytes(folder: Path) -> int:
    """Return the bytes that an ordinary user may still write where `folder` is."""
    with explained(folder):
        stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


class Space:
    """Room on the destination's disk, less what transfers under way have been promised."""

    def __init__(
        self, folder: Path, min_free_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._promised: dict[object, int] = {}
        self._refused: dict[object, FullError] = {}
        self._unseen_bytes = 0  # written since the last look at the disk
        self._looked_at_s = clock()
        self._room_seen_bytes = 0
        self._disk_bytes = 0  # not looked at yet

    def require_disk(self, total_bytes: int | None) -> None:
        """Raise TransferError for a file that would not fit on the disk if that were empty.

        No room that somebody makes would ever do for it, so it is not to end the run.
        """
        if total_bytes is None or total_bytes <= self._disk_bytes:
            return
        with explained(self._folder):
            stat = os.statvfs(self._folder)
        self._disk_bytes = stat.f_blocks * stat.f_frsize  # 0 where a file system does not tell
        if 0 < self._disk_bytes < total_bytes:
            raise TransferError(
                f"the host announces {total_bytes} bytes, and the whole disk of {self._folder} "
                f"has {self._disk_bytes}"
            )

    def promise(self, holder: object, bytes_left: int) -> None:
        """Set aside what `holder` will still write.

        Raises FullError where it cannot be had beside what others were promised; nothing is
        set aside for it then, so the others do not suffer from that.
        """
        with self._lock:
            self._refused.pop(holder, None)
            self._promised.pop(holder, None)
            self._require(bytes_left + sum(self._promised.values()))
            self._promised[holder] = bytes_left

    def go_on(self, holder: object) -> None:
        """Raise the FullError that `holder` has met: it may be writing from several threads."""
        refusal = self._refused.get(holder)
        if refusal is not None:
            raise refusal

    def wrote(self, holder: object, count_bytes: int, bytes_left: int) -> None:
        """Note that of its promise `holder` has written so much, and what is left of it.

        What was promised was there: whether others have taken it meanwhile is looked at a few
        times a second, or every 16 MiB, and always where room is scarce. Raises FullError once
        what is left does not fit any more, were it alone: one of those under way comes to its
        end, rather than none. Where somebody else has taken what was promised, it has to fit
        beside what the others may write before they look.
        """
        with self._lock:
            if holder not in self._refused:  # another of its threads may just have met that
                self._promised[holder] = bytes_left
            self._unseen_bytes += count_bytes
            is_overdue = self._clock() - self._looked_at_s >= _LOOK_EVERY_S
            is_scarce = self._room_seen_bytes < _AMPLE_BYTES
            if is_overdue or is_scarce or self._unseen_bytes >= _LOOK_EVERY_BYTES:
                try:
                    self._look_again(bytes_left)
                except FullError as error:
                    self._refused[holder] = error
                    self._promised.pop(holder, None)  # it writes no more: others may have that
                    raise

    def _look_again(self, bytes_left: int) -> None:
        """Raise FullError where what is left of a promise does not fit any more."""
        pieces = sum(min(one, _PIECE_BYTES) for one in self._promised.values())
        self._require(bytes_left)
        # What is written and not noted yet makes the room look smaller, by a piece each.
        if self._room_seen_bytes < -pieces:
            self._require(bytes_left + pieces - min(bytes_left, _PIECE_BYTES))

    def release(self, holder: object) -> None:
        """Give back whatever was set aside for `holder`."""
        with self._lock:
            self._refused.pop(holder, None)
            self._promised.pop(holder, None)

    def check(self, more_bytes: int = 0) -> None:
        """Raise FullError when `more_bytes` would fill the disk below the limit."""
        with self._lock:
            self._require(more_bytes + sum(self._promised.values()))

    def admit(self, sizes: Iterable[int]) -> list[FullError | None]:
        """Return for each of these sizes, in order, why there is no room for it, if there is none.

        What is on disk already (0 bytes more) always has room. Raises StorageError.
        """
        free = free_bytes(self._folder)
        with self._lock:
            left = self._room(free)
        found: list[FullError | None] = []
        for size in sizes:
            fits = size <= max(0, left)
            left -= size if fits else 0
            found.append(None if fits else self._refusal(free))
        return found

    def _require(self, wanted_bytes: int) -> None:
        """Look at the disk; raise FullError where so much would fill it below the limit."""
        free = free_bytes(self._folder)
        self._unseen_bytes, self._looked_at_s = 0, self._clock()
        self._room_seen_bytes = self._room(free)
        if free - self._min_free_bytes < wanted_bytes:
            raise self._refusal(free)

    def _room(self, free: int) -> int:
        return free - sum(self._promised.values()) - self._min_free_bytes

    def _refusal(self, free: int) -> FullError:
        promised = sum(self._promised.values())
        under_way = f"{promised} of them are for files under way, and " if promised else ""
        return FullError(
            f"Not enough space in {self._folder}: {free} bytes are free; {under_way}--min-free "
            f"keeps {self._min_free_bytes}. Free some space or lower --min-free; "
            "the next run goes on from here."
        )
