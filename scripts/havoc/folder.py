"""What a reader of DIR sees: every visible file must be a whole one, and one per job.

Owns the walk and the judgement; reads only, and no file twice that did not change.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

STATE_FOLDER = ".fetcher"


class Folder:
    """One destination; files are named `{id}{ext}` in any folder."""

    def __init__(self, dest: Path) -> None:
        self.dest = dest
        self.wrong: list[str] = []
        self._digests: dict[tuple[str, int, int, int], str] = {}

    def look(self, right: Mapping[str, Collection[str]]) -> set[str]:
        """Judge all visible files; return the ids of those in place.

        `right`: the digests that a job's file may have. What is wrong is added to `wrong`.
        """
        there: set[str] = set()
        for path in self._visible():
            job = path.name.partition(".")[0]
            if job not in right:
                self._complain(f"{path}: belongs to no job")
            elif job in there:
                self._complain(f"{path}: a second file of its job")
            elif self._digest(path) not in right[job]:
                self._complain(f"{path}: not the bytes of its job ({path.stat().st_size})")
            there.add(job)
        return there

    def parts(self) -> list[str]:
        """Return what lies in the folder of partial files."""
        partial = self.dest / STATE_FOLDER / "partial"
        return sorted(path.name for path in partial.iterdir()) if partial.is_dir() else []

    def _visible(self) -> list[Path]:
        found = []
        for root, folders, files in os.walk(self.dest):
            if Path(root) == self.dest and STATE_FOLDER in folders:
                folders.remove(STATE_FOLDER)
            found += [Path(root, name) for name in files]
        return found

    def _digest(self, path: Path) -> str:
        seen = path.stat()
        key = (str(path), seen.st_ino, seen.st_size, seen.st_mtime_ns)
        if key not in self._digests:
            with path.open("rb") as file:
                self._digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[key]

    def _complain(self, text: str) -> None:
        if text not in self.wrong:
            self.wrong.append(text)
