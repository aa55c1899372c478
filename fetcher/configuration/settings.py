"""The settings of a run, as the library's users meet them: checked, frozen, without the key.

Owns the types. Names, defaults and the way each value is read are those of `options`, so a
value may be given as Python has it or as it would be typed (`limit_rate="500K"`).
"""

from __future__ import annotations

import json
from copy import copy
from dataclasses import dataclass, field
from datetime import date, datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypedDict, Unpack

from fetcher.configuration.key import MISSING, KeyFile, Secret, checked_key
from fetcher.configuration.options import BY_FIELD, STATE_FOLDER, check_together
from fetcher.configuration.pipes import is_slow
from fetcher.configuration.values import nearest
from fetcher.core.layout import Template
from fetcher.errors import StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_Path = str | PathLike[str]
_Size = int | str
_Seconds = float | str
_When = datetime | date | str


class Given(TypedDict, total=False):
    """What `Settings` takes; everything may be left out."""

    api_key: str | Secret | None
    api_key_file: _Path | None
    api_url: str
    dest: _Path
    state_dir: _Path | None
    output: str
    concurrency: int
    connections: int
    limit_rate: _Size | None
    retries: int
    retry_delay: _Seconds
    timeout: _Seconds
    page_size: int
    min_free: _Size
    max_size: _Size | None
    since: _When | None
    until: _When | None
    match: str | list[str] | tuple[str, ...]
    source_type: str | None
    max_downloads: int | None
    originals: bool
    write_record: bool
    exec: str | None
    exec_after: str | None
    ping_url: str | None
    check_duration: str
    dry_run: bool
    interval: _Seconds
    full_every: _Seconds
    live: bool
    until_idle: bool
    json_output: bool
    quiet: bool
    verbose: int
    progress: str
    log_format: str
    log_file: _Path | None
    wait_lock: _Seconds


@dataclass(frozen=True, init=False)
class Settings:
    """Everything that a run is told. Sizes are bytes, durations seconds, times aware UTC.

    Raises UsageError for a name that does not exist and for a value that cannot be. Speaks
    as a pydantic model does and is none: the options check every value already, and a model
    costs 25 ms of CPU at each start.
    """

    model_fields: ClassVar[tuple[str, ...]] = tuple(Given.__annotations__)

    api_key: Secret | None = field(repr=False)
    api_key_file: Path | None
    api_url: str
    dest: Path
    state_dir: Path
    output: str
    concurrency: int
    connections: int
    limit_rate: int | None
    retries: int
    retry_delay: float
    timeout: float
    page_size: int
    min_free: int
    max_size: int | None
    since: datetime | None
    until: datetime | None
    match: tuple[str, ...]
    source_type: Literal["audio", "video"] | None
    max_downloads: int | None
    originals: bool
    write_record: bool
    exec: str | None
    exec_after: str | None
    ping_url: str | None
    check_duration: Literal["warn", "fail", "off"]
    dry_run: bool
    interval: float
    full_every: float
    live: bool
    until_idle: bool
    json_output: bool
    quiet: bool
    verbose: int
    progress: Literal["auto", "on", "off"]
    log_format: Literal["text", "json"]
    log_file: Path | None
    wait_lock: float

    _key_file: KeyFile | None = field(repr=False, compare=False)

    def __init__(self, **given: Unpack[Given]) -> None:
        _set(self, _read(given))
        _set(self, {"_key_file": None})

    @classmethod
    def model_validate(cls, given: Mapping[str, Any]) -> Self:
        """Return the settings that a mapping says. Raises UsageError."""
        return cls(**given)

    def model_copy(self, *, update: Mapping[str, object]) -> Self:
        """Return the same settings but for `update`, whose values are not checked."""
        other = copy(self)
        _set(other, update)
        return other

    def model_dump(self) -> dict[str, Any]:
        """Return the values by field; the key stays hidden."""
        return {name: getattr(self, name) for name in self.model_fields}

    def model_dump_json(self) -> str:
        """Return the values as JSON, without the key."""
        return json.dumps(self.model_dump(), default=_plain)

    def read_key(self) -> str:
        """Return the API key, read anew where its file has changed.

        Raises UsageError where there is none, or where it cannot be one.
        """
        if self.api_key is not None:
            return checked_key(self.api_key.get_secret_value(), "MUNSIT_API_KEY")
        if self.api_key_file is None:
            raise UsageError(MISSING)
        if self._key_file is None:
            key_file = KeyFile(self.api_key_file)
            _set(self, {"_key_file": key_file})
            return key_file.read()
        return self._key_file.read()

    def await_key(self) -> None:
        """Read a key that comes through a pipe, as soon as it does.

        For the time before a run, in which a signal ends the waiting. Raises UsageError,
        StoppedError.
        """
        if self.api_key is None and self.api_key_file and is_slow(self.api_key_file):
            self.read_key()


def _set(settings: Settings, values: Mapping[str, object]) -> None:
    """Set attributes that are frozen for everybody else."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def _read(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every field, read by its option; what is not given has its default."""
    names = Settings.model_fields
    for name in given:
        if name not in names:
            raise UsageError(f"no setting is named {name!r}{nearest(name, names)}")
    values: dict[str, Any] = {"api_key": _secret(given.get("api_key"))}
    for name, option in BY_FIELD.items():
        if name in names:
            value = option.read(given.get(name, option.default), name)
            values[name] = _absolute(value, name) if isinstance(value, Path) else value
    values["state_dir"] = values["state_dir"] or values["dest"] / STATE_FOLDER
    check_together(values, str)
    Template.parse(values["output"])
    return values


def _absolute(path: Path, name: str) -> Path:
    try:
        return path.absolute()
    except OSError as error:
        raise StorageError(f"{name}: the current folder, where {path} starts, is gone") from error


def _secret(key: object) -> Secret | None:
    """Return the key hidden; a pydantic `SecretStr` is as good as ours."""
    text = key.get_secret_value() if hasattr(key, "get_secret_value") else key
    if text is None:
        return None
    if not isinstance(text, str):
        raise UsageError("api_key is no text")
    return Secret(text)


def _plain(value: object) -> str:
    """Return what JSON has no form for as text."""
    return value.isoformat() if isinstance(value, date) else str(value)
