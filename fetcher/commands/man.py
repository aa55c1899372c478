"""`fetcher man`: the manual as a man page (roff, man(7)), made from the tables of help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher import __version__
from fetcher.commands import COMMANDS
from fetcher.commands.help import (
    STATUSES,
    WHERE_SETTINGS,
    description,
    options_by_group,
    signature,
    synopsis,
)
from fetcher.configuration.options import GROUPS, OPTIONS

if TYPE_CHECKING:
    from argparse import Namespace

    from fetcher.commands import Command, Environment
    from fetcher.configuration.kinds import Option


def run(args: Namespace, env: Environment) -> int:  # noqa: ARG001 - every command gets both
    """Write the man page to stdout."""
    env.stdout.write(man_page())
    return 0


def man_page() -> str:
    """Return the page: what fetcher is for, its commands, options, files and exit statuses."""
    lines = [
        f'.TH FETCHER 1 "" "fetcher {__version__}" "User Commands"',
        ".SH NAME",
        r"fetcher \- bring every finished denoise job home, once, whole and proven",
        ".SH SYNOPSIS",
        r".B fetcher",
        r".I COMMAND",
        "[options]",
        ".SH COMMANDS",
    ]
    for command in COMMANDS.values():
        lines += _command(command)
    lines += [".SH OPTIONS", _escape(WHERE_SETTINGS)]
    for group in GROUPS:
        options = [o for o in OPTIONS if o.group == group and not o.own]
        lines += [f'.SS "{_escape(group)}"'] if options else []
        for option in options:
            lines += _option(option)
    lines += _environment()
    lines += [".SH EXIT STATUS"]
    for status, meaning in STATUSES:
        lines += [".TP", str(status), _escape(meaning)]
    return "\n".join(lines) + "\n"


def _command(command: Command) -> list[str]:
    lines = [f'.SS "fetcher {_escape(synopsis(command))}"']
    lines.append(_escape(f"{command.summary[0].upper()}{command.summary[1:]}."))
    lines += [_escape(command.details)] if command.details else []
    for _, options in options_by_group(command):
        for option in options:
            lines += _option(option) if option.own else []
    lines += [".PP", ".nf"]
    for example, meaning in command.examples:
        lines += [f"    {_escape(example)}", f"        {_escape(meaning)}"]
    return [*lines, ".fi"]


def _option(option: Option) -> list[str]:
    return [".TP", rf"\fB{_escape(signature(option))}\fR", _escape(f"{description(option)}.")]


def _environment() -> list[str]:
    return [
        ".SH ENVIRONMENT",
        ".TP",
        "MUNSIT_API_KEY",
        "The API key.",
        ".TP",
        "MUNSIT_API_KEY_FILE",
        "A file that holds it and nothing else.",
        ".TP",
        "FETCHER_...",
        "Any option, as said above.",
        ".SH FILES",
        ".TP",
        "fetcher.toml",
        "Settings: in the current folder, else in the user's configuration folder.",
        ".TP",
        "DEST/.fetcher",
        "The manifest, partial files and the lock.",
    ]


def _escape(text: str) -> str:
    """Return text that roff sets as it is: no escape, no request, no joined hyphen."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
