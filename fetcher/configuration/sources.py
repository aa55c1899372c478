"""What each source of settings says: flags, environment, the settings file, defaults.

Owns the names of variables and the format of `fetcher.toml`. Each source becomes a layer:
a value with its origin for each option that the source sets; `config` decides between
them. How a value is read is `kinds`' matter.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING

from fetcher.configuration import pipes
from fetcher.configuration.kinds import Option, quoted
from fetcher.configuration.options import BY_FIELD, OPTIONS
from fetcher.configuration.targets import EXEC_PLACEHOLDERS, RUN_FACTS
from fetcher.configuration.values import nearest
from fetcher.errors import UsageError
from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

FILE_NAME = "fetcher.toml"
# What decides how the file is read cannot stand in it.
NOT_IN_FILE = ("config", "profile")


class Source(StrEnum):
    """Where a value can come from, strongest first."""

    COMMAND_LINE = "command line"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@frozen
class Origin:
    """Where a value came from; `place` names the very spot, for messages."""

    source: Source
    place: str

    @property
    def is_default(self) -> bool:
        """Whether nobody set it."""
        return self.source is Source.DEFAULT


# What one source says: by field, the value and where it stands.
Layer = dict[str, tuple[object, Origin]]


def from_flags(flags: Mapping[str, object], now: datetime | None) -> Layer:
    """Return what the command line says; `flags` by field, other names are ignored."""
    return {
        field: (
            option.read(flags[field], option.flag, now),
            Origin(Source.COMMAND_LINE, option.flag),
        )
        for field, option in BY_FIELD.items()
        if field in flags
    }


def from_environment(environ: Mapping[str, str], now: datetime | None) -> Layer:
    """Return what the variables say; an empty one is not set, as service managers write it."""
    layer: Layer = {}
    for option in OPTIONS:
        text = environ.get(option.environment, "")
        if text.strip() and not option.flag_only:
            origin = Origin(Source.ENVIRONMENT, option.environment)
            parts = [part.strip() for part in text.split(",") if part.strip()]
            value = option.read(parts if option.repeatable else text, origin.place, now)
            layer[option.field] = (value, origin)
    return layer


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a notice for each FETCHER_ variable that is none: likely a slip."""
    known = {option.environment for option in OPTIONS if not option.flag_only}
    for name in sorted(environ):
        is_from_hook = name.removeprefix("FETCHER_").lower() in (*EXEC_PLACEHOLDERS, *RUN_FACTS)
        if name.startswith("FETCHER_") and name not in known and not is_from_hook:
            hint = nearest(name, (*known, "MUNSIT_API_KEY"))
            if name == "FETCHER_API_KEY":
                hint = "; the key is taken from MUNSIT_API_KEY"
            yield f"{name} in the environment sets no option{hint}"


def defaults() -> Layer:
    """Return every option's default."""
    return {
        option.field: (
            None if option.default is None else option.read(option.default, option.flag),
            Origin(Source.DEFAULT, option.flag),
        )
        for option in OPTIONS
    }


# ---- the file ----------------------------------------------------------------------------


def find_file(named: str | None, *, cwd: Path, user_folder: Path | None) -> Path | None:
    """Return the settings file: the named one, else the folder's, else the user's, if any.

    `user_folder` None: the platform's folder for the user's configuration.
    """
    if named is not None:
        return cwd / named
    here = cwd / FILE_NAME
    if os.path.lexists(here):
        return here
    if user_folder is None:
        from platformdirs import user_config_path  # noqa: PLC0415 - not every run gets here

        user_folder = user_config_path("fetcher", appauthor=False)
    users = user_folder / FILE_NAME
    return users if os.path.lexists(users) else None


def from_file(file: Path, profile: str | None, now: datetime | None) -> Layer:
    """Return what the file says, the table of the chosen profile above the rest.

    Raises UsageError that names the file, the key and the nearest right word, StoppedError
    where a signal came before the file did through a pipe.
    """
    table = _parse(file)
    profiles = _profiles(table.pop("profile", {}), file)
    layer = _read_table(table, str(file), now)
    for name, keys in profiles.items():
        place = f"{file} [profile.{name}]"
        if name == profile:
            layer |= _read_table(keys, place, now)
        else:  # its values may be meant for another machine
            _known_keys(keys, place)
    if profile and profile not in profiles:
        known = nearest(profile, profiles) or f"; there are: {', '.join(profiles) or 'none'}"
        raise UsageError(f"{file}: there is no [profile.{profile}]{known}")
    return layer


def _parse(file: Path) -> dict[str, object]:
    import tomllib  # noqa: PLC0415 - only where there is a file

    try:
        return dict(tomllib.loads(pipes.read(file).decode("utf-8-sig")))
    except UnicodeDecodeError:
        raise UsageError(f"{file}: is no UTF-8 text: is it the right file?") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{file}: is no valid TOML: {error}") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None


def _profiles(value: object, file: Path) -> dict[str, dict[str, object]]:
    if not isinstance(value, dict) or not all(isinstance(keys, dict) for keys in value.values()):
        raise UsageError(f"{file}: profile: write [profile.NAME] and its keys below it")
    return value


def _read_table(table: Mapping[str, object], place: str, now: datetime | None) -> Layer:
    layer: Layer = {}
    for key, option in _known_keys(table, place):
        spot = f"{place}: {key}"
        if option.field in layer:
            raise UsageError(f"{spot}: is there twice, with a hyphen and with an underscore")
        layer[option.field] = (option.read(table[key], spot, now), Origin(Source.FILE, spot))
    return layer


def _known_keys(table: Mapping[str, object], place: str) -> list[tuple[str, Option]]:
    settable = {o.name: o for o in OPTIONS if not o.flag_only and o.name not in NOT_IN_FILE}
    found = []
    for key in table:
        name = key.replace("_", "-")
        if name.lower() in ("api-key", "key", "munsit-api-key"):
            raise UsageError(
                f"{place}: {key}: the key does not belong in this file: write it to a file of"
                " its own and name that with api-key-file"
            )
        if name not in settable:
            raise UsageError(f"{place}: unknown key {quoted(key)}{nearest(name, settable)}")
        found.append((key, settable[name]))
    return found
