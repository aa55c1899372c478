"""The account of a run: every record that was seen falls into exactly one class. Pure.

The class of a record is kept by the row number of its clean file, in a byte (1 MB for a
million), so that overlapping pages and duplicates count once, and a record that changes
leaves the class that it is really in, without holding the history in memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import TYPE_CHECKING

from fetcher.core.plan import TODO
from fetcher.models import State, Variant

if TYPE_CHECKING:
    from fetcher.core.plan import Known
    from fetcher.models import Entry


class Class(IntEnum):
    """What became of a record in this run: a byte, and quick to count by."""

    DOWNLOADED = auto()
    ADOPTED = auto()
    ALREADY = auto()
    FAILED = auto()
    PENDING = auto()  # not finished by the service, or not yet by us
    REJECTED = auto()
    FILTERED = auto()
    TODO = auto()  # to be fetched; whatever is left of it when a run ends counts as pending


_CLASSES = (None, *Class)  # by what is kept of them
_GROWTH_ROWS = 4096
_OF_STATE = {
    State.COMPLETE: Class.ALREADY,
    State.WAITING: Class.PENDING,
    State.REJECTED: Class.REJECTED,
    State.FILTERED: Class.FILTERED,
    **dict.fromkeys(TODO, Class.TODO),
}


@dataclass(slots=True)
class Rows:
    """A set of row numbers of the manifest: 125 KB for a million."""

    _bits: bytearray = field(default_factory=bytearray)

    def __contains__(self, seq: object) -> bool:
        if not isinstance(seq, int) or seq >> 3 >= len(self._bits):
            return False
        return bool(self._bits[seq >> 3] & 1 << (seq & 7))

    def add(self, seq: int) -> bool:
        """Add a row; return whether it was not there yet."""
        bits, index, bit = self._bits, seq >> 3, 1 << (seq & 7)
        if index >= len(bits):
            bits.extend(bytes(index + _GROWTH_ROWS - len(bits)))
        elif bits[index] & bit:
            return False
        bits[index] |= bit
        return True

    def discard(self, seq: int) -> bool:
        """Take a row out; return whether it was there."""
        if seq not in self:
            return False
        self._bits[seq >> 3] &= ~(1 << (seq & 7))
        return True


@dataclass(slots=True)
class Account:
    """Counts by class, bytes, and what the final event needs.

    `files_downloaded` counts originals too. `left_out`: rows that were to be fetched and
    then were not (`--max-downloads`). `unlisted`: rows that earlier runs left to be fetched, and
    whose jobs the whole history no longer lists.
    """

    counts: Counter[Class] = field(default_factory=Counter)
    invalid: int = 0
    files_downloaded: int = 0
    bytes_stored: int = 0
    bytes_fetched: int = 0
    left_out: Rows = field(default_factory=Rows)
    unlisted: Rows = field(default_factory=Rows)
    _classes: bytearray = field(default_factory=bytearray)  # by row; 0: not seen
    _without_original: Rows = field(default_factory=Rows)  # records whose original failed
    _record_of: dict[int, int] = field(default_factory=dict)  # originals under way: their record

    @property
    def records(self) -> int:
        """Return how many distinct records were seen."""
        return self.counts.total()

    def listed(self, seq: int, before: State | None, after: State) -> bool:
        """Count a record that a page showed; return whether this run sees it for the first time.

        `before` and `after` are the states of its clean file. A record that has gone on
        since the page was recorded stays where it is.
        """
        now = self._class(seq)
        if now is None:
            self._put(seq, _OF_STATE[after])
            return True
        if before is not None and before is not after and now in _classes_of(before):
            self._put(seq, _OF_STATE[after])
        return False

    def taken(self, entry: Entry, record: Known | None = None) -> None:
        """Count a file that is about to be fetched.

        It may be new here: an earlier run left it and no page has shown it. Or it has
        failed in this run and is tried once more. `record`: what is known of the clean file
        of the job, where the file is its original.
        """
        if entry.variant is Variant.DENOISED:
            self._put(entry.seq, Class.TODO)
        elif record is not None:
            self._record_of[entry.seq] = record.seq
            if self._class(record.seq) is None:
                self._put(record.seq, _OF_STATE[record.state])

    def ended(self, entry: Entry, outcome: Class, *, stored: int = 0) -> None:
        """Count how the fetching of one file ended, and the bytes that are in place.

        A job whose original could not be fetched has failed, whatever became of its clean
        file, until the original comes after all.
        """
        self.bytes_stored += stored
        self.files_downloaded += outcome is Class.DOWNLOADED
        if outcome is Class.FILTERED:
            self.left_out.add(entry.seq)
        if entry.variant is Variant.DENOISED:
            self._put(entry.seq, outcome)
        elif (seq := self._record_of.pop(entry.seq, None)) is not None:
            self._put_original(seq, has_failed=outcome is Class.FAILED)

    def given_up(self, entry: Entry, state: State) -> None:
        """Count a file that was given up, by the state that it has since."""
        self.ended(entry, Class.FAILED if state is State.FAILED else _OF_STATE[state])

    def _class(self, seq: int) -> Class | None:
        """Return what became of a record's clean file, None where it was not seen."""
        return _CLASSES[self._classes[seq]] if seq < len(self._classes) else None

    def _put(self, seq: int, after: Class) -> None:
        classes = self._classes
        if seq >= len(classes):
            classes.extend(bytes(seq + _GROWTH_ROWS - len(classes)))
        before = _CLASSES[classes[seq]]
        classes[seq] = after
        if before is None:
            self.counts[after] += 1
        elif seq not in self._without_original:
            self.counts[before] -= 1
            self.counts[after] += 1

    def _put_original(self, seq: int, *, has_failed: bool) -> None:
        its_class = self._class(seq)
        if its_class is None:
            return
        if has_failed and self._without_original.add(seq):
            self.counts[its_class] -= 1
            self.counts[Class.FAILED] += 1
        elif not has_failed and self._without_original.discard(seq):
            self.counts[Class.FAILED] -= 1
            self.counts[its_class] += 1


def _classes_of(state: State) -> tuple[Class, ...]:
    """Return where a record may be counted whose clean file is in that state.

    One that failed in this run, and is to be tried once more, has failed until it is taken.
    """
    return (_OF_STATE[state], Class.FAILED) if state in TODO else (_OF_STATE[state],)
