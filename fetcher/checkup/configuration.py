"""The settings and the key: whether they can be read, and what looks like a slip.

Where the settings have errors, reads what can be read without the wrong part, so that the
other checks have something to go by.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from fetcher.checkup.findings import Finding, good, problem, warning
from fetcher.configuration.key import MISSING, KeyFile, checked_key
from fetcher.errors import UsageError
from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from fetcher.configuration.config import Resolved

    Values = Mapping[str, object]
    Variables = Mapping[str, str]
    Resolve = Callable[[Values, Variables], Resolved]

_PREFIX = "FETCHER_"
_ABOUT_FILE = ("config", "profile")  # what says which file is read, and what of it
_NO_FILE: dict[str, object] = {"config": Path(os.devnull)}
_USAGE = UsageError.exit_code


@frozen
class Reading:
    """The settings that the other checks go by, and what is to be said of them.

    `is_whole`: they are what a run would use.
    """

    resolved: Resolved
    findings: tuple[Finding, ...]
    is_whole: bool


def read_settings(resolve: Resolve, flags: Values, environ: Variables) -> Reading:
    """Return what can be read of the settings, and what is wrong with them."""
    errors: list[str] = []
    for some_flags, some_environ in _attempts(flags, environ):
        try:
            resolved = resolve(some_flags, some_environ)
        except UsageError as error:
            if str(error) not in errors:
                errors.append(str(error))
        else:
            break
    else:
        resolved = resolve(_NO_FILE, {})
    wrong = [problem("settings", error, "correct that setting", _USAGE) for error in errors]
    slips = [warning("settings", slip, "remove or rename it") for slip in resolved.notices]
    findings = (*(wrong or [_whole(resolved)]), *slips)
    return Reading(resolved, findings, is_whole=not errors)


def _attempts(flags: Values, environ: Variables) -> Iterator[tuple[Values, Variables]]:
    """Yield what to read: everything, then less and less of it."""
    about_file = {f"{_PREFIX}{name.upper()}" for name in _ABOUT_FILE}
    bare = {
        name: text
        for name, text in environ.items()
        if not name.startswith(_PREFIX) or name in about_file
    }
    fileless = {name: value for name, value in flags.items() if name not in _ABOUT_FILE}
    yield flags, environ
    yield flags, bare
    yield fileless | _NO_FILE, _without(environ, about_file)
    yield fileless | _NO_FILE, _without(bare, about_file)
    yield _NO_FILE, _without(bare, about_file)


def _without(environ: Variables, names: set[str]) -> Variables:
    return {name: text for name, text in environ.items() if name not in names}


def _whole(resolved: Resolved) -> Finding:
    """Return the finding for settings without an error of their own."""
    try:
        resolved.settings()
    except UsageError as error:
        return problem("settings", str(error), "correct that setting", _USAGE)
    profile = f", profile {resolved.profile}" if resolved.profile else ""
    where = f"{resolved.file}{profile}" if resolved.file else "no settings file"
    changed = sum(not origin.is_default for origin in resolved.origins.values())
    return good("settings", f"{where}; options that are set: {changed}")


def read_key(resolved: Resolved) -> Generator[Finding, None, str | None]:
    """Yield whether there is a key, where it comes from and who can read it; return it.

    Neither a finding nor an error holds any part of the key.
    """
    origin = resolved.key_origin
    if origin is None:
        found, _, cure = MISSING.partition(": ")
        yield problem("key", found, cure, _USAGE)
        return None
    file = resolved.optional("api_key_file", Path)
    try:
        if resolved.api_key is not None:
            key = checked_key(resolved.api_key, origin.place)
        else:
            key = KeyFile(file or Path()).read()
    except UsageError as error:
        yield problem("key", str(error), f"put that right, or set another one: {MISSING}", _USAGE)
        return None
    if file is None or resolved.api_key is not None:
        yield good("key", f"set by {origin.place}")
    else:
        yield _guarded(file, origin.place)
    return key


def _guarded(file: Path, place: str) -> Finding:
    """Return whether a key file can be read by others."""
    found = file.stat()
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode) or not mode & 0o077:
        return good("key", f"in {file} (named by {place})")
    return warning(
        "key",
        f"in {file} (named by {place}), which others may read or change (mode {mode:04o})",
        f"chmod 600 {file}",
    )
