"""The bytes that the file host serves: stored, made on demand, or cut from a shared buffer.

Owns contents as immutable values and their digests; knows nothing of jobs or HTTP.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
from dataclasses import dataclass
from functools import cache, lru_cache

from fetcher.simulator.audio import HEADER_BYTES, make_pair, wav_header, wav_size

# A prime, so that no splice at a round offset can land on the same bytes again.
_POOL_BYTES = 1_048_573
_MARK_BYTES = 16


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes that were given."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        """The number of bytes."""
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` up to `stop`."""
        return self.data if start <= 0 and stop >= len(self.data) else self.data[start:stop]


@dataclass(frozen=True, slots=True)
class Filler:
    """A WAV of exactly `size_bytes`: a header and noise, different for every `salt`.

    The noise is cut from one buffer shared by all, so a million of them cost nothing. Under
    60 bytes there is no room for a header and a mark: it then opens like an MPEG frame.
    """

    size_bytes: int
    salt: str

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` up to `stop`, clipped to the size."""
        start, stop = max(0, start), min(stop, self.size_bytes)
        mark = hashlib.blake2b(self.salt.encode(), digest_size=_MARK_BYTES).digest()
        if self.size_bytes < HEADER_BYTES + _MARK_BYTES:
            whole = b"\xff\xfb" + hashlib.shake_128(mark).digest(self.size_bytes)
            return whole[: self.size_bytes][start:stop]
        opening = wav_header(self.size_bytes - HEADER_BYTES) + mark
        parts = [opening[start:stop]] if start < len(opening) else []
        at = max(start, len(opening))
        shift = int.from_bytes(mark[:8], "big")
        while at < stop:
            begin = (shift + at) % _POOL_BYTES
            piece = _pool()[begin : begin + min(stop - at, _POOL_BYTES)]
            parts.append(piece)
            at += len(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class Melody:
    """Real audio, made when it is first asked for: the noisy upload or its clean result."""

    salt: str
    duration_s: float
    clean: bool

    @property
    def size_bytes(self) -> int:
        """The number of bytes."""
        return wav_size(self.duration_s)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` up to `stop`."""
        return make_pair(self.salt, self.duration_s)[self.clean][start:stop]


Content = Stored | Filler | Melody


def whole(content: Content) -> bytes:
    """Return all bytes of `content`."""
    return content.read(0, content.size_bytes)


@lru_cache(maxsize=64)
def gzipped(content: Content) -> Stored:
    """Return `content` compressed, the same bytes each time."""
    return Stored(gzip.compress(whole(content), compresslevel=1, mtime=0))


@lru_cache(maxsize=4096)
def digest(content: Content, algorithm: str, start: int, stop: int) -> bytes:
    """Return the digest of a part: `algorithm` is `crc32c` or one that hashlib knows."""
    data = content.read(start, stop)
    if algorithm == "crc32c":
        import google_crc32c  # noqa: PLC0415 - only hosts that send this digest need it

        return int(google_crc32c.value(data)).to_bytes(4, "big")
    return hashlib.new(algorithm, data).digest()


def base64_text(data: bytes) -> str:
    """Return `data` as base64 text, as header fields carry digests."""
    return base64.b64encode(data).decode("ascii")


@cache
def _pool() -> bytes:
    noise = random.Random(0).randbytes(_POOL_BYTES)  # noqa: S311 - filler, not a secret
    return noise + noise
