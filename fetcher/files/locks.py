"""One process per destination: a lock that dies with its holder, and who that is."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fetcher.errors import LockedError, StorageError
from fetcher.files.cards import read_card

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LOCK_FILE = "lock"
_HOLDER = "holder.json"
_PATIENCE_S = 0.2  # somebody who only asks who holds it has the lock for a moment


@contextlib.contextmanager
def held(folders: list[Path], *, command: str, wait_s: float) -> Iterator[None]:
    """Hold the lock of every folder; raises LockedError naming the holder after `wait_s`.

    The kernel drops the lock when its holder ends, however it ends, so a kill leaves
    nothing that must be cleaned up. Who holds it stands in a file of its own: taking the
    lock may empty the lock file.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - 25 ms that readers need not pay

    with contextlib.ExitStack() as stack:
        for folder in sorted(set(folders)):
            # thread_local: a run takes the lock in a thread and gives it back in another.
            patience_s = max(wait_s, _PATIENCE_S)
            lock = FileLock(folder / LOCK_FILE, timeout=patience_s, mode=0o600, thread_local=False)
            try:
                stack.enter_context(lock)
            except Timeout as error:  # an OSError, and no trouble of the storage
                raise LockedError(
                    f"Another process works on this destination: {_describe(folder)}. "
                    "Wait for it, stop it, or give --wait-lock."
                ) from error
            except OSError as error:
                why = error.strerror or error
                raise StorageError(
                    f"The lock {folder / LOCK_FILE} cannot be taken: {why}"
                ) from error
            _announce(folder, command)
            stack.callback(_withdraw, folder)
        yield


def is_held(folder: Path) -> bool:
    """Return whether a process holds that folder's lock now."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - 25 ms that others need not pay

    if not (folder / LOCK_FILE).exists():
        return False
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


class Grip:
    """Whether the lock that a process holds, and what else it has open, is still in its place.

    `anchor`: the folder through which they are reached. Where it is not to be reached, or lies
    on another device than the lock did, it was unmounted or is away for a while: nothing can
    be told then.
    """

    def __init__(self, anchor: Path, folder: Path, others: Sequence[Path] = ()) -> None:
        self._anchor = anchor
        self._folder = folder
        self._others = others
        self._lock = _look_at(folder / LOCK_FILE)

    def lost(self) -> Path | None:
        """Return a file that is gone, or a lock in whose place another stands; None otherwise."""
        anchor = _look_at(self._anchor)
        if self._lock is None or anchor is None or anchor.st_dev != self._lock.st_dev:
            return None
        for path in (self._folder / LOCK_FILE, *self._others):
            if _is_missing(path):
                return path
        return self._folder / LOCK_FILE if self._is_replaced(self._lock) else None

    def _is_replaced(self, before: os.stat_result) -> bool:
        """Return whether another lock file is there, which anybody may take or has taken.

        Its number alone proves nothing: some network file systems change it.
        """
        now = _look_at(self._folder / LOCK_FILE)
        if now is None or now.st_dev != before.st_dev or now.st_ino == before.st_ino:
            return False
        return not is_held(self._folder) or not _is_ours(holder(self._folder))


def holder(folder: Path) -> dict[str, str] | None:
    """Return what the last holder said of itself: pid, host, command, since."""
    said = read_card(folder / _HOLDER)
    return None if said is None else {str(k): str(v) for k, v in said.items()}


def present_holder(folder: Path) -> dict[str, str] | None:
    """Return who holds that folder's lock now, None where nobody does.

    A process of this machine that is gone is known without touching the lock, so that
    asking often never comes in the way of a process that is just taking it.
    """
    who = holder(folder)
    if who is None or _is_gone(who) or not is_held(folder):
        return None
    return who


def _is_gone(who: dict[str, str]) -> bool:
    pid = who.get("pid", "")
    if who.get("host") != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _is_ours(who: dict[str, str] | None) -> bool:
    us = (str(os.getpid()), socket.gethostname())
    return who is not None and (who.get("pid"), who.get("host")) == us


def _look_at(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _is_missing(path: Path) -> bool:
    """Return whether nothing is there, which differs from not being let know."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _describe(folder: Path) -> str:
    who = holder(folder)
    if who is None:
        return f"{folder} is locked"
    return (
        f"fetcher {who.get('command', '?')}, process {who.get('pid', '?')} on "
        f"{who.get('host', '?')}, since {who.get('since', '?')}"
    )


def _announce(folder: Path, command: str) -> None:
    text = json.dumps(
        {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": command,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    fresh = folder / f"{_HOLDER}.{os.getpid()}"
    try:
        fresh.write_text(text)
        fresh.replace(folder / _HOLDER)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        why = error.strerror or error
        raise StorageError(
            f"{folder / _HOLDER}, which says who works here, cannot be written: {why}. Move away "
            "what stands there, or check that the folder is writable and not full."
        ) from error


def _withdraw(folder: Path) -> None:
    """Take back who works here, but not where another has taken a lock that replaced ours."""
    who = holder(folder)
    if who is None or _is_ours(who):
        with contextlib.suppress(OSError):
            (folder / _HOLDER).unlink()
