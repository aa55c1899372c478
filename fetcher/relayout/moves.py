"""Files moved to their new paths: renamed, made durable, recorded, in that order.

A group of files at a time. What a group is about to do is noted in the manifest before, so
that a crash between rename and record is healed by the next `--apply`, whatever its
template. The caller holds the destination.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING

from fetcher.core.layout import companion
from fetcher.core.names import path_key
from fetcher.errors import FetcherError, PlaceError, StorageError
from fetcher.files.checks import Recorded, examine
from fetcher.files.places import Places
from fetcher.files.sealing import sync_folder
from fetcher.files.trouble import explained
from fetcher.manifest.reader import Reader
from fetcher.manifest.store import Store
from fetcher.relayout.steps import Kind, Plan, Step, is_same_file, why_not_ours
from fetcher.runs.companions import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fetcher.core.layout import Template
    from fetcher.models import Entry
    from fetcher.runs.destination import Destination

GROUP_FILES = 64
_NOTE = "moving"  # the fact of the manifest that names the group under way
_RECORD_BYTES = 1 << 20  # no record beside a file is larger
_LOST = "its new path was given to another file meanwhile"

Move = tuple["Entry", str]


def carry_out(
    destination: Destination,
    template: Template,
    tell: Callable[[Step], None],
    is_stopped: Callable[[], bool],
) -> bool:
    """Move every file that has to move; return whether that came to its end before a stop.

    All is decided before the first move, so that it comes as `--check` said. Raises
    StorageError, ManifestError.
    """
    places = Places(destination.root)
    with closing(Store(destination.manifest)) as store:
        Mover(store, places, lambda _: None).heal()
    moves: list[tuple[int, str]] = []  # no entries: a million of them would be a gigabyte
    with Reader(destination.manifest) as reader:
        for step in Plan(reader, places, template).steps():
            if is_stopped():
                return False
            if step.kind in {Kind.MOVES, Kind.FOUND} and step.new_path:
                moves.append((step.entry.seq, step.new_path))
            else:
                tell(step)
    with closing(Store(destination.manifest)) as store:
        mover = Mover(store, places, tell)
        for start in range(0, len(moves), GROUP_FILES):
            if is_stopped():
                return False
            paths = dict(moves[start : start + GROUP_FILES])
            mover.move([(entry, paths[entry.seq]) for entry in store.pick(list(paths))])
    return True


class Mover:
    """Moves files below `places` and tells of each."""

    def __init__(self, store: Store, places: Places, tell: Callable[[Step], None]) -> None:
        self._store = store
        self._places = places
        self._tell = tell

    def heal(self) -> None:
        """Finish what a move that was cut had begun. Raises StorageError."""
        noted = _parse(self._store.get(_NOTE))
        if not noted:
            return
        done = [
            (entry, noted[entry.seq][1])
            for entry in self._store.pick(list(noted))
            if entry.path and self._places.find(entry.path) is None
            if self._stands_at(noted[entry.seq][1], entry)
        ]
        self._record(done, set())
        for path in (path for paths in noted.values() for path in paths):
            self._places.prune(path)
        self._store.put({_NOTE: ""})

    def move(self, group: Sequence[Move]) -> None:
        """Move these files; each is told of, also one that cannot be moved.

        Raises StorageError for what hinders every file, once those before are recorded.
        """
        noted = [(entry.seq, entry.path, new) for entry, new in group]
        self._store.put({_NOTE: json.dumps(noted)})
        done: list[Move] = []
        changed: set[Path] = set()
        failure: StorageError | None = None
        for entry, new in group:
            try:
                changed |= self._rename(entry, new)
            except StorageError as error:
                failure = error
                break
            except PlaceError as error:
                self._tell(Step(entry, Kind.BLOCKED, new, str(error)))
                self._places.prune(new)
            else:
                done.append((entry, new))
        self._record(done, changed)
        self._store.put({_NOTE: ""})
        if failure is not None:
            raise failure

    def _rename(self, entry: Entry, new: str) -> set[Path]:
        """Put one file in its new place; return the folders whose entries changed.

        Raises PlaceError, StorageError.
        """
        old = entry.path or ""
        if self._places.find(old) is None and self._stands_at(new, entry):
            return set()
        trouble = why_not_ours(self._places, entry, old)
        if trouble is not None:
            raise PlaceError(trouble)
        return self._put(old, new, over_file=is_same_file(self._places, old, new))

    def _put(self, old: str, new: str, *, over_file: bool = False) -> set[Path]:
        root = self._places.root
        folder_fd, changed = self._places.put(root / old, new, over_file=over_file)
        os.close(folder_fd)
        return {(root / old).parent, (root / new).parent, *changed}

    def _record(self, done: Sequence[Move], changed: set[Path]) -> None:
        """Bring what belongs to the files, make all durable, write it down and tell of it."""
        remarks = [self._bring_record(entry, new, changed) for entry, new in done]
        for folder in changed:
            with explained(folder):
                sync_folder(folder)
        moved = self._store.relocate([(entry.seq, new, path_key(new)) for entry, new in done])
        for (entry, new), remark, is_recorded in zip(done, remarks, moved, strict=True):
            if is_recorded:
                self._tell(Step(entry, Kind.MOVED, new, remark))
                self._places.prune(entry.path or "")
            else:
                self._tell(Step(entry, Kind.BLOCKED, new, _LOST))

    def _bring_record(self, entry: Entry, new: str, changed: set[Path]) -> str:
        """Move the record beside the file along; return why it stays, where it does."""
        old = companion(entry.path or "", SUFFIX)
        if not self._is_record(old, entry):
            return ""
        try:
            changed |= self._put(old, companion(new, SUFFIX))
        except FetcherError as error:
            return f"its record stays at {old}: {error}"
        return ""

    def _is_record(self, path: str, entry: Entry) -> bool:
        try:
            said = json.loads(self._places.beginning(path, _RECORD_BYTES))
        except (ValueError, RecursionError):
            return False
        return isinstance(said, dict) and said.get("id") == entry.job.id

    def _stands_at(self, path: str, entry: Entry) -> bool:
        """Return whether the very bytes of that file are at `path`."""
        said = Recorded(path, entry.bytes_stored, entry.sha256 or "")
        return examine(self._places, said, lambda: False) is None


def _parse(note: str | None) -> dict[int, tuple[str, str]]:
    """Return the rows of a noted group, each with its old and its new path."""
    return {seq: (old, new) for seq, old, new in json.loads(note)} if note else {}
