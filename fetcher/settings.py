"""The settings of a run, as the library's users meet them: checked, frozen, without the key.

Owns the types. Names, defaults and the way each value is read are those of `options`, so a
value may be given as Python has it or as it would be typed (`limit_rate="500K"`).
"""

from __future__ import annotations

from datetime import date, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from fetcher.errors import UsageError
from fetcher.key import MISSING, KeyFile, checked_key
from fetcher.layout import Template
from fetcher.options import BY_FIELD, STATE_FOLDER, check_together
from fetcher.values import nearest

_Path = str | PathLike[str]
_Size = int | str
_Seconds = float | str
_When = datetime | date | str


class Given(TypedDict, total=False):
    """What `Settings` takes; everything may be left out."""

    api_key: str | SecretStr | None
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


class Settings(BaseModel):
    """Everything that a run is told. Sizes are bytes, durations seconds, times aware UTC.

    Raises UsageError for a name that does not exist and for a value that cannot be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    api_key: SecretStr | None = Field(repr=False)
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

    _key_file: KeyFile | None = PrivateAttr(default=None)

    def __init__(self, **given: Unpack[Given]) -> None:
        super().__init__(**given)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return every field, read by its option; what is not given has its default."""
        for name in given:
            if name not in cls.model_fields:
                raise UsageError(f"no setting is named {name!r}{nearest(name, cls.model_fields)}")
        values: dict[str, Any] = {"api_key": given.get("api_key")}
        for name, option in BY_FIELD.items():
            if name in cls.model_fields:
                value = option.read(given.get(name, option.default), name)
                values[name] = value.absolute() if isinstance(value, Path) else value
        values["state_dir"] = values["state_dir"] or values["dest"] / STATE_FOLDER
        check_together(values, str)
        Template.parse(values["output"])
        return values

    def read_key(self) -> str:
        """Return the API key, read anew where its file has changed.

        Raises UsageError where there is none, or where it cannot be one.
        """
        if self.api_key is not None:
            return checked_key(self.api_key.get_secret_value(), "MUNSIT_API_KEY")
        if self.api_key_file is None:
            raise UsageError(MISSING)
        if self._key_file is None:
            self._key_file = KeyFile(self.api_key_file)
        return self._key_file.read()
