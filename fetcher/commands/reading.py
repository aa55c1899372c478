"""What the commands share that read the manifest: where it is, and how machines are written to.

Takes no lock, makes no folder: `list`, `status` and `export` work at any time, also while
a run goes on, and where there is no manifest everything is empty.
"""

from __future__ import annotations

from datetime import UTC, datetime
from io import TextIOWrapper
from typing import TYPE_CHECKING, TextIO

from fetcher.core.text import printable
from fetcher.errors import UsageError
from fetcher.manifest.reader import Reader
from fetcher.runs.destination import Destination

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fetcher.commands import Environment
    from fetcher.configuration.config import Resolved


def destination_of(found: Resolved) -> Destination:
    """Return the destination. Raises StorageError where DIR is a file, or no possible name."""
    destination = Destination(found.dest, found.state_dir)
    destination.check_readable()
    return destination


def opened(found: Resolved) -> Reader:
    """Return a reader of the manifest. Raises StorageError, ManifestError."""
    return Reader(destination_of(found).manifest)


def tell_notices(found: Resolved, env: Environment) -> None:
    """Tell of what looks like a slip in the settings."""
    for notice in found.notices:
        env.tell(f"fetcher: note: {notice}")


def refuse_dry_run(found: Resolved, command: str, instead: str) -> None:
    """Raise UsageError where a dry run is wanted of a command that can only write.

    `instead` is the command that shows what this one would take up.
    """
    if found.value("dry_run", bool):
        place = found.origins["dry_run"].place
        raise UsageError(
            f"`fetcher {command}` is no dry run, it writes: leave out {place}"
            f" or add --no-dry-run; to see what it would take up, `fetcher {instead}`"
        )


def put(lines: Iterable[str], stream: TextIO) -> None:
    """Write what programs read: UTF-8 whatever the locale."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    stream.writelines(lines)


def put_table(lines: Iterable[str], stream: TextIO) -> None:
    """Write CSV: exact for programs, and on a terminal as a person may see it."""
    is_seen = stream.isatty()
    put((printable(line.removesuffix("\n")) + "\n" if is_seen else line for line in lines), stream)


def now() -> datetime:
    """Return the time of the wall clock, aware and UTC."""
    return datetime.now(UTC)
