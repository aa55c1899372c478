"""Links to the file host: made, signed, checked, expired.

Owns the shape of a link, `/{variant}/{id}/{name}{ext}?credential&Expires&X-Signature`, and
nothing of what it leads to. A link is right only byte for byte: its query holds an escape
(`%2F`) that a client which rewrites URLs would change.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from fetcher.simulator.clock import SimClock

Part = Literal["audio", "original"]
_NAMES: dict[str, str] = {"audio": "clean", "original": "source"}
_CREDENTIAL = "X-Credential=sim%2Floopback"


@dataclass(frozen=True, slots=True)
class Target:
    """What a request for a file asks for; `hop` counts the redirects already followed."""

    job: str
    part: Part
    path: str
    query: str
    hop: int


def parse(target: str) -> Target | None:
    """Return what a request target asks for; None if it is no link of this host."""
    path, _, query = target.partition("?")
    pieces = path.split("/")
    if len(pieces) != 4 or pieces[1] not in _NAMES:
        return None
    part: Part = "audio" if pieces[1] == "audio" else "original"
    query, _, hop = query.partition("&hop=") if "&hop=" in query else (query, "", "")
    return Target(unquote(pieces[2]), part, path, query, int(hop) if hop.isdigit() else 0)


class Links:
    """The signer of one simulator; `host_url` is known once it listens."""

    def __init__(self, seed: int, clock: SimClock) -> None:
        self.host_url = ""
        self.ttl_s = 3600.0
        self.epoch = 0
        self._secret = f"fetcher simulator {seed}".encode()
        self._clock = clock

    def window(self) -> tuple[int, int]:
        """Return what the text of links depends on besides the job: expiry and epoch."""
        return self._expires(), self.epoch

    def url(self, job: str, part: Part, extension: str, *, epoch: int | None) -> str:
        """Return a link that holds for one to two `ttl_s`; unsigned where `epoch` is None."""
        path = f"/{part}/{quote(job, safe='')}/{_NAMES[part]}{extension}"
        query = "" if epoch is None else "?" + self._query(path, self._expires(), epoch)
        return f"{self.host_url}{path}{query}"

    def refusal(self, target: Target, *, epoch: int | None) -> str | None:
        """Return why a link is refused, in the words of an object store; None if it is not."""
        if epoch is None:
            return None
        expires = target.query.partition("Expires=")[2].partition("&")[0]
        if not expires.isdecimal():
            return "Access Denied"
        if int(expires) <= self._clock.now():
            return "Request has expired"
        right = self._query(target.path, int(expires), epoch)
        return None if target.query == right else "Request has expired or its signature is wrong"

    def _expires(self) -> int:
        return int((self._clock.now() // self.ttl_s + 2) * self.ttl_s)

    def _query(self, path: str, expires: int, epoch: int) -> str:
        text = f"{path}|{expires}|{epoch}|{self.epoch}".encode()
        signature = hashlib.blake2b(text, key=self._secret, digest_size=16).hexdigest()
        return f"{_CREDENTIAL}&Expires={expires}&X-Signature={signature}"
