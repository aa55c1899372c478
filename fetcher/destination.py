"""The folders of a destination, and holding them for one run."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fetcher.errors import StorageError
from fetcher.files.locks import held
from fetcher.manifest import schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATE_FOLDER = ".fetcher"


@dataclass(frozen=True, slots=True)
class Destination:
    """DIR and the folder with the manifest, both absolute.

    Unfinished files and the lock are always in DIR's own `.fetcher`: a rename cannot cross
    file systems, and the lock guards DIR wherever the manifest is.
    """

    root: Path
    state: Path

    @property
    def own_state(self) -> Path:
        """Return `DIR/.fetcher`."""
        return self.root / STATE_FOLDER

    @property
    def parts(self) -> Path:
        """Return the folder of unfinished files."""
        return self.own_state / "partial"

    @property
    def manifest(self) -> Path:
        """Return the manifest's file."""
        return self.state / schema.FILE_NAME

    def prepare(self) -> None:
        """Make whatever folder is missing. Raises StorageError."""
        _make(self.root, 0o777)
        if self.own_state.is_symlink():
            raise StorageError(
                f"{self.own_state} is a link, which could lead out of the destination. Remove "
                "it; to keep the manifest elsewhere, use --state-dir."
            )
        for folder in (self.own_state, self.state, self.parts):
            _make(folder, 0o700)
            with contextlib.suppress(OSError):
                folder.chmod(0o700)

    @contextlib.contextmanager
    def held(self, *, command: str, wait_s: float) -> Iterator[None]:
        """Be the one process that writes here. Raises LockedError, StorageError."""
        with held([self.own_state, self.state], command=command, wait_s=wait_s):
            yield


def _make(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(f"{folder} cannot be a folder: a file stands in the way.") from error
    except OSError as error:
        raise StorageError(f"The folder {folder} cannot be made: {error.strerror}.") from error
