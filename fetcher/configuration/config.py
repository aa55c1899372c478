"""Settings and their merge: command line, environment, file, default, in that order.

Owns that order and the choice of the key's source, and remembers where each value came
from. `resolve` is light (no pydantic), for commands such as `status`; `load` adds the
`Settings` of a run. What each source says is `sources`' matter; nothing is written here.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fetcher.configuration.kinds import FILE, FOLDER, quoted
from fetcher.configuration.options import BY_FIELD, OPTIONS, STATE_FOLDER, check_together
from fetcher.configuration.sources import (
    FILE_NAME,
    Layer,
    Origin,
    Source,
    defaults,
    find_file,
    from_environment,
    from_file,
    from_flags,
    unknown_variables,
)
from fetcher.errors import StorageError, UsageError
from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from fetcher.configuration.settings import Settings

T = TypeVar("T")

KEY_VARIABLE, KEY_FILE_VARIABLE = "MUNSIT_API_KEY", "MUNSIT_API_KEY_FILE"
_CREDENTIAL = "munsit-api-key"  # the name that LoadCredential= of the systemd units gives


@frozen
class Resolved:
    """Every option's value by field, and where it came from.

    `file` and `profile` are those that were used, `key_origin` is None where there is no
    key. `notices`: what looks like a slip but is no error. `standing`: the values as they
    were read without the command line.
    """

    values: Mapping[str, object]
    origins: Mapping[str, Origin]
    file: Path | None
    profile: str | None
    notices: tuple[str, ...]
    api_key: str | None = field(repr=False)
    key_origin: Origin | None
    standing: Mapping[str, object]

    def value(self, name: str, kind: type[T]) -> T:
        """Return the value of a field. Raises TypeError where it is not of that type."""
        found = self.values[name]
        if not isinstance(found, kind):
            raise TypeError(f"{name} is no {kind.__name__}")
        return found

    def optional(self, name: str, kind: type[T]) -> T | None:
        """Return the value of a field, None where it is not set."""
        return None if self.values[name] is None else self.value(name, kind)

    @property
    def dest(self) -> Path:
        """The destination, absolute. Raises StorageError where the current folder is gone."""
        return self._absolute("dest")

    @property
    def state_dir(self) -> Path:
        """The state folder, absolute. Raises StorageError where the current folder is gone."""
        return self._absolute("state_dir")

    def _absolute(self, name: str) -> Path:
        path = self.value(name, Path)
        if not path.is_absolute():
            place = self.origins[name].place
            raise StorageError(
                f"{place}: {quoted(path)} starts in the current folder, which was removed: go to "
                "another folder, or write the whole path"
            )
        return path

    def settings(self) -> Settings:
        """Return the settings of a run. Raises UsageError, and StorageError as `dest` does."""
        from fetcher.configuration.settings import Settings  # noqa: PLC0415 - 2 ms that only runs need pay
        from fetcher.core.layout import Template  # noqa: PLC0415 - as below

        try:
            Template.parse(self.value("output", str))
        except UsageError as error:
            raise UsageError(f"{self.origins['output'].place}: {error}") from None

        for name, value in self.values.items():
            if isinstance(value, Path):
                self._absolute(name)
        given = {name: self.values[name] for name in Settings.model_fields if name in self.values}
        return Settings.model_validate(given | {"api_key": self.api_key})


@frozen
class _Key:
    api_key: str | None = field(repr=False)
    file: Path | None
    origin: Origin | None
    notices: tuple[str, ...] = ()


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    cwd: Path,
    user_config_dir: Path | None = None,
    now: datetime | None = None,
) -> tuple[Settings, Resolved]:
    """Return the settings of a run, and where they came from as `resolve` finds it.

    Raises UsageError.
    """
    found = resolve(flags, environ, cwd=cwd, user_config_dir=user_config_dir, now=now)
    return found.settings(), found


def resolve(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    cwd: Path,
    user_config_dir: Path | None = None,
    now: datetime | None = None,
) -> Resolved:
    """Merge what was given and return it with its origins.

    `flags`: values by field, other names are ignored. `cwd`: where `fetcher.toml` is looked
    for first and where relative paths start. `user_config_dir`: None is the platform's.
    `now`: what ages are counted back from. Raises UsageError for an unknown key or profile,
    a bad value, and values that exclude each other.
    """
    given, environment = from_flags(flags, now), from_environment(environ, now)
    file = find_file(_first(given, environment, "config"), cwd=cwd, user_folder=user_config_dir)
    profile = _first(given, environment, "profile")
    if profile and file is None:
        raise UsageError(f"profile {quoted(profile)}: there is no {FILE_NAME} to take it from")
    merged = defaults()
    merged |= from_file(file, profile, now) if file else {}
    merged |= environment
    standing = {name: value for name, (value, _) in merged.items()}
    merged |= given
    values = {name: value for name, (value, _) in merged.items()}
    origins = {name: origin for name, (_, origin) in merged.items()}
    key = _choose_key(values["api_key_file"], origins["api_key_file"], environ)
    values["api_key_file"] = key.file
    _settle(values, origins, cwd)
    check_together(values, lambda name: origins[name].place)
    notices = (*key.notices, *unknown_variables(environ))
    return Resolved(values, origins, file, profile, notices, key.api_key, key.origin, standing)


def _first(given: Layer, environment: Layer, name: str) -> str | None:
    """Return an option that says what is read of the file, so cannot stand in it."""
    value, _ = given.get(name) or environment.get(name) or (None, None)
    return None if value is None else str(value)


def _settle(values: dict[str, object], origins: Mapping[str, Origin], cwd: Path) -> None:
    """Make paths absolute, fill in what hangs on another option, let the stronger word win."""
    for option in OPTIONS:
        path = values[option.field]
        if option.kind in (FILE, FOLDER) and isinstance(path, Path):
            values[option.field] = cwd / path
    if values["state_dir"] is None:
        values["state_dir"] = Path(str(values["dest"])) / STATE_FOLDER
    if values["quiet"] and values["verbose"]:
        strength = list(Source).index
        quiet, verbose = strength(origins["quiet"].source), strength(origins["verbose"].source)
        if quiet < verbose:
            values["verbose"] = 0
        elif verbose < quiet:
            values["quiet"] = False


def _choose_key(merged: object, origin: Origin, environ: Mapping[str, str]) -> _Key:
    """Return the strongest source of the key.

    `merged` is what --api-key-file came to. MUNSIT_API_KEY counts as environment, above
    MUNSIT_API_KEY_FILE, above FETCHER_API_KEY_FILE; last comes a systemd credential.
    """
    file = merged if isinstance(merged, Path) else None
    if file and origin.source is Source.COMMAND_LINE:
        return _Key(None, file, origin)
    key, named = environ.get(KEY_VARIABLE, ""), environ.get(KEY_FILE_VARIABLE, "")
    if key.strip():
        both = f"{KEY_VARIABLE} and {KEY_FILE_VARIABLE} are both set: the first is used"
        notices = (both,) if named.strip() else ()
        return _Key(key, None, Origin(Source.ENVIRONMENT, KEY_VARIABLE), notices)
    if named.strip():
        read = BY_FIELD["api_key_file"].read(named, KEY_FILE_VARIABLE)
        return _Key(None, Path(str(read)), Origin(Source.ENVIRONMENT, KEY_FILE_VARIABLE))
    if file:
        return _Key(None, file, origin)
    credential = Path(environ.get("CREDENTIALS_DIRECTORY", "")) / _CREDENTIAL
    if environ.get("CREDENTIALS_DIRECTORY") and credential.exists():
        return _Key(None, credential, Origin(Source.ENVIRONMENT, "CREDENTIALS_DIRECTORY"))
    return _Key(None, None, None)
