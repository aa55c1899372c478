"""Paths under DIR: looked at, made and taken without ever leaving DIR or overwriting.

Folders are opened one component at a time without following links (openat, O_NOFOLLOW), so
neither a link that was there nor one that appears meanwhile leads out; a link to a folder
inside DIR is allowed. A file is put in place by a rename that refuses an existing name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
import sys
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fetcher.core.names import is_state_folder
from fetcher.errors import PlaceError
from fetcher.files.trouble import explain, readable
from fetcher.threads import end_if_called_off

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_AT_FDCWD = -100 if sys.platform == "linux" else -2
_RENAME_NOREPLACE = 1  # Linux renameat2(2)
_RENAME_EXCL = 4  # macOS renameatx_np(2)
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})
# What the system says where nothing stands, a name that its file system cannot have included.
_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
_NOTHING_THERE |= {errno.EINVAL, errno.EILSEQ}
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_READ_BYTES = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EARLIEST_NS = -(1 << 31) * 10**9  # kernel.org, ext4 "Inode Timestamps"
_LATEST_NS = ((1 << 34) - (1 << 31) - 1) * 10**9


class TakenError(PlaceError):
    """Something that fetcher did not write stands at the path."""


class Places:
    """The destination folder DIR."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, path: str) -> os.stat_result | None:
        """Return what stands at the relative path (links not followed), None when nothing."""
        try:
            return os.lstat(f"{self.root}/{path}")  # a Path for each would double the cost
        except (OSError, ValueError):
            return None

    def hidden(self, path: str) -> str | None:
        """Return why nobody can tell what stands there, None where one can.

        `find` finds nothing then, such as in a folder that may not be entered.
        """
        try:
            os.lstat(f"{self.root}/{path}")
        except ValueError:
            return None
        except OSError as error:
            return None if error.errno in _NOTHING_THERE else error.strerror or str(error)
        return None

    def is_ours(self, path: str, marked_at: datetime | None) -> bool:
        """Return whether a regular file inside DIR stands there with this job's mark.

        The mark is the modification time, which is the job's `marked_at` to the
        nanosecond, or to the second on file systems that keep no more.
        """
        found = self.find(path)
        if found is None or marked_at is None or not stat.S_ISREG(found.st_mode):
            return False
        mark_ns = mtime_ns(marked_at)
        coarse = found.st_mtime_ns == mark_ns - mark_ns % 1_000_000_000
        if not found.st_size or not (found.st_mtime_ns == mark_ns or coarse):
            return False
        return self.contains(path)

    def may_be_read(self, path: str) -> bool:
        """Return whether the file there may be opened for reading."""
        return os.access(f"{self.root}/{path}", os.R_OK)

    def restamp(self, path: str, before: datetime | None, after: datetime) -> None:
        """Give a file that bears the mark `before` the mark `after`; others stay as they are."""
        if self.is_ours(path, before):
            ns = mtime_ns(after)
            with contextlib.suppress(OSError):
                os.utime(self.root / path, ns=(ns, ns), follow_symlinks=False)

    def contains(self, path: str) -> bool:
        """Return whether the path's folder, links resolved, is inside DIR."""
        return _is_inside((self.root / path).parent, self.root)

    def beginning(self, path: str, most_bytes: int) -> bytes:
        """Return the first bytes of a regular file inside DIR, none of anything else."""
        found = self.find(path)
        if found is None or not stat.S_ISREG(found.st_mode) or not self.contains(path):
            return b""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(self.root / path, flags), "rb") as file:  # noqa: PTH123 - descriptor
                return file.read(most_bytes)
        except OSError:
            return b""

    def prune(self, path: str) -> None:
        """Remove the folders above `path` that are empty, up to DIR, which stays."""
        for folder in list((self.root / path).parents)[: path.count("/")]:
            if not self.contains(str(folder.relative_to(self.root))):
                return
            try:
                folder.rmdir()  # refuses a link, and whatever is not empty
            except FileNotFoundError:
                continue
            except OSError:
                return

    def trouble(self, path: str, *, over_file: bool = False) -> PlaceError | None:
        """Return what `put` would raise for that path now, None where it would do it.

        Makes and changes nothing. Raises StorageError.
        """
        folder, _, name = path.rpartition("/")
        try:
            with self._refusing(path), contextlib.suppress(FileNotFoundError):
                self._look_for(name, folder, over_file=over_file)
        except PlaceError as error:
            return error
        return None

    def _look_for(self, name: str, folder: str, *, over_file: bool) -> None:
        """Raise OSError, TakenError for what hinders a file there; see `_unmade` as well."""
        fd, _ = self._open_folders(folder.split("/") if folder else [], None, make=_unmade)
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if not (over_file and stat.S_ISREG(found.st_mode)):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        except FileNotFoundError:
            _unmade(name, fd)
        finally:
            os.close(fd)

    def put(self, source: Path, path: str, *, over_file: bool = False) -> tuple[int, list[Path]]:
        """Rename `source` to the relative path; return its folder (open) and the folders
        whose entries changed, DIR itself first where it is among them.

        `over_file`: a regular file that stands there is ours and is replaced in one step.
        Raises TakenError where something stands there, PlaceError where the path leads out
        of DIR or into a folder that refuses it, StorageError for everything else.
        """
        folder_fd, changed = self.open_folder(path.rpartition("/")[0])
        try:
            self.put_in(folder_fd, source, path, over_file=over_file)
        except BaseException:
            os.close(folder_fd)
            raise
        return folder_fd, changed

    def open_folder(self, folder: str, root_fd: int | None = None) -> tuple[int, list[Path]]:
        """Open a folder below DIR, made where it is missing; the folders that were added to.

        `root_fd`: DIR, open already; it stays open. Raises as `put` does.
        """
        with self._refusing(folder or "."):
            return self._open_folders(folder.split("/") if folder else [], root_fd, make=_made)

    def put_in(self, folder_fd: int, source: Path, path: str, *, over_file: bool = False) -> None:
        """Rename `source` to the relative path, whose folder is open. Raises as `put` does."""
        rename = _rename_over if over_file else _rename_new
        with self._refusing(path, source):
            rename(source, path.rpartition("/")[2], folder_fd)

    @contextlib.contextmanager
    def _refusing(self, path: str, source: Path | None = None) -> Iterator[None]:
        """Raise our errors for what the system says about a path below DIR."""
        try:
            yield
        except FileExistsError as error:
            raise TakenError(f"Something else stands at {path}") from error
        except OSError as error:
            if self._is_only_there(error, source):
                raise PlaceError(f"No file can be made at {path}: {error.strerror}") from error
            raise explain(error, self.root / path) from error

    def _open_folders(
        self,
        folders: list[str],
        root_fd: int | None,
        *,
        make: Callable[[str, int], bool],
    ) -> tuple[int, list[Path]]:
        """Open the folders one in the other; `make` sees to one that is missing (`_made`)."""
        here = self.root
        fd = os.open(here, _FOLDER) if root_fd is None else os.dup(root_fd)
        changed: list[Path] = []
        try:
            for name in folders:
                above, here = here, here / name
                try:
                    deeper = self._open_folder(name, fd, here)
                except FileNotFoundError:
                    if make(name, fd):
                        changed.append(above)
                    deeper = self._open_folder(name, fd, here)
                os.close(fd)
                fd = deeper
        except BaseException:
            os.close(fd)
            raise
        return fd, changed

    def _open_folder(self, name: str, parent_fd: int, path: Path) -> int:
        try:
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent_fd)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
        if not path.is_symlink():
            raise TakenError(f"A file stands where the folder {path} should be")
        return self._open_linked(path)

    def _open_linked(self, link: Path) -> int:
        """Open the folder that a link leads to, again without following any link on the way."""
        root, target = (Path(os.path.realpath(path)) for path in (self.root, link))
        inner = target.relative_to(root).parts if target.is_relative_to(root) else ()
        if not inner or is_state_folder(inner[0]) or not target.is_dir():
            raise TakenError(f"The link {link} leads to no folder for files in the destination")
        fd = os.open(root, _FOLDER)
        for name in inner:
            try:
                deeper = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def _is_only_there(self, error: OSError, source: Path | None) -> bool:
        """Return whether just a folder below DIR refuses, while DIR and the source are well."""
        if error.errno == errno.EXDEV:
            return True  # another file system is mounted there
        usable = os.W_OK | os.X_OK
        return (
            error.errno in _REFUSED
            and os.access(self.root, usable)
            and (source is None or os.access(source.parent, usable))
        )


def _made(name: str, parent_fd: int) -> bool:
    """Make a folder; return whether it was not there by now."""
    try:
        os.mkdir(name, dir_fd=parent_fd)
    except FileExistsError:
        return False
    return True


def _unmade(name: str, parent_fd: int) -> NoReturn:
    """Raise PermissionError where nothing can be made in that folder, FileNotFoundError else."""
    may = os.access(".", os.W_OK | os.X_OK, dir_fd=parent_fd)
    code, kind = (errno.ENOENT, FileNotFoundError) if may else (errno.EACCES, PermissionError)
    raise kind(code, os.strerror(code), name)


def _is_inside(folder: Path, root: Path) -> bool:
    try:
        return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))
    except (OSError, ValueError):
        return False


def mtime_ns(at: datetime) -> int:
    """Return the instant as nanoseconds since 1970, exact to the microsecond.

    One before 1901 or after 2446, which ext4 cannot hold, becomes the nearest that it can: it
    would do that by itself, and the file would not be known again.
    """
    return min(max((at - _EPOCH) // _MICROSECOND * 1000, _EARLIEST_NS), _LATEST_NS)


def digest_file(path: Path) -> tuple[str, int]:
    """Return the SHA-256 (hex) and the length in bytes of a regular file.

    Links are not followed. Raises PlaceError where this file cannot be read, StorageError
    where no file could be, CalledOffError.
    """
    digest = hashlib.sha256()
    length = 0
    with readable(path):
        # O_NONBLOCK: a named pipe would wait for somebody to write into it.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise PlaceError(f"{path} is no regular file")
            block = bytearray(_READ_BYTES)
            while count := os.readv(fd, [block]):
                end_if_called_off()
                digest.update(memoryview(block)[:count])
                length += count
        finally:
            os.close(fd)
    return digest.hexdigest(), length


def _rename_new(source: Path, name: str, folder_fd: int) -> None:
    """Rename without replacing; FileExistsError where the name is taken."""
    rename = _native_rename()
    if rename is not None:
        code = rename(source, name, folder_fd)
        if not code:
            return
        if code not in _UNSUPPORTED:
            raise OSError(code, os.strerror(code), name)
    # No such call on this system or file system: look, then rename. The lock keeps other
    # fetchers out, so only a foreign program could come between.
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, name, dst_dir_fd=folder_fd)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _rename_over(source: Path, name: str, folder_fd: int) -> None:
    """Rename, replacing a regular file; FileExistsError where anything else stands there."""
    found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    os.rename(source, name, dst_dir_fd=folder_fd)


@cache
def _native_rename() -> Callable[[Path, str, int], int] | None:
    """Return the system's rename that replaces nothing (0 or an errno), None without one."""
    symbol, flag = ("renameat2", _RENAME_NOREPLACE)
    if sys.platform == "darwin":
        symbol, flag = ("renameatx_np", _RENAME_EXCL)
    try:
        call = getattr(ctypes.CDLL(None, use_errno=True), symbol)
    except (AttributeError, OSError):
        return None
    call.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint,
    )

    def rename(source: Path, name: str, folder_fd: int) -> int:
        failed = call(_AT_FDCWD, os.fsencode(source), folder_fd, os.fsencode(name), flag)
        return ctypes.get_errno() if failed else 0

    return rename
