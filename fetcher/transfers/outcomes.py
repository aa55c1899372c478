"""How the download of one file may end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fetcher.frozen import frozen

if TYPE_CHECKING:
    from fetcher.files.parts import Part


@dataclass(slots=True)
class Fetched:
    """A proven file that is not in place yet; `suspect` says why its length is doubted.

    `content` is emptied once it is on disk, since many wait for their turn; `sha256` may be
    empty until then.
    """

    content: bytes | Part
    extension: str
    sha256: str
    bytes_stored: int
    bytes_fetched: int
    suspect: str | None = None


@frozen
class GivenUp:
    """Not fetched in this run; what is here of it stays.

    `is_refused`: its host refused every link that the service has.
    """

    reason: str
    attempts: int
    bytes_done: int
    is_refused: bool = False


@frozen
class LeftOut:
    """Larger than `--max-size`."""

    reason: str
    bytes_total: int


Outcome = Fetched | GivenUp | LeftOut
