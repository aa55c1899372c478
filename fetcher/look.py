"""What lies on disk of a file that is to be fetched: the facts that `plan.decide` needs.

Synchronous, for a thread: a batch of files costs one hop.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fetcher.errors import PlaceError
from fetcher.extensions import FALLBACK_EXTENSION, KNOWN_EXTENSIONS, extension_of_url
from fetcher.files.parts import Parts, part_key
from fetcher.files.places import Places, digest_file
from fetcher.names import STATE_FOLDER, path_key
from fetcher.plan import Local
from fetcher.proof import refuse
from fetcher.sniff import PEEK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fetcher.layout import Template
    from fetcher.models import Entry


@dataclass(frozen=True, slots=True)
class Adoptable:
    """A complete file in place: its relative path, SHA-256 (hex) and length in bytes."""

    path: str
    sha256: str
    bytes_stored: int


@dataclass(frozen=True, slots=True)
class Eye:
    """Looks at DIR and the folder of unfinished files."""

    template: Template
    places: Places
    parts: Parts

    def look_all(self, entries: Sequence[Entry]) -> list[Local]:
        """Return what is on disk for each of them.

        Where there is nothing at all, as in a first run, nothing is looked for: 30 us a file.
        """
        if self._is_bare():
            return [Local()] * len(entries)
        return [self.look(entry) for entry in entries]

    def _is_bare(self) -> bool:
        """Return whether DIR holds no file of any job, finished or not."""
        try:
            with os.scandir(self.places.root) as here, os.scandir(self.parts.folder) as parts:
                return next(parts, None) is None and all(one.name == STATE_FOLDER for one in here)
        except OSError:
            return False

    def look(self, entry: Entry) -> Local:
        """Return what is on disk for the file of that entry."""
        part_bytes = self.parts.size(part_key(entry.job.id, entry.variant))
        for path in self._possible_paths(entry):
            if self.places.is_ours(path, entry.job.updated_at):
                return Local(found=path, part_bytes=part_bytes)
        return Local(part_bytes=part_bytes)

    def candidates(self, entry: Entry, extension: str) -> Iterator[tuple[str, str]]:
        """Yield the (path, key) pairs that the file may take, best first, each when asked for."""
        seen: set[str] = set()
        for path in self._acceptable_paths(entry, extension):
            if path not in seen:
                seen.add(path)
                yield path, path_key(path)

    def _acceptable_paths(self, entry: Entry, extension: str) -> Iterator[str]:
        if entry.path:
            yield entry.path
        for whole_id in (False, True):
            yield self._render(entry, extension, whole_id=whole_id)

    def adopt(self, path: str) -> Adoptable | None:
        """Return the file at `path` once it is proven to be whole audio, None otherwise.

        Reads the whole file. Raises StorageError.
        """
        place = self.places.root / path
        try:
            sha256, length = digest_file(place)
            with place.open("rb") as file:
                first_bytes = file.read(PEEK_BYTES)
        except (PlaceError, OSError):
            return None
        if refuse(first_bytes, content_type="", length_bytes=length) is not None:
            return None
        return Adoptable(path, sha256, length)

    def _possible_paths(self, entry: Entry) -> Iterator[str]:
        if entry.path:
            yield entry.path
        url = entry.job.url(entry.variant) or ""
        known = extension_of_url(url, variant=entry.variant)
        extensions = [known] if known else [*sorted(KNOWN_EXTENSIONS), FALLBACK_EXTENSION]
        # Where the whole id had to be used, the path with the short one is another job's.
        for whole_id in (True, False):
            for extension in extensions:
                yield self._render(entry, extension, whole_id=whole_id)

    def _render(self, entry: Entry, extension: str, *, whole_id: bool) -> str:
        return self.template.render(entry.job, extension, variant=entry.variant, whole_id=whole_id)
