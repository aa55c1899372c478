"""The key of the API: read, checked, read again when it was rotated; never shown.

Owns what a key may look like and what to do where there is none. No message of this module
holds any part of a key or of what stood in its place.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from fetcher.configuration import pipes
from fetcher.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST_BYTES = 4096  # header lines beyond 8 KiB are refused by common servers
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")  # what a header value may hold, RFC 9110 §5.5

MISSING = (
    "no API key: set MUNSIT_API_KEY, or write the key to a file that only you can read and"
    " name it with MUNSIT_API_KEY_FILE or --api-key-file"
)


class Secret:
    """A text that shows nowhere by accident: `str` and `repr` hide it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        """Return the text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret('**********')"

    def __str__(self) -> str:
        return "**********"


def checked_key(text: str, place: str) -> str:
    """Return the key that `text` holds, without the white space around it.

    Raises UsageError that names `place` (where the text stood) and what is wrong.
    """
    key = text.removeprefix("\ufeff").strip()
    if not key:
        raise UsageError(f"{place} is empty: it must hold the API key")
    if re.match(r"(export\s+)?MUNSIT_API_KEY\s*=", key):
        raise UsageError(f"{place} holds an assignment: it must hold the API key and nothing else")
    if key[0] in "\"'" or re.search(r"\s", key):
        raise UsageError(f"{place} holds more than the API key: it must be one word without quotes")
    if not _VISIBLE_ASCII.fullmatch(key) or len(key) > _LONGEST_BYTES:
        raise UsageError(f"{place} holds no API key: a key is a short word of ASCII characters")
    return key


class KeyFile:
    """A key in a file, read anew when the file changes, so that a rotated key is seen.

    A pipe can be read only once; what it gave stays. Once a key was read, a file that is
    empty, missing or wrong for a moment (it is being replaced) leaves the last one valid.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: str | None = None
        self._seen: tuple[int, ...] | None = None

    def read(self) -> str:
        """Return the key. Raises UsageError where there is none and never was one.

        A pipe is waited for: StoppedError where a signal came before its end.
        """
        try:
            seen = self._signature()
            if self._key is None or (seen is not None and seen != self._seen):
                self._key = checked_key(self._text(), f"the key file {self._shown}")
                self._seen = seen
        except UsageError:
            if self._key is None:
                raise
        return self._key

    @property
    def _shown(self) -> str:
        from fetcher.core.text import printable  # noqa: PLC0415 - only errors pay for it

        return printable(str(self._path))

    def _signature(self) -> tuple[int, ...] | None:
        """Return what changes when the file does; None for what is no regular file."""
        try:
            found = self._path.stat()
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        if not stat.S_ISREG(found.st_mode):
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def _text(self) -> str:
        try:
            return pipes.read(self._path, _LONGEST_BYTES * 2).decode()
        except UnicodeDecodeError:
            raise UsageError(
                f"the key file {self._shown} is no text: is it the right file?"
            ) from None
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError | ValueError) -> UsageError:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        return UsageError(
            f"cannot read the key file {self._shown}: {reason}; check the path and that this"
            " user may read it"
        )
