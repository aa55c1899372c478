"""What lies on disk of a file that is to be fetched: the facts that `plan.decide` needs.

Synchronous, for a thread: a batch of files costs one hop.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from fetcher.core.extensions import FALLBACK_EXTENSION, KNOWN_EXTENSIONS, extension_of_url
from fetcher.core.names import STATE_FOLDER, path_key
from fetcher.core.plan import Local
from fetcher.core.proof import refuse
from fetcher.core.sniff import PEEK_BYTES
from fetcher.errors import PlaceError
from fetcher.files.parts import Parts, part_key
from fetcher.files.places import Places, digest_file, mtime_ns
from fetcher.frozen import frozen
from fetcher.transfers.durations import duration_s, misfit, wav_duration_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from fetcher.core.layout import Template
    from fetcher.models import Entry, Job

    Rivals = Mapping[str, Sequence[Entry]]

TAKEN = "another file stands at its path, and at the path with the whole id as well"
_MARK_NS = 1_000  # what the API's times are exact to
_NO_RIVALS: Rivals = MappingProxyType({})
_CLOCK_NS = 100  # the finest clock that is no proof: such as of a share of Windows


@frozen
class Adoptable:
    """A complete file in place: its relative path, SHA-256 (hex) and length in bytes."""

    path: str
    sha256: str
    bytes_stored: int


@dataclass(slots=True)
class Eye:
    """Looks at DIR and the folder of unfinished files.

    Where DIR held no file at the first look, as in a first run, no finished one is looked
    for later: whatever is there then came in this run, or is foreign. That saves 60 us a file.
    """

    template: Template
    places: Places
    parts: Parts
    _began_bare: bool | None = None

    @property
    def began_bare(self) -> bool:
        """Return whether the first look found DIR without a file; false before it."""
        return bool(self._began_bare)

    def look_anew(self) -> None:
        """Look for finished files from now on: some came that may not have been recorded."""
        self._began_bare = False

    def look_all(self, entries: Sequence[Entry]) -> list[Local]:
        """Return what is on disk for each of them."""
        if self._began_bare is None:
            self._began_bare = self._is_bare()
        if not self._began_bare:
            return [self.look(entry) for entry in entries]
        if self.parts.is_empty():
            return [Local()] * len(entries)
        return [Local(part_bytes=self._part_bytes(entry)) for entry in entries]

    def _part_bytes(self, entry: Entry) -> int:
        return self.parts.size(part_key(entry.job.id, entry.variant))

    def _is_bare(self) -> bool:
        """Return whether DIR holds no file of any job, finished or not."""
        try:
            with os.scandir(self.places.root) as here:
                return self.parts.is_empty() and all(one.name == STATE_FOLDER for one in here)
        except OSError:
            return False

    def rivals(self, entries: Iterable[Entry]) -> Rivals:
        """Return which of these files may stand at a path with a short id, by path."""
        rivals: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            for path, is_certain in self._possible_paths(entry):
                if not is_certain:
                    rivals[path].append(entry)
        return rivals

    def look_again(
        self, entries: Sequence[Entry], found: Sequence[Local], namesakes: Iterable[Entry]
    ) -> list[Local]:
        """Return what `look_all` has found, now that `namesakes` are known as well."""
        rivals = self.rivals(namesakes)
        return [
            self.look(entry, rivals) if _others(rivals, local.found, entry) else local
            for entry, local in zip(entries, found, strict=True)
        ]

    def look(self, entry: Entry, rivals: Rivals = _NO_RIVALS) -> Local:
        """Return what is on disk for the file of that entry.

        `rivals`: the files of jobs that share its short id. What may be one of theirs as well
        is nobody's: to fetch a file once more is better than to miss a job.
        """
        part_bytes = self._part_bytes(entry)
        earlier = None
        for path, is_certain in self._possible_paths(entry):
            others = [] if is_certain else _others(rivals, path, entry)
            if self._is_its_own(path, entry.job) and (
                is_certain or self._tells_apart(path, entry.job, others)
            ):
                return Local(found=path, part_bytes=part_bytes)
            if earlier is None and not others and self._bears_earlier_mark(path, entry.job):
                earlier = path
        return Local(found=earlier, part_bytes=part_bytes)

    def _tells_apart(self, path: str, job: Job, others: Sequence[Entry]) -> bool:
        """Return whether a file with the job's mark and short id is the job's, and no other's.

        Ids that were made in one minute (UUIDv7) share their first characters. The length of
        the audio is asked only where there is doubt: a file that was kept although it is not
        as long as the record says (`--check-duration warn`) is the job's as well.
        """
        rivals = [other.job for other in others if self._may_have(path, other)]
        if not rivals:
            return True
        length_s = self._length_s(path)
        fits = [misfit(length_s, one.audio_duration_s) is None for one in (job, *rivals)]
        return fits[0] and not any(fits[1:])

    def _may_have(self, path: str, other: Entry) -> bool:
        """Return whether the file there may be that of `other`, which has none of its own."""
        own = (own for own, is_certain in self._possible_paths(other) if is_certain)
        return self._is_its_own(path, other.job) and not any(
            self._is_its_own(path, other.job) for path in own
        )

    def _length_s(self, path: str) -> float | None:
        """Return the length of the audio there in seconds, None where it cannot be told."""
        found = self.places.find(path)
        first_bytes = self.places.beginning(path, PEEK_BYTES)
        length_s = wav_duration_s(first_bytes, found.st_size) if found else None
        return duration_s(self.places.root / path) if length_s is None else length_s

    def _is_its_own(self, path: str, job: Job) -> bool:
        """Return whether a file bears the job's mark; one that nobody may read proves nothing."""
        return self.places.is_ours(path, job.marked_at) and self.places.may_be_read(path)

    def _bears_earlier_mark(self, path: str, job: Job) -> bool:
        """Return whether a file was marked with an `updated_at` that the job had before.

        Nothing tells that time once the record has changed and the manifest is lost. But it
        lies in the record's life, and is whole to the microsecond: a time that the system
        gave, when somebody wrote the file, is not, where its clock is finer; the file's own
        ctime shows that. And the audio is as long as the record says, which tells jobs apart
        that share a short id.
        """
        found = self.places.find(path)
        if found is None or job.created_at is None or job.updated_at is None:
            return False
        in_its_life = mtime_ns(job.created_at) <= found.st_mtime_ns < mtime_ns(job.updated_at)
        was_given = not found.st_mtime_ns % _MARK_NS and bool(found.st_ctime_ns % _CLOCK_NS)
        if not (in_its_life and was_given and stat.S_ISREG(found.st_mode)):
            return False
        if not found.st_size or not self.places.contains(path):
            return False
        length_s = self._length_s(path)
        is_known = length_s is not None and job.audio_duration_s is not None
        return is_known and misfit(length_s, job.audio_duration_s) is None

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

        Reads the whole file; one that cannot be read is no proof. Raises StorageError where
        no file could be read.
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

    def stamp(self, path: str, marked_at: datetime | None) -> None:
        """Give a file that is in place the mark of its job."""
        if marked_at is not None and not self.places.is_ours(path, marked_at):
            ns = mtime_ns(marked_at)
            with contextlib.suppress(OSError):
                os.utime(self.places.root / path, ns=(ns, ns), follow_symlinks=False)

    def _possible_paths(self, entry: Entry) -> Iterator[tuple[str, bool]]:
        """Yield the paths to look at, and whether only this file can be there."""
        if entry.path:
            yield entry.path, True
        url = entry.job.url(entry.variant) or ""
        known = extension_of_url(url, variant=entry.variant)
        extensions = [known] if known else [*sorted(KNOWN_EXTENSIONS), FALLBACK_EXTENSION]
        # Where the whole id had to be used, the path with the short one is another job's.
        for whole_id in (True, False):
            for extension in extensions:
                yield self._render(entry, extension, whole_id=whole_id), whole_id

    def _render(self, entry: Entry, extension: str, *, whole_id: bool) -> str:
        return self.template.render(entry.job, extension, variant=entry.variant, whole_id=whole_id)


def _others(rivals: Rivals, path: str | None, entry: Entry) -> list[Entry]:
    """Return the files of other jobs that may be at that path."""
    return [one for one in rivals.get(path or "", ()) if one.job.id != entry.job.id]


def was_ours(entry: Entry, path: str) -> bool:
    """Return whether a file of this entry was complete at that path before (`--repair`)."""
    was_complete = entry.sha256 is not None and entry.bytes_stored is not None
    return was_complete and path == entry.path
