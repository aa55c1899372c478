"""What an option is, and the kinds of values that options take.

Joins the parsers of `values` and `targets` to the words of help texts and messages; holds
no rule of its own and names no option.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from fetcher.configuration.targets import (
    parse_api_url,
    parse_file_command,
    parse_ping_url,
    parse_run_command,
)
from fetcher.configuration.values import (
    choice,
    parse_delay,
    parse_duration,
    parse_path,
    parse_rate,
    parse_since,
    parse_size,
    parse_switch,
    parse_text,
    parse_until,
    show_seconds,
    show_size,
    show_time,
    whole,
)
from fetcher.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(NamedTuple):
    """One kind of value: how it is written, read and shown.

    `absent`: words that mean "no value" (None). `completes`: `file` or `folder` where a
    shell may complete a path. `example`: what stands in a commented settings file where
    there is no default.
    """

    metavar: str
    parse: Callable[[object], object]
    show: Callable[[object], str] = str
    choices: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    completes: str = ""
    example: str = ""


def one_of(*words: str, absent: tuple[str, ...] = ()) -> Kind:
    """Return the kind that takes one of `words`."""
    return Kind("|".join(words), choice(*words), choices=words, absent=absent, example=words[0])


def number(least: int, most: int, *, absent: tuple[str, ...] = ()) -> Kind:
    """Return the kind that takes a whole number from `least` to `most`."""
    return Kind("N", whole(least, most), absent=absent, example="100")


NOTHING = ("none",)
SWITCH = Kind("", parse_switch, lambda value: "1" if value else "0")
COUNT = Kind("", whole(0, 3))
TEMPLATE = Kind("TEMPLATE", parse_text, example="{created:%Y}/{stem}.{id}{ext}")
GLOB = Kind("GLOB", parse_text, example="lecture*")
NAME = Kind("NAME", parse_text, example="work")
FILE = Kind("FILE", parse_path, completes="file", example="~/path/to/file")
FOLDER = Kind("DIR", parse_path, completes="folder", example="~/path/to/folder")
SIZE = Kind("SIZE", parse_size, show_size)
LIMIT = Kind("SIZE", parse_size, show_size, absent=NOTHING, example="2G")
RATE = Kind("RATE", parse_rate, show_size, absent=NOTHING, example="2M")
DELAY = Kind("S", parse_delay, show_seconds)
DURATION = Kind("S", parse_duration, show_seconds)
AGE = Kind("AGE", parse_duration, show_seconds, absent=NOTHING, example="10m")
SINCE = Kind("WHEN", parse_since, show_time, absent=NOTHING, example="2025-01-31")
UNTIL = Kind("WHEN", parse_until, show_time, absent=NOTHING, example="2025-12-31")
API_URL = Kind("URL", parse_api_url)
PING_URL = Kind("URL", parse_ping_url, absent=NOTHING, example="https://health.example/id")
FILE_COMMAND = Kind("COMMAND", parse_file_command, example="play {path}")
RUN_COMMAND = Kind("COMMAND", parse_run_command, example="notify-send done")


# ---- an option ---------------------------------------------------------------------------


class Option(NamedTuple):
    """One option.

    `default` None means that nothing is set; `default_text` describes a default that hangs
    on something else. `commands`: whose help shows it (none: every command's). `own`: no
    other command takes it. `flag_only`: neither the environment nor a file can set it.
    """

    name: str
    kind: Kind
    default: object
    help: str
    short: str = ""
    default_text: str = ""
    group: str = ""
    commands: tuple[str, ...] = ()
    own: bool = False
    flag_only: bool = False
    repeatable: bool = False

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return f"--{self.name}"

    @property
    def field(self) -> str:
        """The attribute of `Settings` and of parsed arguments that holds the value."""
        # A bare `json` would read as the module of that name.
        return "json_output" if self.name == "json" else self.name.replace("-", "_")

    @property
    def environment(self) -> str:
        """The environment variable that sets it."""
        return "FETCHER_" + self.name.replace("-", "_").upper()

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off, and given without a value."""
        return self.kind is SWITCH

    @property
    def takes_value(self) -> bool:
        """Whether a value follows it on the command line."""
        return self.kind not in (SWITCH, COUNT)

    def read(self, value: object, place: str, now: datetime | None = None) -> object:
        """Return the value as fetcher works with it; an age is counted back from `now`.

        `place` names where the value stands (`--interval`, `FETCHER_INTERVAL`). Raises
        UsageError that names the place, the value and what is right.
        """
        if self.repeatable:
            items = value if isinstance(value, list | tuple) else [value]
            return tuple(self._read_one(item, place, now) for item in items)
        if value is None and self.default is None:
            return None
        return self._read_one(value, place, now)

    def _read_one(self, value: object, place: str, now: datetime | None) -> object:
        if isinstance(value, str) and value.strip().lower() in self.kind.absent:
            return None
        try:
            read = self.kind.parse(value)
        except ValueError as error:
            raise UsageError(f"{place}: {quoted(value)} {error}") from None
        return (now or datetime.now(UTC)) - read if isinstance(read, timedelta) else read

    def show(self, value: object) -> str:
        """Return the value as it would be written; "" for one that is not set."""
        if value is None:
            return ""
        if isinstance(value, tuple | list):
            return ", ".join(self.kind.show(item) for item in value)
        return self.kind.show(value)


def quoted(value: object) -> str:
    """Return a refused value for a message: printable, bounded, in quotes."""
    from fetcher.core.text import printable  # noqa: PLC0415 - only errors pay for it

    text = printable(str(value))
    return f"'{text[:77]}...'" if len(text) > 80 else f"'{text}'"
