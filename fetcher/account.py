"""The account of a run: every record that was seen falls into exactly one class. Pure.

Records are counted by their row number in a bitmap (125 KB for a million), so that
overlapping pages and duplicates count once without holding the history in memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from fetcher.models import State, Variant
from fetcher.plan import TODO

if TYPE_CHECKING:
    from fetcher.models import Entry, JobId


class Class(Enum):
    """What became of a record in this run."""

    DOWNLOADED = auto()
    ADOPTED = auto()
    ALREADY = auto()
    FAILED = auto()
    PENDING = auto()  # not finished by the service, or not yet by us
    REJECTED = auto()
    FILTERED = auto()
    TODO = auto()  # to be fetched; whatever is left of it when a run ends counts as pending


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
        if seq in self:
            return False
        index = seq >> 3
        if index >= len(self._bits):
            self._bits.extend(bytes(index + 4096 - len(self._bits)))
        self._bits[index] |= 1 << (seq & 7)
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

    `left_out`: rows that were to be fetched and then were not (`--max-downloads`).
    """

    counts: Counter[Class] = field(default_factory=Counter)
    invalid: int = 0
    bytes_stored: int = 0
    bytes_fetched: int = 0
    failed_originals: set[JobId] = field(default_factory=set)
    left_out: Rows = field(default_factory=Rows)
    _seen: Rows = field(default_factory=Rows)
    _failed: Rows = field(default_factory=Rows)

    @property
    def records(self) -> int:
        """Return how many distinct records were seen."""
        return self.counts.total()

    def listed(self, seq: int, before: State | None, after: State) -> bool:
        """Count a record that a page showed; return whether this run sees it for the first time."""
        if self._seen.add(seq):
            self.counts[_OF_STATE[after]] += 1
            return True
        if before is not None and before is not after:
            self._move(_OF_STATE[before], _OF_STATE[after])
        return False

    def taken(self, entry: Entry) -> None:
        """Count a file that is about to be fetched.

        It may be new here: an earlier run left it and no page has shown it. Or it has
        failed in this run and is tried once more.
        """
        if entry.variant is not Variant.DENOISED:
            return
        if self._seen.add(entry.seq):
            self.counts[Class.TODO] += 1
        elif self._failed.discard(entry.seq):
            self._move(Class.FAILED, Class.TODO)

    def ended(self, entry: Entry, outcome: Class, *, stored: int = 0) -> None:
        """Count how the fetching of one file ended, and the bytes that are in place."""
        self.bytes_stored += stored
        if outcome is Class.FILTERED:
            self.left_out.add(entry.seq)
        if entry.variant is Variant.DENOISED:
            self._move(Class.TODO, outcome)
            if outcome is Class.FAILED:
                self._failed.add(entry.seq)
        elif outcome is Class.FAILED:
            self.failed_originals.add(entry.job.id)
        elif outcome in {Class.DOWNLOADED, Class.ADOPTED}:
            self.failed_originals.discard(entry.job.id)

    def _move(self, before: Class, after: Class) -> None:
        if before is not after and self.counts[before] > 0:
            self.counts[before] -= 1
            self.counts[after] += 1
