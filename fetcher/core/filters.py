"""Which jobs a run is about: `--since`, `--until`, `--match`, `--source-type`, `--max-size`.

Pure. A job that is left out is no failure; the reason is for the reader of a plan.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from unicodedata import normalize

from fetcher.frozen import frozen

if TYPE_CHECKING:
    from datetime import datetime

    from fetcher.models import Job


def fits(name: str, glob: str) -> bool:
    """Return whether the whole name fits the glob: case matters, how accents are coded does not."""
    return fnmatchcase(normalize("NFC", name), normalize("NFC", glob))


@frozen
class Rules:
    """The filters of one run; the defaults leave nothing out.

    `since` and `until` are inclusive, both aware UTC; a job without a readable
    `created_at` is never left out by them. `max_size_bytes` is of the file as announced.
    """

    since: datetime | None = None
    until: datetime | None = None
    match: tuple[str, ...] = ()
    source_type: str | None = None
    max_size_bytes: int | None = None

    def refuse(self, job: Job) -> str | None:
        """Return why this job is left out, None when it is not."""
        created_at = job.created_at
        if created_at is not None:
            if self.since is not None and created_at < self.since:
                return "created before --since"
            if self.until is not None and created_at > self.until:
                return "created after --until"
        if self.match and not any(fits(job.file_name, glob) for glob in self.match):
            return "its name matches no --match"
        if self.source_type is not None and job.source_type != self.source_type:
            return f"not --source-type {self.source_type}"
        return None

    def refuse_size(self, size_bytes: int | None) -> str | None:
        """Return why a file of that size is left out, None when it is not or is unknown."""
        limit = self.max_size_bytes
        if size_bytes is None or limit is None or size_bytes <= limit:
            return None
        return f"{size_bytes} bytes, more than --max-size {limit}"

    def signature(self, *, originals: bool) -> str:
        """Return a short text that differs when a run by these rules would take other files."""
        said = repr((*astuple(self), originals))
        return hashlib.sha256(said.encode()).hexdigest()[:16]
