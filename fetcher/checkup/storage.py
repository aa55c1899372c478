"""The folders that a run writes to: can they be made, written, synced; is there room.

Tries it for real, in a folder of its own that is removed again; makes nothing else.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fetcher.checkup.findings import Finding, good, problem, warning
from fetcher.checkup.mounts import mount_of
from fetcher.checkup.patience import within
from fetcher.errors import StorageError
from fetcher.files.sealing import sync_folder, write_durable
from fetcher.frozen import frozen
from fetcher.report.units import human_bytes, human_count
from fetcher.runs.destination import PARTS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Generator

    from fetcher.checkup.findings import Findings
    from fetcher.runs.destination import Destination

_STORAGE = StorageError.exit_code
_LARGE_FILE_BYTES = 200_000_000  # what the service takes at most (POST /denoise)
_FEW_INODES = 1000
_NAME_BYTES = 255  # what a name may take by contract 4.2
_MARK_NS = 1_700_000_001_234_567_000  # odd seconds and microseconds: neither may be lost
_SECOND_NS = 1_000_000_000
_ANOTHER = "name another folder with -d DIR"
_CURES = {
    errno.EACCES: f"give this user the right to write there, or {_ANOTHER}",
    errno.EPERM: f"give this user the right to write there, or {_ANOTHER}",
    errno.EROFS: f"it is mounted read-only: remount it, or {_ANOTHER}",
    errno.ENOSPC: "the disk or its table of files is full: make room",
    errno.EDQUOT: "your quota is used up: make room",
}


@frozen
class Traits:
    """What a try showed of a file system. `mtime_step_ns`: what is lost of a time at most."""

    took_s: float
    folds_case: bool
    mtime_step_ns: int
    name_bytes: int


def examine_storage(
    destination: Destination, min_free_bytes: int, limit_s: float
) -> Generator[Finding, None, bool]:
    """Yield how DIR and the state folder stand; return whether they answer at all.

    `limit_s` bounds each try: a network share that is down keeps whoever looks at it.
    """
    root, state = destination.root, destination.state
    try:
        place = yield from _folder("destination", root, destination.own_state, limit_s)
        if place is not None:
            yield _space(place, min_free_bytes)
            yield from _inodes(place)
        if state != destination.own_state:
            yield from _folder("state folder", state, state, limit_s)
        if place is not None:
            yield from _network(place, state)
    except TimeoutError:
        found = f"no answer within {limit_s:g} s from where {root} or {state} is"
        yield problem("destination", found, "is a network share down?", _STORAGE)
        return False
    return True


def _folder(
    check: str, folder: Path, inner: Path, limit_s: float
) -> Generator[Finding, None, Path | None]:
    """Yield whether a run can write to `folder`; return where that was tried, if it worked.

    `inner`: the folder in it that is fetcher's own, where files are tried once it is there.
    Raises TimeoutError.
    """
    obstacle = within(limit_s, partial(_obstacle, folder, inner))
    if obstacle is not None:
        yield problem(check, *obstacle, _STORAGE)
        return None
    place = inner if inner.is_dir() else _nearest(folder)
    try:
        traits = within(limit_s, partial(_try_out, place))
    except TimeoutError:
        raise
    except OSError as error:
        found = f"{place} cannot be written: {error.strerror or error}"
        yield problem(check, found, _CURES.get(error.errno or 0, _ANOTHER), _STORAGE)
        return None
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):  # tried in `inner` only
        yield problem(check, f"{folder} may not be written", _CURES[errno.EACCES], _STORAGE)
        return None
    made = f"{folder}" if folder.is_dir() else f"{folder} can be made in {place}"
    yield good(check, f"{made}: written, synced and renamed in {traits.took_s * 1000:.0f} ms")
    if check == "destination":
        yield from _names_and_times(traits)
    return place


def _obstacle(folder: Path, inner: Path) -> tuple[str, str] | None:
    """Return what stands in the way of the folders, and the cure."""
    for path in (folder, inner, inner / PARTS_FOLDER):
        if (trouble := _trouble(path)) is not None:
            return f"{path} cannot be looked at: {trouble}", _ANOTHER
    nearest = _nearest(folder)
    if not nearest.is_dir():
        if nearest.is_symlink():
            return f"{nearest} is a link that leads to no folder", f"mend it, or {_ANOTHER}"
        return f"{nearest} is a file, where a folder should be", _ANOTHER
    for own in (inner, inner / PARTS_FOLDER):
        if inner != folder and own.is_symlink():
            found = f"{own} is a link, which could lead out of the destination"
            return found, "remove it; to keep the manifest elsewhere, use --state-dir"
    if inner != folder and os.path.lexists(inner) and not inner.is_dir():
        return f"{inner} is a file, where fetcher's own folder should be", "move it away"
    return None


def _trouble(path: Path) -> str | None:
    """Return why the system will not say what stands there, None where it does."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror or str(error)
    return None


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it where something stands."""
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            return path
    return Path(folder.anchor)


def _try_out(place: Path) -> Traits:
    """Write, sync and rename a file in `place`, and remove it. Raises OSError."""
    began_s = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix=".fetcher-doctor-", dir=place))
    try:
        write_durable(scratch / "written", b"fetcher\n", _MARK_NS)
        (scratch / "written").rename(scratch / "renamed")
        sync_folder(scratch)
        took_s = time.monotonic() - began_s
        kept_ns = (scratch / "renamed").stat().st_mtime_ns
        folds_case = (scratch / "RENAMED").exists()
        name_bytes = os.pathconf(scratch, "PC_NAME_MAX")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Traits(took_s, folds_case, abs(_MARK_NS - kept_ns), name_bytes)


def _names_and_times(traits: Traits) -> Findings:
    """Yield what the file system does to names and times."""
    if traits.folds_case:
        yield good("file system", "takes A and a for one name; fetcher keeps such files apart")
    if traits.mtime_step_ns >= _SECOND_NS:
        yield warning(
            "file system",
            "keeps no times to the second, by which files are recognised if the manifest is lost",
            "keep a copy of the manifest, or use another file system",
        )
    if traits.name_bytes < _NAME_BYTES:
        yield warning(
            "file system",
            f"takes names of {traits.name_bytes} bytes at most; longer ones cannot be written",
            "shorten names, such as -o '{stem:.30}/{stem:.30}.{short_id}{ext}'",
        )


def _space(place: Path, min_free_bytes: int) -> Finding:
    stat = os.statvfs(place)
    free_bytes = stat.f_bavail * stat.f_frsize
    found = f"{human_bytes(free_bytes)} free, --min-free keeps {human_bytes(min_free_bytes)}"
    room_bytes = free_bytes - min_free_bytes
    if room_bytes <= 0:
        return problem("space", found, "make room, or lower --min-free", _STORAGE)
    if room_bytes < _LARGE_FILE_BYTES:
        cure = "make room, or lower --min-free: one large file can be more than is left"
        return warning("space", found, cure)
    return good("space", found)


def _inodes(place: Path) -> Findings:
    """Yield where the disk can hold few more files; file systems without a limit say 0."""
    stat = os.statvfs(place)
    if not stat.f_files or stat.f_favail >= _FEW_INODES:
        return
    found = f"only {human_count(stat.f_favail)} more files fit (inodes of the file system)"
    cure = "remove files that are not needed: df -i shows how many there are"
    if stat.f_favail:
        yield warning("space", found, cure)
    else:
        yield problem("space", "no more files fit (no inodes are left)", cure, _STORAGE)


def _network(place: Path, state: Path) -> Findings:
    """Yield whether files are kept on another machine, where the manifest should not be."""
    mount = mount_of(place)
    state_mount = mount_of(_nearest(state))
    if mount is None or state_mount is None:
        return
    if not (mount.is_network or state_mount.is_network):
        yield good("file system", f"{mount.kind} at {mount.point}")
    elif state_mount.is_network:
        yield warning(
            "file system",
            f"{state_mount.point} is a network share ({state_mount.kind}), where the manifest "
            "can be damaged",
            "keep it on a disk of this machine, such as --state-dir ~/.local/state/fetcher",
        )
    else:
        found = f"{mount.point} is a network share ({mount.kind}); the manifest is elsewhere"
        yield good("file system", found)
