"""Where each known job's file would go with a template. Looks at manifest and disk, no more.

Depends on the records, not on the order in which files would be moved: a path that belongs
to another file before the first move is taken, even where that file is about to leave it.
"""

from __future__ import annotations

import os
import stat
from enum import StrEnum
from typing import TYPE_CHECKING

from fetcher.core.extensions import (
    FALLBACK_EXTENSION,
    KNOWN_EXTENSIONS,
    extension_of_bytes,
    extension_of_url,
)
from fetcher.core.layout import FILE_LIMIT_BYTES
from fetcher.core.names import bared, path_key, scrub, trim
from fetcher.core.sniff import PEEK_BYTES
from fetcher.frozen import frozen
from fetcher.manifest.reader import Selection
from fetcher.models import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fetcher.core.layout import Template
    from fetcher.files.places import Places
    from fetcher.manifest.reader import Reader
    from fetcher.models import Entry

_COMING = frozenset({State.WAITING, State.QUEUED, State.PARTIAL, State.FAILED})
_ORIGINAL_MARK = ".original"
_LEADING = "_-~. "  # what may be replaced at the beginning of a name
_MOST_UNCUT_BYTES = FILE_LIMIT_BYTES - 60  # a cut is between grapheme clusters, of any size
_TAKEN = "another file stands where it would go, and where it would go with the whole id as well"


class Kind(StrEnum):
    """What a template means for one file."""

    STAYS = "stays"
    MOVES = "moves"
    FOUND = "found"  # in its new place already, by a run that was cut or by hand
    LATER = "later"  # not fetched yet
    MISSING = "missing"
    BLOCKED = "blocked"
    MOVED = "moved"


@frozen
class Step:
    """One file. `is_whole`: it gets the whole id, since the path with the short one is taken."""

    entry: Entry
    kind: Kind
    new_path: str | None = None
    reason: str = ""
    is_whole: bool = False


def why_not_ours(places: Places, entry: Entry, path: str) -> str | None:
    """Return why what stands at `path` is not this row's file by its looks, None if it is."""
    found = places.find(path)
    if found is None:
        why = places.hidden(path)
        return "it is not there" if why is None else f"it cannot be looked at: {why}"
    if not stat.S_ISREG(found.st_mode):
        return "something else stands in its place"
    if not places.contains(path):
        return "a link leads its folder out of the destination"
    if found.st_size != entry.bytes_stored:
        return f"it has changed: {found.st_size} bytes instead of {entry.bytes_stored}"
    return None


def is_same_file(places: Places, path: str, other: str) -> bool:
    """Return whether both are one file that its file system knows under either spelling."""
    here, there = places.find(path), places.find(other)
    if here is None or there is None or path_key(path) != path_key(other):
        return False
    return os.path.samestat(here, there)


def _may_be_of_upload(entry: Entry, suffix: str) -> bool:
    """Return whether the path ends in that suffix because `file_name` does.

    `file_name` stands at its end then, but for what a name may not begin with; of a long
    name only a part may.
    """
    name = (entry.path or "").rpartition("/")[2].lower()
    upload = trim(scrub(entry.job.file_name)).lower()
    if not upload.endswith(suffix) or len(name.encode()) > _MOST_UNCUT_BYTES:
        return upload.endswith(suffix)
    bare_name = name.removesuffix(suffix).removesuffix(_ORIGINAL_MARK) + suffix
    return bare_name.endswith(bared(upload).lstrip(_LEADING))


class Plan:
    """What `template` means for the files that `reader` knows, below `places`."""

    def __init__(self, reader: Reader, places: Places, template: Template) -> None:
        self._reader = reader
        self._places = places
        self._template = template
        self._firsts: dict[int, int] = {}
        self._announced: set[int] = set()

    def steps(self) -> Iterator[Step]:
        """Yield what happens to each file, newest job first.

        Of files that would share a path, the one that was recorded first gets it. Jobs that
        never had a file and will get none are left out. Raises ManifestError, StorageError.
        """
        self._firsts = self._first_claims()
        for entry in self._reader.entries():
            if entry.state is State.COMPLETE and entry.path is not None:
                yield self._settle(entry, entry.path)
            elif entry.state in _COMING and entry.sha256 is None:
                yield self._announce(entry)

    def _first_claims(self) -> dict[int, int]:
        """Return the first row that would like each path, by the hash of the path's key.

        Hashes in place of keys: a tenth of the memory, and where two are equal by chance a
        file merely gets its whole id.
        """
        firsts: dict[int, int] = {}
        for entry in self._reader.entries(Selection(states=(State.COMPLETE,))):
            for path in self._wanted(entry)[:1]:
                claim = hash(path_key(path))
                firsts[claim] = min(entry.seq, firsts.get(claim, entry.seq))
        return firsts

    def _settle(self, entry: Entry, old: str) -> Step:
        wanted = self._wanted(entry)
        if not wanted:
            return Step(entry, Kind.STAYS, old)
        trouble = why_not_ours(self._places, entry, old)
        if self._places.find(old) is None and self._places.hidden(old) is None:
            for path in wanted:
                if self._may_have(path, entry) and not why_not_ours(self._places, entry, path):
                    return Step(entry, Kind.FOUND, path)
            return Step(entry, Kind.MISSING, reason=trouble or "")
        if trouble is not None:
            return Step(entry, Kind.BLOCKED, reason=trouble)
        for n, path in enumerate(wanted):
            is_first = n > 0 or self._firsts.get(hash(path_key(path))) == entry.seq
            if is_first and self._may_have(path, entry) and self._is_clear(old, path):
                return Step(entry, Kind.MOVES, path, is_whole=n > 0)
        return Step(entry, Kind.BLOCKED, reason=_TAKEN)

    def _announce(self, entry: Entry) -> Step:
        """Return where a file that is not fetched yet would go, as far as that is known."""
        url = entry.job.url(entry.variant) or ""
        extension = extension_of_url(url, variant=entry.variant)
        if extension is None:
            return Step(entry, Kind.LATER)
        short, *whole = self._paths(entry, extension)
        claim = hash(path_key(short))
        is_taken = claim in self._firsts or claim in self._announced
        if whole and (is_taken or not self._may_have(short, entry)):
            return Step(entry, Kind.LATER, whole[0], is_whole=True)
        self._announced.add(claim)
        return Step(entry, Kind.LATER, short)

    def _wanted(self, entry: Entry) -> list[str]:
        """Return the paths that a complete file may take, the best first; none if it stays.

        A file stays where either path of the template is its own: a path is decided once.
        """
        old = entry.path or ""
        suffix = "." + old.rpartition("/")[2].rpartition(".")[2].lower()
        suffix = suffix if suffix in KNOWN_EXTENSIONS else ""
        if old in self._paths(entry, suffix):
            return []
        paths = self._paths(entry, self._extension(entry, suffix))
        return [] if old in paths else paths

    def _extension(self, entry: Entry, suffix: str) -> str:
        """Return the extension of the audio that came.

        That is what the old path ends in, unless that may be a part of `file_name`, which
        names the upload: then the first bytes tell.
        """
        if suffix and not _may_be_of_upload(entry, suffix):
            return suffix
        first_bytes = self._places.beginning(entry.path or "", PEEK_BYTES)
        told = extension_of_bytes(first_bytes, variant=entry.variant)
        return told or suffix or FALLBACK_EXTENSION

    def _paths(self, entry: Entry, extension: str) -> list[str]:
        render = self._template.render
        paths = (
            render(entry.job, extension, variant=entry.variant, whole_id=whole_id)
            for whole_id in (False, True)
        )
        return list(dict.fromkeys(paths))

    def _may_have(self, path: str, entry: Entry) -> bool:
        """Return whether the manifest gives the path to no other file."""
        key = path_key(path)
        return key == path_key(entry.path or "") or self._reader.owner(key) is None

    def _is_clear(self, old: str, new: str) -> bool:
        return self._places.find(new) is None or is_same_file(self._places, old, new)
