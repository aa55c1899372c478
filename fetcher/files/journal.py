"""The journal of an unfinished file: what its lines say, and what they prove.

The first line names the version of the body (validator, length, digests). Every further line
is `LENGTH SHA256`: the digest of the first LENGTH bytes, written after those bytes. What is
trusted after a crash is never what a file system happens to hold but what a line proves: the
longest prefix whose digest is right. A power cut that loses or zeroes a tail therefore costs
that tail and nothing else.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING

from fetcher.core.proof import Digest, Digester
from fetcher.frozen import frozen
from fetcher.models import Validator
from fetcher.threads import end_if_called_off

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

LENGTH = re.compile(r"[0-9]{1,19}")
_READ_BYTES = 1 << 20
_FORMAT = 1
_SHA256_HEX = 64


Checkpoint = tuple[int, str]  # so many bytes, and their SHA-256 in hex


@frozen
class Version:
    """Which body an unfinished file is of: validator, announced length and digests."""

    validator: Validator
    bytes_total: int | None
    digests: tuple[Digest, ...] = ()


@frozen
class Proven:
    """The first `length` bytes, eaten by `digester`, and the checkpoints that prove them."""

    length: int
    digester: Digester
    noted: tuple[Checkpoint, ...] = ()


def header(version: Version) -> bytes:
    """Return the first line for that version."""
    said = {
        "format": _FORMAT,
        "etag": version.validator.etag,
        "last_modified": version.validator.last_modified,
        "bytes_total": version.bytes_total,
        "digests": [
            [one.algorithm, base64.b64encode(one.value).decode(), one.field]
            for one in version.digests
        ],
    }
    return (json.dumps(said) + "\n").encode()


def parse_header(line: bytes) -> Version:
    """Return what a first line says; raises ValueError, KeyError, TypeError, RecursionError."""
    said = json.loads(line)
    if said["format"] != _FORMAT:
        raise ValueError
    etag, last_modified, total = said["etag"], said["last_modified"], said["bytes_total"]
    are_texts = isinstance(etag, str | None) and isinstance(last_modified, str | None)
    if not are_texts or not isinstance(total, int | None):
        raise TypeError
    digests = tuple(
        Digest(name, base64.b64decode(value), field) for name, value, field in said["digests"]
    )
    Digester(one.algorithm for one in digests)  # ValueError where one is not known
    return Version(Validator(etag, last_modified), total, digests)


def line(length: int, sha256_hex: str) -> bytes:
    """Return the line of that checkpoint."""
    return f"{length} {sha256_hex}\n".encode()


def checkpoints(lines: Iterable[bytes]) -> Iterator[Checkpoint]:
    """Yield what the journal's whole lines say, as long as they do not shrink."""
    before = 0
    for line in lines:
        length, _, sha256_hex = line.decode("ascii", "replace").partition(" ")
        is_whole = LENGTH.fullmatch(length) and len(sha256_hex) == _SHA256_HEX
        if not is_whole or int(length) < before:
            return
        before = int(length)
        yield before, sha256_hex


def prove(
    data: BinaryIO, start: int, noted: Iterable[Checkpoint], need: list[str]
) -> Proven | None:
    """Return how far the digests are right from `start` on, None where no byte is proven.

    Raises CalledOffError.
    """
    digester = Digester(need)
    proven = 0
    right: list[Checkpoint] = []
    data.seek(start)
    for length, sha256_hex in noted:
        missing = feed(data, digester, length - proven)
        if missing or digester.sha256_hex() != sha256_hex:
            digester = Digester(need)
            data.seek(start)
            feed(data, digester, proven)
            break
        proven = length
        right.append((length, sha256_hex))
    return Proven(proven, digester, tuple(right)) if proven else None


def feed(data: BinaryIO, digester: Digester, length: int) -> int:
    """Let `digester` eat the next `length` bytes; return how many of them are not there.

    Raises CalledOffError.
    """
    while length > 0 and (block := data.read(min(length, _READ_BYTES))):
        end_if_called_off()
        digester.update(block)
        length -= len(block)
    return length
