"""What fetcher runs in: versions, the terminal, the limit of open files."""

from __future__ import annotations

import platform
import ssl
import sys
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TextIO

from fetcher import __version__
from fetcher.checkup.findings import good, warning
from fetcher.configuration.tables import Screen
from fetcher.manifest import schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fetcher.checkup.findings import Findings

_FEW_COLUMNS = 40  # below it bars and tables have no room for names
# Beside each transfer's connections: its part and the part's journal. Beside all of them:
# the manifest with its log, the lock, the API, the streams, names being looked up.
_FILES_OF_TRANSFER = 2
_FILES_OF_RUN = 64


def versions() -> Findings:
    """Yield what is installed."""
    with closing(schema.nothing()) as db:
        [sqlite] = db.execute("SELECT sqlite_version()").fetchone()
    openssl = " ".join(ssl.OPENSSL_VERSION.split()[:2])
    parts = (
        f"fetcher {__version__}",
        f"Python {platform.python_version()}",
        f"aiohttp {_version('aiohttp')}",
        openssl,
        f"SQLite {sqlite}",
        f"{platform.system()} {platform.release()}",
    )
    yield good("versions", ", ".join(parts))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def terminal(stdout: TextIO, stderr: TextIO, environ: Mapping[str, str]) -> Findings:
    """Yield what output will look like."""
    screen = Screen.of(stdout, environ)
    if screen.columns is None:
        shape = "stdout is no terminal: plain text"
    else:
        colours = "with colours" if screen.is_coloured else "without colours"
        shape = f"{screen.columns} columns, {colours}"
    bars = stderr.isatty() and environ.get("TERM") != "dumb"
    found = f"{shape}; {'bars' if bars else 'no bars'}; {screen.encoding}"
    paths = sys.getfilesystemencoding()
    if not (screen.encoding.startswith("utf") and paths.startswith("utf")):
        named = found if paths.startswith("utf") else f"{found}, names of files in {paths}"
        cure = "names in Arabic cannot be shown so: set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
        yield warning("terminal", named, cure)
    elif screen.columns is not None and screen.columns < _FEW_COLUMNS:
        yield warning("terminal", found, "widen the window, or add --progress off")
    else:
        yield good("terminal", found)


def open_files(concurrency: int, connections: int) -> Findings:
    """Yield whether as many files and connections may be open as a run can need."""
    import resource  # noqa: PLC0415 - not on every platform

    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = concurrency * (connections + _FILES_OF_TRANSFER) + _FILES_OF_RUN
    if most == resource.RLIM_INFINITY or most >= needed:
        allowed = "any number" if most == resource.RLIM_INFINITY else str(most)
        yield good("open files", f"{allowed} allowed, {needed} can be needed")
        return
    yield warning(
        "open files",
        f"only {most} allowed, and -j {concurrency} times -x {connections} can need {needed}",
        f"ulimit -n {needed} (LimitNOFILE= in a systemd unit), or a lower -j or -x",
    )
