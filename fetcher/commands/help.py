"""Help: the overview, one page for each command, and the few lines for a bare `fetcher`.

Owns the wording around the tables of `commands` and `options` and how it is set; the same
tables make the manual and the completion.
"""

from __future__ import annotations

import os
from textwrap import wrap
from typing import TYPE_CHECKING

from fetcher.commands import COMMAND_GROUPS, COMMANDS, Command
from fetcher.configuration.kinds import quoted
from fetcher.configuration.options import GROUPS, shown_by
from fetcher.configuration.values import nearest
from fetcher.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from fetcher.commands import Environment
    from fetcher.configuration.kinds import Option

WHERE_SETTINGS = (
    "Every option may also stand in the environment (FETCHER_LIMIT_RATE=2M for --limit-rate,"
    ' switches 1 or 0, lists with commas) or in fetcher.toml (limit-rate = "2M"). The'
    " command line wins over the environment, that over the file. A switch is turned off"
    " again with --no-NAME."
)
STATUSES = (
    (0, "done"),
    (1, "some jobs could not be downloaded, or verify found damage"),
    (2, "an option, a setting or the key is missing or wrong"),
    (3, "the API refused the key"),
    (4, "the API could not be reached, or kept failing"),
    (5, "another process holds the destination"),
    (6, "local storage: full, not writable, manifest damaged"),
    (70, "a fault in fetcher itself"),
    (130, "stopped by Ctrl-C before the work was done (143: by SIGTERM)"),
)
_ALIGN_AT = 30  # where the words beside a flag begin
_NARROWEST, _WIDEST = 20, 100


def run(args: Namespace, env: Environment) -> int:
    """Show the help of the named command, or the overview."""
    if not args.words:
        env.stdout.write(overview(_columns(env)))
        return 0
    name = args.words[0]
    if name not in COMMANDS:
        raise UsageError(f"unknown command {quoted(name)}{nearest(name, COMMANDS)}")
    env.stdout.write(page(COMMANDS[name], _columns(env)))
    return 0


def brief() -> str:
    """Return the few lines for someone who typed nothing but the name."""
    return (
        "usage: fetcher COMMAND [options]\n\n"
        "  fetcher demo       see it work, no account needed\n"
        "  fetcher backfill   download every finished job\n"
        "  fetcher watch      and keep downloading\n"
        "  fetcher --help     everything else\n"
    )


def overview(columns: int = 80) -> str:
    """Return what `fetcher --help` shows: the commands by purpose, an example for each."""
    lines = ["usage: fetcher COMMAND [options]", ""]
    lines += wrap("Brings every finished denoise job home: once, whole and proven.", columns)
    for group in COMMAND_GROUPS:
        lines += ["", f"{group}:"]
        for command in COMMANDS.values():
            if command.group == group:
                lines += _entry(command.name, command.summary, columns, align_at=14)
                lines += [f"{'':14}$ {command.examples[0][0]}"]
    lines += ["", "Everywhere:"]
    lines += _entry("-h, --help", "this, or the help of a command", columns)
    lines += _entry("--version", "the version", columns)
    lines += ["", "The key is taken from MUNSIT_API_KEY, or from the file that MUNSIT_API_KEY_FILE"]
    lines += ["or --api-key-file names.", "", *wrap(WHERE_SETTINGS, columns)]
    lines += ["", "Exit status:"]
    for status, meaning in STATUSES:
        lines += _entry(str(status), meaning, columns, align_at=8)
    return _text(lines)


def page(command: Command, columns: int = 80) -> str:
    """Return the help of one command: usage, examples, its options by purpose."""
    lines = [f"usage: fetcher {synopsis(command)}", ""]
    lines += wrap(f"{command.summary[0].upper()}{command.summary[1:]}.", columns)
    lines += ["", *wrap(command.details, columns)] if command.details else []
    lines += ["", "Examples:"]
    for example, meaning in command.examples:
        lines += [f"  $ {example}", f"      {meaning}"]
    for group, options in options_by_group(command):
        lines += ["", f"{group}:"]
        for option in options:
            lines += _entry(signature(option), description(option), columns)
    if not command.bare:
        lines += ["", *wrap(WHERE_SETTINGS, columns)]
    return _text(lines)


def synopsis(command: Command) -> str:
    """Return how a command is typed, without `fetcher` before it."""
    words = f" {command.words}" if command.words else ""
    options = " [options]" if shown_by(command.name, bare=command.bare) else ""
    return f"{command.name}{words}{options}"


def options_by_group(command: Command) -> Iterator[tuple[str, list[Option]]]:
    """Yield the options that matter to a command, by purpose."""
    shown = shown_by(command.name, bare=command.bare)
    for group in GROUPS:
        options = [option for option in shown if option.group == group]
        if options:
            yield group, options


def signature(option: Option) -> str:
    """Return how an option is typed: `-d, --dest DIR`."""
    flags = f"-{option.short}, {option.flag}" if option.short else option.flag
    if option.is_switch and option.default:
        flags = f"{flags}, --no-{option.name}"
    return f"{flags} {option.kind.metavar}".strip()


def description(option: Option) -> str:
    """Return an option's help with its default."""
    default = option.default_text or ("" if option.is_switch else option.show(option.default))
    default = "on" if option.is_switch and option.default else default
    shown = f" (default: {default})" if default and option.takes_value | option.is_switch else ""
    return f"{option.help}{' (repeatable)' if option.repeatable else ''}{shown}"


def _entry(term: str, text: str, columns: int, *, align_at: int = _ALIGN_AT) -> list[str]:
    """Return a term and what it means beside it, or below it where there is no room."""
    start = align_at if columns >= align_at + 30 else 6
    lines = wrap(text, max(columns - start, 14))
    if 2 + len(term) + 2 > start:
        return [f"  {term}", *(f"{'':{start}}{line}" for line in lines)]
    return [f"  {term}".ljust(start) + lines[0], *(f"{'':{start}}{line}" for line in lines[1:])]


def _columns(env: Environment) -> int:
    """Return the width to set text in: the terminal's within bounds, 80 where there is none."""
    try:
        columns = os.get_terminal_size(env.stdout.fileno()).columns
    except (OSError, ValueError):
        columns = 80
    return min(max(columns, _NARROWEST), _WIDEST)


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
