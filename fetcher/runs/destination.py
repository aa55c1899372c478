"""The folders of a destination, and holding them for one run."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from fetcher.errors import StorageError, UsageError
from fetcher.files.locks import LOCK_FILE, Grip, held
from fetcher.frozen import frozen
from fetcher.manifest import schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATE_FOLDER = ".fetcher"
PARTS_FOLDER = "partial"
_IMPOSSIBLE_NAME = "x" * 4090  # no file system takes more than 4,032 bytes (ReiserFS)
_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@frozen
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
        return self.own_state / PARTS_FOLDER

    @property
    def manifest(self) -> Path:
        """Return the manifest's file."""
        return self.state / schema.FILE_NAME

    @property
    def locks(self) -> list[Path]:
        """Return the files that are locked while the destination is held."""
        return [folder / LOCK_FILE for folder in dict.fromkeys((self.own_state, self.state))]

    def prepare(self) -> None:
        """Make whatever folder is missing. Raises StorageError; nothing is changed then."""
        self._refuse_link()
        _make(self.root, 0o777)
        for folder in (self.own_state, self.state, self.parts):
            _make(folder, 0o700)
        for folder in {self.own_state, self.parts, self.state.resolve()}:
            _close_to_others(folder)

    def renew_parts(self) -> None:
        """Make the folder of unfinished files where somebody has removed it, and nothing above it.

        DIR may be gone because its disk is: nothing is made in its place. Raises StorageError.
        """
        self._refuse_link()
        with _told(self.parts):
            self.parts.mkdir(mode=0o700, exist_ok=True)

    def check(self) -> None:
        """Raise StorageError where `prepare`, or writing, would. Makes and changes nothing."""
        self._refuse_link()
        for folder in (self.root, self.own_state, self.state, self.parts):
            _check(folder)
        for file in (*self.locks, self.manifest):
            if is_barred(file):
                raise StorageError(f"{file} may not be written: check whose it is, and its mode.")

    @property
    def is_apart(self) -> bool:
        """Return whether the manifest is not in DIR, and so does not move with it."""
        return self.state.resolve() != self.own_state.resolve()

    def refuse_manifest_of(self, other: str | None) -> None:
        """Raise UsageError where the manifest is that of another folder, which is still there.

        Whatever that one holds would count as being here. One that is gone was moved.
        """
        if other is None or not self.is_apart:
            return
        with contextlib.suppress(OSError):
            if not os.path.samefile(other, self.root):  # noqa: PTH121 - raises where one is gone
                raise UsageError(
                    f"The manifest in {self.state} is that of {other}, whose files would count "
                    f"as being in {self.root}: give each destination a --state-dir of its own."
                )

    def _refuse_link(self) -> None:
        """Raise StorageError where one of fetcher's own folders in DIR is a symbolic link.

        What is in them is changed and removed without asking, so none is followed. A state
        folder that the user has named elsewhere may be one.
        """
        for folder in (self.own_state, self.parts):
            if os.path.islink(folder):  # noqa: PTH114 - that of Path raises for a name too long
                raise StorageError(
                    f"{folder} is a link, which could lead out of the destination. Remove it; to "
                    "keep the manifest elsewhere, use --state-dir."
                )

    def check_readable(self) -> None:
        """Raise StorageError where DIR is there but no folder, or where nobody can tell."""
        try:
            is_folder = stat.S_ISDIR(self.root.stat().st_mode)
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                raise StorageError(
                    f"The folder {self.root} cannot be looked at: {error.strerror}."
                ) from error
            return
        if not is_folder:
            raise StorageError(f"{self.root} is a file, not a folder: name the folder with -d DIR")

    @contextlib.contextmanager
    def held(self, *, command: str, wait_s: float) -> Iterator[None]:
        """Be the one process that writes here. Raises LockedError, StorageError."""
        with held([self.own_state, self.state], command=command, wait_s=wait_s):
            yield

    def grips(self) -> list[Grip]:
        """Return what a process that holds DIR and its manifest looks at, to see that it does."""
        if self.is_apart:
            return [
                Grip(self.root, self.own_state),
                Grip(self.state, self.state, [self.manifest]),
            ]
        return [Grip(self.root, self.own_state, [self.manifest])]


def is_barred(file: Path) -> bool:
    """Return whether a file is there that this user may not read and write."""
    return os.access(file, os.F_OK) and not os.access(file, os.R_OK | os.W_OK)


def _close_to_others(folder: Path) -> None:
    """Let only the owner in, where that can be said; a link that appears is not followed."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(fd, 0o700)
        finally:
            os.close(fd)


def _make(folder: Path, mode: int) -> None:
    with _told(folder):
        folder.mkdir(mode=mode, parents=True, exist_ok=True)


def _check(folder: Path) -> None:
    """Raise StorageError where the folder can neither be made nor, if it is there, written."""
    with _told(folder):
        for path in (folder, *folder.parents):
            try:
                is_folder = stat.S_ISDIR(path.stat().st_mode)
            except FileNotFoundError:
                is_folder = False
            if is_folder:
                _check_takes_folders(path)
                return
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _check_takes_folders(folder: Path) -> None:
    """Raise OSError where no folder can be made in that one, without making any."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "it may not be written", str(folder))
    fd = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Only who could make a folder gets to complain of such a name; /proc has other worries.
        os.mkdir(_IMPOSSIBLE_NAME, dir_fd=fd)
        os.rmdir(_IMPOSSIBLE_NAME, dir_fd=fd)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    finally:
        os.close(fd)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Raise StorageError for what hinders the making of a folder."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(f"{folder} cannot be a folder: a file stands in the way.") from error
    except OSError as error:
        raise StorageError(f"The folder {folder} cannot be made: {error.strerror}.") from error
