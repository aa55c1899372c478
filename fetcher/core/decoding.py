"""Undoing a Content-Encoding that nobody asked for, without letting it grow beyond reason."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from fetcher.errors import ContentError, ShortBodyError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_BYTES = 1 << 20  # handed out at once, however much a few bytes expand to
_GZIP = b"\x1f\x8b"
_AUTO = 32 + zlib.MAX_WBITS  # gzip or zlib, told by the first bytes


class Decoder:
    """One encoded body: `encoding` is `gzip` or `deflate` (RFC 9110 §8.4.1)."""

    def __init__(self, encoding: str) -> None:
        self._raw_allowed = encoding == "deflate"  # many servers send it without its wrapper
        self._stream = zlib.decompressobj(_AUTO)
        self._begun = False
        self._early = b""  # what came before the first byte went out
        self._behind = b""  # what came after a member's end, while it may begin another
        self._ended = False  # whether it was something else, as padding is

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes decode to; raises ContentError where they are no such code.

        gzip bodies may have several members (RFC 1952 §2.2); what follows the last one and
        begins no other is ignored.
        """
        if self._raw_allowed and not self._begun:
            self._early += data
        try:
            yield from self._decoded(data)
        except zlib.error as error:
            if not self._raw_allowed or self._begun:
                raise ContentError(f"the encoded body is damaged ({error})") from error
            self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
            self._raw_allowed = False
            yield from self.feed(self._early)

    def _decoded(self, data: bytes) -> Iterator[bytes]:
        while True:
            if self._stream.eof:
                if self._ended:
                    return
                self._behind += data
                if not self._behind.startswith(_GZIP):
                    self._end()
                    return
                data, self._behind = self._behind, b""
                self._stream = zlib.decompressobj(_AUTO)
            plain = self._stream.decompress(data, _MOST_BYTES)
            if plain:
                self._begun = True
                yield plain
            if self._stream.eof:
                data = self._stream.unused_data
            else:
                data = self._stream.unconsumed_tail
                if not data and len(plain) < _MOST_BYTES:
                    return

    def _end(self) -> None:
        """Keep nothing of what follows once it is known to begin no other member."""
        if len(self._behind) >= len(_GZIP):
            self._ended = True
            self._behind = b""

    def finish(self) -> None:
        """Raise ShortBodyError unless the code has come to its own end."""
        if not self._stream.eof:
            raise ShortBodyError("the encoded body ended before its own end")
