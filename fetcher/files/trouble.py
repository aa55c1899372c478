"""What the operating system says about files, in fetcher's errors."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from fetcher.errors import FullError, PlaceError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NAMES = frozenset(
    {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}
)
# No file's trouble: too much is open, or too little memory is left, to read any.
_OF_THE_PROCESS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@contextlib.contextmanager
def explained(what: Path | str) -> Iterator[None]:
    """Raise StorageError, or PlaceError where only this one name is the trouble."""
    try:
        yield
    except OSError as error:
        raise explain(error, what) from error


@contextlib.contextmanager
def readable(what: Path | str) -> Iterator[None]:
    """Raise PlaceError where this one file cannot be read, StorageError where none could."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_THE_PROCESS:
            raise explain(error, what) from error
        raise PlaceError(f"{what} cannot be read: {error.strerror or error}") from error


def explain(error: OSError, what: Path | str) -> StorageError | PlaceError:
    """Return our error for what the system said about the file `what`."""
    why = error.strerror or str(error)
    if error.errno in _FULL:
        return FullError(f"The disk is full ({why}): {what}. Free space and run again.")
    if error.errno in _NAMES:
        return PlaceError(f"No file can be made at {what}: {why}")
    return StorageError(f"{what} cannot be used: {why}. Check that it is there and writable.")
