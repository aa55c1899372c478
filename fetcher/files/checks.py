"""Whether a file on disk is what the manifest says it is. Reads, never writes."""

from __future__ import annotations

import hashlib
import os
import stat
from enum import StrEnum
from typing import TYPE_CHECKING

from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fetcher.files.places import Places

_READ_BYTES = 1 << 20


class Problem(StrEnum):
    """What is wrong with a file."""

    MISSING = "missing"
    DAMAGED = "damaged"
    FOREIGN = "foreign"  # a folder, a link or the like stands in its place


@frozen
class Recorded:
    """What the manifest says of a file; `path` is relative to DIR, `sha256` hex."""

    path: str
    bytes_stored: int | None
    sha256: str


@frozen
class Finding:
    """What was found instead."""

    problem: Problem
    reason: str


def examine(places: Places, said: Recorded, is_stopped: Callable[[], bool]) -> Finding | None:
    """Return what is wrong with the file, None where nothing is, or once `is_stopped`."""
    found = places.find(said.path)
    if found is None:
        why = places.hidden(said.path)
        if why is not None:
            return Finding(Problem.DAMAGED, f"it cannot be looked at: {why}")
        return Finding(Problem.MISSING, "it is not there")
    if stat.S_ISLNK(found.st_mode):
        return Finding(Problem.FOREIGN, "a link stands in its place")
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "something that is no file"
        return Finding(Problem.FOREIGN, f"{kind} stands in its place")
    if not places.contains(said.path):
        return Finding(Problem.FOREIGN, "a link leads its folder out of the destination")
    if said.bytes_stored is not None and found.st_size != said.bytes_stored:
        sizes = f"{found.st_size} bytes instead of {said.bytes_stored}"
        return Finding(Problem.DAMAGED, sizes)
    try:
        sha256 = _digest(places.root / said.path, is_stopped)
    except OSError as error:
        return Finding(Problem.DAMAGED, f"it cannot be read: {error.strerror or error}")
    if sha256 in {said.sha256, None}:
        return None
    return Finding(Problem.DAMAGED, "its bytes have changed: the SHA-256 is another one")


def _digest(path: Path, is_stopped: Callable[[], bool]) -> str | None:
    """Return the SHA-256 (hex) of the file, None once `is_stopped`; raises OSError."""
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:  # noqa: PTH123 - takes the descriptor over
        block = bytearray(min(_READ_BYTES, os.fstat(fd).st_size + 1))
        while count := file.readinto(block):
            if is_stopped():
                return None
            digest.update(memoryview(block)[:count])
    return digest.hexdigest()
