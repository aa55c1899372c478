"""How the file host serves: the honest habits that hosts differ in, as one frozen value.

Owns the vocabulary only; `host` acts on it. Lies and breakdowns are `faults`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Serving:
    """One way to serve files; the default is a good host (ranges, strong ETag, length).

    `etag`, `last_modified`: which validators are sent. `length`: announced, `chunked`, or
    ended by closing the connection as HTTP/1.0 did (`close`). `ranges`: false ignores Range.
    `content_type`: None sends none. `extension`: of the URL's path; None: by the audio.
    `digests`: any of `content-md5`, `repr-digest`, `content-digest`, `x-goog-hash`; an
    algorithm may follow (`repr-digest=sha-512`). `gzip`: compressed although nobody asked.
    `redirects`: statuses of the hops before the audio; `redirect_to`: how their Location is
    written: `absolute`, `relative`, on the `other` origin, or a `loop` without end.
    `rate_bytes_s`: per connection. `signed`: links carry a signature and expire.
    """

    etag: Literal["strong", "weak"] | None = "strong"
    last_modified: bool = True
    length: Literal["known", "chunked", "close"] = "known"
    ranges: bool = True
    content_type: str | None = "audio/wav"
    extension: str | None = None
    digests: tuple[str, ...] = ()
    digest_wrong: bool = False
    gzip: bool = False
    redirects: tuple[int, ...] = ()
    redirect_to: Literal["absolute", "relative", "other", "loop"] = "absolute"
    rate_bytes_s: float | None = None
    signed: bool = True
