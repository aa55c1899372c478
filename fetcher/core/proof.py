"""Is it complete, and is it audio: what a host announces, held against the bytes that came.

Pure: heads and bytes come in, reasons come out (None: nothing is wrong). It opens no file and
asks for nothing; whoever reads the bytes feeds them.

Which digest is of what (contract 5.3)

    Repr-Digest (RFC 9530 §3), Digest (RFC 3230), x-goog-hash    the whole file
    Content-Digest (RFC 9530 §2)                                 what this response carries
    Content-MD5 (RFC 2616 §14.15)                                what this response carries;
        many origins send the file's with every part, so beside a 206 either one proves

On an encoded body all of them are of the encoded form, so none is used. Algorithms that are
not known and values that are malformed are ignored. Known: sha-256, sha-512, md5, crc32c.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode
from typing import TYPE_CHECKING, Protocol

from fetcher.core.heads import codings
from fetcher.core.sniff import foreign_page, wav_shortfall
from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fetcher.models import Head

_SIZES_BYTES = {"sha-256": 32, "sha-512": 64, "md5": 16, "crc32c": 4}
_FIELDS = frozenset({"repr-digest", "digest", "x-goog-hash", "content-digest", "content-md5"})
_MEMBER = re.compile(r"([A-Za-z*][A-Za-z0-9_.*-]*)[ \t]*=[ \t]*:([A-Za-z0-9+/=]*):[ \t]*(?:;.*)?")
_PAIR = re.compile(r"([A-Za-z0-9-]+)=([A-Za-z0-9+/=]+)")


@frozen
class Digest:
    """A digest that a host announced: the algorithm's name in lower case, its value's bytes."""

    algorithm: str
    value: bytes
    field: str


@frozen
class Announced:
    """The digests of one response.

    `whole` are of the file; `part` of the bytes that this response carries; `either` may be
    one or the other (Content-MD5 beside a part).
    """

    whole: tuple[Digest, ...] = ()
    part: tuple[Digest, ...] = ()
    either: tuple[Digest, ...] = ()


@frozen
class Span:
    """Bytes [start, end) of a file that one response carries, and what it announces of them."""

    start: int
    end: int
    said: Announced

    @property
    def algorithms(self) -> frozenset[str]:
        """Return the names of the algorithms that its digests need."""
        return algorithms(self.said.part + self.said.either)

    def covers(self, other: Span) -> bool:
        """Return whether all bytes of `other` are among those of this one."""
        return self.start <= other.start and other.end <= self.end


class _Hash(Protocol):
    """What hashlib's objects have and `_Crc32c` imitates."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32c:
    """CRC-32C, four bytes big-endian, as x-goog-hash has it."""

    def __init__(self) -> None:
        import google_crc32c  # noqa: PLC0415  # rarely needed, and a shared library

        self._checksum: _Hash = google_crc32c.Checksum()  # type: ignore[no-untyped-call]  # untyped library

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._checksum.update(bytes(data))  # it takes no other buffer

    def digest(self) -> bytes:
        return self._checksum.digest()


class Digester:
    """Digests of a run of bytes, computed as they pass: SHA-256 always, others where needed.

    Not safe for use by two threads at once.
    """

    def __init__(self, need: Iterable[str] = ()) -> None:
        self._sha256 = hashlib.sha256()
        self._hashes: dict[str, _Hash] = {"sha-256": self._sha256}
        for name in need:
            if name not in self._hashes:
                self._hashes[name] = _new_hash(name)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        for hasher in self._hashes.values():
            hasher.update(data)

    def sha256_hex(self) -> str:
        """Return the SHA-256, in hex, of the bytes that have passed so far."""
        return self._sha256.hexdigest()

    def lacks(self, digests: Iterable[Digest]) -> frozenset[str]:
        """Return the algorithms of `digests` that are not computed here."""
        return frozenset(digest.algorithm for digest in digests) - self._hashes.keys()

    def mismatch(self, digests: Iterable[Digest]) -> str | None:
        """Return which announced digest the bytes that passed do not have, None if none.

        Those that `lacks` names are passed over.
        """
        for digest in digests:
            hasher = self._hashes.get(digest.algorithm)
            if hasher is not None and hasher.digest() != digest.value:
                return f"the {digest.algorithm} that {digest.field} announced does not match"
        return None


def announced(head: Head, *, whole: bool) -> Announced:
    """Return the digests that `head` announces.

    `whole`: this response carries the whole file (not a part of it). A body with a
    Content-Encoding has none that could be checked after decoding.
    """
    if _FIELDS.isdisjoint(head.headers) or codings(head):
        return Announced()
    of_file = _dictionary(head, "repr-digest") + _pairs(head, "digest")
    # Google stores some objects compressed and unpacks them on the way: the hash stays the
    # stored form's.
    if head.headers.get("x-goog-stored-content-encoding", "identity").lower() == "identity":
        of_file += _pairs(head, "x-goog-hash")
    of_body = _dictionary(head, "content-digest")
    md5 = _decoded("md5", head.headers.get("content-md5", "").strip(), "content-md5")
    if whole:
        return Announced(whole=of_file + of_body + md5)
    return Announced(whole=of_file, part=of_body, either=md5)


def algorithms(digests: Iterable[Digest]) -> frozenset[str]:
    """Return the names of the algorithms that `digests` need."""
    return frozenset(digest.algorithm for digest in digests)


def settle(said: Announced, part: Digester) -> tuple[str | None, tuple[Digest, ...]]:
    """Judge a part whose bytes all passed through `part`.

    Returns why it is damaged (None: it is not), and the digests that the whole file has yet to
    match: those of the file, and those of `either` that are not the part's.
    """
    left = tuple(digest for digest in said.either if part.mismatch((digest,)) is not None)
    return part.mismatch(said.part), said.whole + left


def refuse(first_bytes: bytes, *, content_type: str, length_bytes: int) -> str | None:
    """Return why a complete file of `length_bytes` is no whole audio, None if it may be.

    `first_bytes`: its first `sniff.PEEK_BYTES`, or all of it. `content_type`: the header, or empty.
    """
    if length_bytes == 0:
        return "the file is empty"
    return foreign_page(first_bytes, content_type) or wav_shortfall(first_bytes, length_bytes)


# ---- digest fields -----------------------------------------------------------------------


def _new_hash(name: str) -> _Hash:
    """Return a fresh hash object; raises ValueError for an algorithm that is not known."""
    match name:
        case "sha-512":
            return hashlib.sha512()
        case "md5":
            return hashlib.md5(usedforsecurity=False)
        case "crc32c":
            return _Crc32c()
        case _:
            raise ValueError(f"no such digest: {name}")


def _dictionary(head: Head, field: str) -> tuple[Digest, ...]:
    """Return the digests of a structured dictionary of byte sequences (RFC 8941 §3.2)."""
    return _digests(_MEMBER, head.headers.get(field, ""), field)


def _pairs(head: Head, field: str) -> tuple[Digest, ...]:
    """Return the digests of `name=base64` pairs (x-goog-hash; RFC 3230 §4.3.2)."""
    return _digests(_PAIR, head.headers.get(field, ""), field)


def _digests(member: re.Pattern[str], text: str, field: str) -> tuple[Digest, ...]:
    """Return the digests of known algorithms in a list; what does not parse is left out."""
    found: tuple[Digest, ...] = ()
    for part in text.split(","):
        match = member.fullmatch(part.strip())
        if match is not None:
            found += _decoded(match[1].lower(), match[2], field)
    return found


def _decoded(algorithm: str, text: str, field: str) -> tuple[Digest, ...]:
    """Return the one digest that base64 `text` holds, none if it is not of the right size."""
    try:
        value = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ()
    if len(value) != _SIZES_BYTES.get(algorithm):
        return ()
    return (Digest(algorithm, value, field),)
