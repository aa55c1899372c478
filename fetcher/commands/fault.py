"""The record of a fault in fetcher itself: the traceback in a file, out of the user's sight.

Owns where that file is and what must not be in it: no key, no query of a link.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fetcher import __version__
from fetcher.configuration.options import STATE_FOLDER

if TYPE_CHECKING:
    from argparse import Namespace

    from fetcher.commands import Environment

_QUERY = re.compile(r"(https?://[^\s'\"?]*)\?[^\s'\"]*")


def record(error: Exception, args: Namespace, env: Environment) -> Path | None:
    """Append the traceback to a file and return its path, None where none can be written.

    The log file if one was named, else `fault.log` in the state folder where that exists,
    else a new file among the temporary ones. With -vv the traceback goes to stderr too.
    Never raises: what tells of a fault must not be one.
    """
    try:
        return _record(error, args, env)
    except Exception:  # noqa: BLE001 - the last resort: the status and the message must come
        return None


def _record(error: Exception, args: Namespace, env: Environment) -> Path | None:
    text = _clean("".join(traceback.format_exception(error)), env.environ.get("MUNSIT_API_KEY"))
    at = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"{at} fetcher {__version__}, Python {sys.version.split()[0]}\n{text}\n"
    if getattr(args, "verbose", 0) >= 2:
        with contextlib.suppress(OSError, ValueError):  # it may be closed
            env.stderr.write(text)
    for path in _named_places(args, env):
        try:
            _append(path, text)
        except OSError:
            continue
        return path
    return _temporary(text)


def _clean(text: str, key: str | None) -> str:
    """Return `text` without the key and without queries, which carry signatures."""
    if key and key.strip():
        text = text.replace(key.strip(), "<key>")
    return _QUERY.sub(r"\1?...", text)


def _named_places(args: Namespace, env: Environment) -> list[Path]:
    places = []
    log_file = getattr(args, "log_file", None) or env.environ.get("FETCHER_LOG_FILE")
    if log_file:
        places.append(env.cwd / log_file)
    dest = getattr(args, "dest", None) or env.environ.get("FETCHER_DEST") or "downloads"
    state = getattr(args, "state_dir", None) or env.environ.get("FETCHER_STATE_DIR")
    folder = env.cwd / (state or Path(dest) / STATE_FOLDER)
    is_there = os.path.isdir(folder)  # noqa: PTH112 - that of Path raises for a name too long
    if is_there and not getattr(args, "dry_run", False):
        places.append(folder / "fault.log")
    return places


def _append(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    _write(os.open(path, flags, 0o600), text)


def _temporary(text: str) -> Path | None:
    try:
        descriptor, name = tempfile.mkstemp(prefix="fetcher-fault-", suffix=".log")
        _write(descriptor, text)
    except OSError:
        return None
    return Path(name)


def _write(descriptor: int, text: str) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode(errors="backslashreplace"))
